"""The webhooks as the document describes them: what is sent to an endpoint, how to tell that it is ours, what its answer does.

None of these routes is served: they are the `webhooks` of the OpenAPI document.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

from fastapi import APIRouter, Header
from pydantic import BaseModel

from actors.webhooks.notices import DISABLED_EVENT
from actors.webhooks.outbound import TEST_EVENT, body_of
from actors.webhooks.signing import parse_secret, sign
from service import examples
from service.fields import Currency, Email, Type
from service.openapi import operation_id
from service.orders import PLACED, Item, NewOrder, content_of

__all__ = ["SENT", "Sent", "routes"]

routes = APIRouter(tags=["webhooks"], generate_unique_id_function=operation_id)

_AT = datetime(2026, 11, 25, 8, 0, 0, 120_000, tzinfo=UTC)
_IDS = [UUID(f"0198c4a0-{part}-7f68-8d12-64be0a3c1f66") for part in ("5e07", "6a9d", "7c31", "8f52")]


class Sent(NamedTuple):
    """An example of one delivery: its headers, and the bytes that they sign."""

    headers: dict[str, str]
    body: bytes


def _sent(webhook_id: UUID, type: str, content: bytes) -> Sent:
    body = body_of(type, content, occurred_at=_AT)
    return Sent(sign([parse_secret(examples.SECRET)], webhook_id=str(webhook_id), at=_AT, body=body), body)


_order = NewOrder.model_validate(examples.REQUESTS["place_order"][0].value)
_disabled = {
    "endpoint_id": examples.ENDPOINT,
    "reason": "HTTP 410: the endpoint is gone for good and gets disabled",
    "disabled_at": _AT.isoformat(),
}
_event = examples.REQUESTS["publish_event"][0].value

#: By the name of the webhook; made by the code that makes the real ones.
SENT = {
    PLACED: _sent(_IDS[0], PLACED, content_of(_order, order_id=UUID(examples.ORDER), placed_at=_AT)),
    TEST_EVENT: _sent(_IDS[1], TEST_EVENT, json.dumps({"endpoint_id": examples.ENDPOINT}).encode()),
    DISABLED_EVENT: _sent(_IDS[3], DISABLED_EVENT, json.dumps(_disabled).encode()),
    "event": _sent(_IDS[2], _event["type"], json.dumps(_event["data"], separators=(",", ":")).encode()),
}


class OrderPlacedData(BaseModel):
    """The order, as it was placed."""

    order_id: UUID
    placed_at: datetime
    email: Email
    items: list[Item]
    currency: Currency
    client_id: str | None
    total_cents: int


class OrderPlaced(BaseModel):
    """Somebody placed an order."""

    type: Literal["order.placed"]
    timestamp: datetime
    data: OrderPlacedData


class TestData(BaseModel):
    """Whose deliveries are tried."""

    endpoint_id: UUID


class WebhookTest(BaseModel):
    """Somebody tries whether deliveries arrive."""

    type: Literal["webhook.test"]
    timestamp: datetime
    data: TestData


class DisabledData(BaseModel):
    """Which endpoint, since when, and why."""

    endpoint_id: UUID
    reason: str
    disabled_at: datetime


class EndpointDisabled(BaseModel):
    """An endpoint gets nothing more."""

    type: Literal["webhook.endpoint_disabled"]
    timestamp: datetime
    data: DisabledData


class AnyEvent(BaseModel):
    """What was published with `POST /v1/events`; `data` byte for byte as it came."""

    type: Type
    timestamp: datetime
    data: Any


Id = Annotated[
    str,
    Header(
        alias="webhook-id",
        pattern="^[A-Za-z0-9_-]{1,256}$",
        description="Names this delivery; every attempt has the same. Do nothing twice for one id.",
        examples=[SENT[PLACED].headers["webhook-id"]],
    ),
]
Timestamp = Annotated[
    str,
    Header(
        alias="webhook-timestamp",
        pattern="^[0-9]+$",
        description="When this attempt was made, in seconds since 1970. Refuse what is older than five minutes.",
        examples=[SENT[PLACED].headers["webhook-timestamp"]],
    ),
]
Signature = Annotated[
    str,
    Header(
        alias="webhook-signature",
        description="One signature for each secret in force, with a space between: `v1,` and the base64 of the HMAC-SHA256 "
        "of `{webhook-id}.{webhook-timestamp}.{body}`, keyed with the octets of the secret after `whsec_`. One that is "
        "right is enough. Verify the body's bytes before anything reads them; any library of Standard Webhooks does it.",
        examples=[SENT[PLACED].headers["webhook-signature"]],
    ),
]

_ANSWERS: dict[int | str, dict[str, Any]] = {
    "2XX": {"description": "It arrived, and is not sent again."},
    "410": {"description": "Nothing more is wanted: the endpoint is disabled."},
    "429": {
        "description": "Later: the next attempt waits for as long as `Retry-After` says, at most a day.",
        "headers": {
            "Retry-After": {
                "description": "Seconds, or an HTTP date.",
                "schema": {"type": "string", "examples": ["120"]},
            }
        },
    },
    "default": {
        "description": "408, 425 and 5xx, and no answer at all: tried again, for about four days. Everything else, "
        "redirects included: given up, and the task is dead until somebody retries it or replays it."
    },
}


def _documented(name: str) -> dict[str, Any]:
    example = {"summary": "As it is sent, byte for byte but for spaces", "value": json.loads(SENT[name].body)}
    content = {"application/json": {"examples": {"sent": example}}}
    return {"responses": _ANSWERS, "openapi_extra": {"requestBody": {"content": content}}}


@routes.post(PLACED, **_documented(PLACED))
def order_placed(body: OrderPlaced, id: Id, timestamp: Timestamp, signature: Signature) -> None:
    """Somebody placed an order. Sent to each endpoint that subscribed to `order.placed`, `order.*` or `*`."""


@routes.post(TEST_EVENT, **_documented(TEST_EVENT))
def webhook_test(body: WebhookTest, id: Id, timestamp: Timestamp, signature: Signature) -> None:
    """Somebody tries an endpoint. Sent by `POST /v1/endpoints/{endpoint_id}/test`, whatever the endpoint subscribed to."""


@routes.post(DISABLED_EVENT, **_documented(DISABLED_EVENT))
def endpoint_disabled(body: EndpointDisabled, id: Id, timestamp: Timestamp, signature: Signature) -> None:
    """An endpoint was disabled for what it answered, or because it had failed for too long. Sent to each endpoint that
    subscribed to `webhook.endpoint_disabled` or `webhook.*`."""


@routes.post("event", **_documented("event"))
def any_event(body: AnyEvent, id: Id, timestamp: Timestamp, signature: Signature) -> None:
    """What somebody published with `POST /v1/events`. Sent to each endpoint that subscribed to its type, to `*`, or to a
    pattern that it fits."""
