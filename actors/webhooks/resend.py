"""An event goes to an endpoint once more: with the same body, and under the `webhook-id` that it had there before."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple
from uuid import UUID

from sqlalchemy import exists, select, update
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from actors.database import driver_connection
from actors.tables import Delivery, Endpoint
from actors.webhooks.lanes import lane_of
from actors.webhooks.outbound import deliver_webhook
from outbox import Task, enqueue
from outbox.enqueue import ledger_of
from outbox.models import dead

__all__ = ["Which", "resend"]

#: `failed`: was tried and did not arrive. `missed`: whatever did not arrive. `all`: also what did.
Which = Literal["failed", "missed", "all"]


class _Before(NamedTuple):
    """An earlier delivery of the event to the endpoint."""

    id: UUID
    webhook_id: UUID | None
    status: str
    under_way: bool
    dead: bool


def resend(session: Session, endpoint: Endpoint, events: Mapping[UUID, str], *, which: Which) -> list[UUID]:
    """The deliveries, in the session's transaction, of those of these events (id to type) that are wanted.

    One that is under way to the endpoint is left alone. A dead task is retried; else there is a new delivery. The
    caller holds the endpoint's lock: so an event that two ask for at once goes once.
    """
    before = _before(session, endpoint.id, events)
    sent = [
        _again(session, endpoint, event_id, event_type, before.get(event_id, []))
        for event_id, event_type in events.items()
        if _wanted(before.get(event_id, []), which)
    ]
    session.flush()
    return [each for each in sent if each is not None]


def _before(session: Session, endpoint_id: UUID, events: Mapping[UUID, str]) -> dict[UUID, list[_Before]]:
    """The oldest first."""
    found: dict[UUID, list[_Before]] = {}
    rows = session.execute(
        select(
            Delivery.event_id,
            Delivery.id,
            Delivery.webhook_id,
            Delivery.status,
            exists().where(Task.id == Delivery.id).label("under_way"),
            exists().where(dead.c.id == Delivery.id).label("dead"),
        )
        .where(Delivery.event_id.in_(events))
        .where(Delivery.endpoint_id == endpoint_id)
        .order_by(Delivery.created_at, Delivery.id),
        execution_options={"schema_translate_map": {"outbox": ledger_of(session).schema}},
    )
    for event_id, id, webhook_id, status, under_way, is_dead in rows:
        found.setdefault(event_id, []).append(_Before(id, webhook_id, status, under_way, is_dead))
    return found


def _wanted(before: Sequence[_Before], which: Which) -> bool:
    if any(each.under_way for each in before):
        return False
    if which == "all":
        return True
    if any(each.status == "delivered" for each in before):
        return False
    return which == "missed" or any(each.status != "missed" for each in before)


def _again(
    session: Session, endpoint: Endpoint, event_id: UUID, event_type: str, before: Sequence[_Before]
) -> UUID | None:
    if before and before[-1].dead:
        return _retried(session, before[-1].id)
    first = before[0] if before else None
    delivery = Delivery(
        id=uuid7(),
        endpoint_id=endpoint.id,
        event_id=event_id,
        event_type=event_type,
        webhook_id=(first.webhook_id or first.id) if first else None,
    )
    session.add(delivery)
    enqueue(session, deliver_webhook.message(str(delivery.id)), task_id=delivery.id, **lane_of(endpoint))
    return delivery.id


def _retried(session: Session, delivery_id: UUID) -> UUID | None:
    """None if an operator was quicker."""
    if not ledger_of(session).retry(driver_connection(session), delivery_id):
        return None
    session.execute(
        update(Delivery).where(Delivery.id == delivery_id).values(status="queued"),
        execution_options={"synchronize_session": False},
    )
    return delivery_id
