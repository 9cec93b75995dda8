"""An event on its way to those who subscribed: one task a delivery, with one body for all of them."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import dramatiq
from sqlalchemy import ARRAY, Text, cast, select
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from actors import outside
from actors.database import transaction
from actors.tables import Delivery, Endpoint, Payload
from actors.webhooks import endpoints
from actors.webhooks.address import parse
from actors.webhooks.event_types import check_name, matching_patterns
from actors.webhooks.guard import AddressRefused
from actors.webhooks.lanes import lane_of
from actors.webhooks.outcomes import Delivered, Gone, Refused, Retry, judge
from actors.webhooks.record import record
from actors.webhooks.signing import sign
from outbox import Permanent, Snooze, Task, current_run, enqueue

# An endpoint may ask us to wait, again and again, but for no longer than this: then its requests count as failures.
_PATIENCE = timedelta(days=3)
TEST_EVENT = "webhook.test"


class DeliveryFailed(Exception):
    """No answer, or one that asks for another attempt: a failure, tried again with backoff."""


def fan_out(session: Session, *, event_id: UUID, event_type: str, content: bytes, occurred_at: datetime) -> list[Task]:
    """One delivery to each enabled endpoint that subscribed to the event's type, in the session's transaction.

    `content` is the event's JSON; it goes out as it is, inside `{"type", "timestamp", "data"}`. The body is kept even if
    nobody gets it now: an endpoint that comes later, or was disabled, can ask for it.
    """
    check_name(event_type)
    subscribed = (
        select(Endpoint)
        .where(Endpoint.enabled)
        .where(Endpoint.event_types.overlap(cast(matching_patterns(event_type), ARRAY(Text))))
        .order_by(Endpoint.id)
        .with_for_update(read=True, key_share=True)  # else one that is deleted now would break the event's transaction
    )
    with session.no_autoflush:
        found = session.scalars(subscribed).all()
    payload = Payload(
        event_id=event_id, event_type=event_type, body=body_of(event_type, content, occurred_at=occurred_at)
    )
    session.add(payload)
    return _deliver(session, payload, found)


def send_test(session: Session, endpoint: Endpoint) -> Task:
    """One delivery of a `webhook.test` event, whatever the endpoint subscribed to."""
    content = json.dumps({"endpoint_id": str(endpoint.id)}).encode()
    payload = Payload(
        event_id=uuid7(), event_type=TEST_EVENT, body=body_of(TEST_EVENT, content, occurred_at=datetime.now(UTC))
    )
    (task,) = _deliver(session, payload, [endpoint])
    return task


def body_of(event_type: str, content: bytes, *, occurred_at: datetime) -> bytes:
    """The body of an event's webhooks. The caller's JSON stays as it was written: numbers, spaces and order of keys."""
    timestamp = occurred_at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return b'{"type":"%b","timestamp":"%b","data":%b}' % (event_type.encode(), timestamp.encode(), content)


def _deliver(session: Session, payload: Payload, to: Iterable[Endpoint]) -> list[Task]:
    tasks = []
    for endpoint in to:
        delivery = Delivery(id=uuid7(), endpoint=endpoint, payload=payload, event_type=payload.event_type)
        session.add(delivery)
        message = deliver_webhook.message(str(delivery.id))
        tasks.append(enqueue(session, message, task_id=delivery.id, **lane_of(endpoint)))
    return tasks


# 5 s, 10 s, 20 s … up to 20 h apart, each a random part sooner: eighteen attempts over about four days.
@dramatiq.actor(
    queue_name="webhooks", max_retries=18, min_backoff=5_000, max_backoff=20 * 3_600_000, time_limit=5 * 60_000
)
def deliver_webhook(delivery_id: str) -> None:
    """One signed POST to one endpoint. What came of it is kept with the delivery, whatever it was."""
    letter = _opened(UUID(delivery_id))
    if letter is None:
        return
    try:
        url = parse(letter.url, policy=outside.policy())
    except AddressRefused as refusal:
        raise Permanent(f"the endpoint's URL is no longer permitted: {refusal}") from None
    keys = endpoints.signing_keys(letter.endpoint_id, letter.sealed)
    signature = sign(keys, webhook_id=delivery_id, at=datetime.now(UTC), body=letter.body)
    answer = outside.courier().post(url, headers={**letter.headers, **signature}, body=letter.body)
    outcome = judge(answer, now=datetime.now(UTC))
    if isinstance(outcome, Delivered):
        record(current_run().session(), UUID(delivery_id), answer, outcome)
        return
    with transaction() as session:
        if isinstance(outcome, Gone):
            endpoints.disable_gone(session, letter.endpoint_id, reason=outcome.reason)
        record(session, UUID(delivery_id), answer, outcome)
    raise _verdict(outcome, age=datetime.now(UTC) - letter.created_at)


class _Letter(NamedTuple):
    """A delivery, read from the tables before the endpoint is spoken to."""

    delivered: bool
    created_at: datetime
    body: bytes
    endpoint_id: UUID
    url: str
    headers: dict[str, str]
    enabled: bool
    disabled_reason: str | None
    sealed: list[bytes]


def _opened(delivery_id: UUID) -> _Letter | None:
    """What is to be posted, or None if it was delivered already."""
    columns = (Delivery.status == "delivered", Delivery.created_at, Payload.body, Endpoint.id, Endpoint.url)
    more = (Endpoint.headers, Endpoint.enabled, Endpoint.disabled_reason, endpoints.VALID_SECRETS)
    whole = select(*columns, *more).join(Delivery.payload).join(Delivery.endpoint).where(Delivery.id == delivery_id)
    with transaction() as session:
        row = session.execute(whole).one_or_none()
    if row is None:
        raise Permanent("the endpoint was deleted, and its deliveries with it")
    letter = _Letter(*row)
    if letter.delivered:
        return None
    if not letter.enabled:
        raise Permanent(f"the endpoint is disabled: {letter.disabled_reason}")
    return letter


def _verdict(outcome: Refused | Gone | Retry, *, age: timedelta) -> Exception:
    if not isinstance(outcome, Retry):
        return Permanent(outcome.reason)
    if outcome.wait is not None and age < _PATIENCE:
        return Snooze(outcome.wait, outcome.reason)
    return DeliveryFailed(outcome.reason)
