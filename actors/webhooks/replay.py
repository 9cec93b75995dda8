"""Deliver again what did not arrive: the same deliveries, so with the same ids and bodies."""

from datetime import UTC, datetime
from uuid import UUID

import dramatiq
from sqlalchemy import select
from sqlalchemy.orm import Session

from actors.database import driver_connection, ledger
from actors.tables import Delivery, Endpoint
from outbox import Task, TaskNotFound, WrongState, current_run, enqueue, operate

_PAGE = 100


def enqueue_replay(session: Session, endpoint: Endpoint, *, since: datetime) -> Task:
    """Retry, once the session's transaction commits, every delivery to this endpoint that was made since then, up to
    now, and has not arrived: dead ones come back, and those that wait for their next attempt are due at once."""
    if since.tzinfo is None:
        raise ValueError("the time since when must be aware")
    until = datetime.now(UTC)
    return enqueue(session, replay_deliveries.message(str(endpoint.id), since.isoformat(), until.isoformat()))


@dramatiq.actor(queue_name="default", max_retries=20, min_backoff=1_000, max_backoff=3_600_000, time_limit=5 * 60_000)
def replay_deliveries(endpoint_id: str, since: str, until: str, after: str | None = None) -> None:
    """One page; the next one is a task of its own, which exists if and only if this one is done. However often it is
    interrupted, no delivery is left out."""
    session = current_run().session()
    undelivered = (
        select(Delivery.id)
        .where(Delivery.endpoint_id == UUID(endpoint_id))
        .where(Delivery.created_at.between(datetime.fromisoformat(since), datetime.fromisoformat(until)))
        .where(Delivery.status != "delivered")
        .order_by(Delivery.id)
        .limit(_PAGE)
    )
    if after is not None:
        undelivered = undelivered.where(Delivery.id > UUID(after))
    page = session.scalars(undelivered).all()
    for delivery_id in page:
        _retry(session, delivery_id, who=f"replay of endpoint {endpoint_id}")
    if len(page) == _PAGE:
        enqueue(session, replay_deliveries.message(endpoint_id, since, until, str(page[-1])))


def _retry(session: Session, delivery_id: UUID, *, who: str) -> None:
    try:
        operate.retry(driver_connection(session), ledger(), delivery_id, who=who)
    except (WrongState, TaskNotFound):
        # It is on its way already, or its retention is over. Nothing was changed.
        pass
