"""What arrives at an endpoint, verified by the receivers that others run: raw body and headers, as the socket got them."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID, uuid4

import pytest
import standardwebhooks
import svix.webhooks
from actor_bench import Bench
from awaiting import await_that
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from far_http import endpoint, headers_of, read_request, status

from actors import webhooks
from actors.tables import Endpoint
from actors.webhooks.outbound import DeliveryFailed

pytestmark = pytest.mark.usefixtures("configured")
CONTENT = '{"b": 1, "a": 1.0, "name": "Жук\\u0000", "big": 12345678901234567890}'.encode()
AT = datetime(2026, 11, 22, 12, 30, tzinfo=UTC)
RECEIVERS: list[Callable[[str], Any]] = [standardwebhooks.Webhook, svix.webhooks.Webhook]


class Arrivals:
    """An endpoint that refuses as often as it is told, and keeps each request as it came."""

    def __init__(self, *, refusals: int = 0) -> None:
        self.requests: list[bytes] = []
        self.refusals = refusals

    def __call__(self, stream: socket.socket) -> None:
        self.requests.append(read_request(stream))
        stream.sendall(status(503 if len(self.requests) <= self.refusals else 200))

    def headers(self, number: int) -> dict[str, str]:
        return headers_of(self.requests[number])

    def body(self, number: int) -> bytes:
        return self.requests[number].partition(b"\r\n\r\n")[2]


def subscribed(bench: Bench, port: int, *, signature: Literal["v1", "v1a"] = "v1") -> tuple[UUID, str]:
    url = f"http://127.0.0.1:{port}/hook"
    with bench.session() as session, session.begin():
        made, secret = webhooks.create_endpoint(session, url=url, event_types=["*"], signature=signature)
        return made.id, secret


def published(bench: Bench) -> UUID:
    with bench.session() as session, session.begin():
        (task,) = webhooks.fan_out(session, event_id=uuid4(), event_type="a.b", content=CONTENT, occurred_at=AT)
    return task.id


@pytest.mark.parametrize("receiver", RECEIVERS)
def test_official_receivers_accept_what_arrives_and_nothing_else(bench: Bench, receiver: Callable[[str], Any]) -> None:
    arrivals = Arrivals()
    with endpoint(arrivals) as far:
        _, secret = subscribed(bench, far.port)
        bench.perform(published(bench))
    headers, body = arrivals.headers(0), arrivals.body(0)
    receiver(secret).verify(body, headers)
    assert json.loads(body)["data"] == {"b": 1, "a": 1.0, "name": "Жук\x00", "big": 12345678901234567890}
    later = str(int(headers["webhook-timestamp"]) + 1)
    for wrong_headers, wrong_body in (
        (headers, body + b"\n"),
        ({**headers, "webhook-id": str(uuid4())}, body),
        ({**headers, "webhook-timestamp": later}, body),
    ):
        with pytest.raises(Exception, match="No matching signature"):
            receiver(secret).verify(wrong_body, wrong_headers)


def test_an_ed25519_signature_on_what_arrives_verifies_with_the_public_key_alone(bench: Bench) -> None:
    arrivals = Arrivals()
    with endpoint(arrivals) as far:
        _, public = subscribed(bench, far.port, signature="v1a")
        bench.perform(published(bench))
    headers, body = arrivals.headers(0), arrivals.body(0)
    version, _, signature = headers["webhook-signature"].partition(",")
    assert version == "v1a"
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public.removeprefix("whpk_"), validate=True))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key.verify(base64.b64decode(signature, validate=True), signed)
    with pytest.raises(InvalidSignature):
        key.verify(base64.b64decode(signature), signed + b" ")


@pytest.mark.parametrize("receiver", RECEIVERS)
def test_after_a_rotation_what_arrives_verifies_with_the_old_and_with_the_new_secret(
    bench: Bench, receiver: Callable[[str], Any]
) -> None:
    arrivals = Arrivals()
    with endpoint(arrivals) as far:
        endpoint_id, old = subscribed(bench, far.port)
        with bench.session() as session, session.begin():
            new = webhooks.rotate_secret(session, session.get_one(Endpoint, endpoint_id))
        bench.perform(published(bench))
    for secret in (old, new):
        receiver(secret).verify(arrivals.body(0), arrivals.headers(0))


def test_each_attempt_has_a_timestamp_of_its_own_with_the_same_id_and_the_same_body(bench: Bench) -> None:
    arrivals = Arrivals(refusals=1)
    with endpoint(arrivals) as far:
        _, secret = subscribed(bench, far.port)
        delivery_id = published(bench)
        with pytest.raises(DeliveryFailed):
            bench.perform(delivery_id)
        first = int(arrivals.headers(0)["webhook-timestamp"])
        await_that(lambda: int(time.time()) > first)
        bench.perform(delivery_id, attempt=2)
    assert int(arrivals.headers(1)["webhook-timestamp"]) > first
    assert arrivals.headers(0)["webhook-id"] == arrivals.headers(1)["webhook-id"] == str(delivery_id)
    assert arrivals.body(0) == arrivals.body(1)
    assert CONTENT in arrivals.body(0)
    assert arrivals.headers(0)["webhook-signature"] != arrivals.headers(1)["webhook-signature"]
    for number in (0, 1):
        standardwebhooks.Webhook(secret).verify(arrivals.body(number), arrivals.headers(number))
