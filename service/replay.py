"""`POST /v1/endpoints/{id}/replay`: what an endpoint missed since a time is delivered to it again."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel
from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from actors import outside, webhooks
from actors.tables import Delivery, Endpoint, Payload
from actors.webhooks.outbound import body_of
from outbox import enqueue, operate
from outbox.ledger import Ledger
from outbox.reads import Reader
from service.bodies import StrictRoute
from service.database import Db, Tasks, driver_connection
from service.endpoints import find
from service.fields import Form, Instant
from service.idempotency import AdminOnce
from service.problems import Problem
from service.tables import Event

__all__ = ["routes"]

MOST = 200

routes = APIRouter(prefix="/v1/endpoints", tags=["endpoints"], route_class=StrictRoute)


class Replay(Form):
    """From when, and until when; until now, if not given."""

    since: Instant
    until: Instant | None = None


class Replayed(BaseModel):
    """The tasks that deliver. If `next_since` is not null there is more: replay again from there."""

    endpoint_id: UUID
    task_ids: list[UUID]
    next_since: datetime | None


class Missed(NamedTuple):
    """An event that did not arrive, and its delivery if there was one."""

    event: Event
    delivery_id: UUID | None


@routes.post("/{endpoint_id}/replay", status_code=202, response_model=Replayed)
def replay_missed(
    request: Request, session: Db, _tasks: Tasks, once: AdminOnce, endpoint_id: UUID, body: Replay
) -> Response:
    """Deliver again what died on its way here, under the ids of that time, and what was never sent here. What arrived,
    or is still under way, is left alone, so replaying twice does no harm. At most 200 events a call."""
    ledger = Ledger(request.app.state.settings.outbox_schema)
    with session.begin():
        if (known := once.recall(session)) is not None:
            return known
        endpoint = find(session, endpoint_id, locked=True)
        if not endpoint.enabled:
            raise Problem("conflict", "The endpoint is disabled.")
        missed = _missed(session, endpoint, body)
        task_ids = [
            task_id
            for each in missed[:MOST]
            if (task_id := _deliver(session, ledger, endpoint, each, who=once.principal.name)) is not None
        ]
        next_since = missed[MOST].event.created_at if len(missed) > MOST else None
        return once.keep(session, 202, Replayed(endpoint_id=endpoint.id, task_ids=task_ids, next_since=next_since))


def _missed(session: Session, endpoint: Endpoint, body: Replay) -> list[Missed]:
    """The oldest first, one more than are delivered at once; none whose deliveries may be past their retention: what
    arrived then is no longer known."""
    known = func.clock_timestamp() - timedelta(days=outside.settings().webhook_days)
    query = (
        select(Event, Delivery.id)
        .outerjoin(Delivery, and_(Delivery.event_id == Event.id, Delivery.endpoint_id == endpoint.id))
        .where(Event.created_at >= body.since)
        .where(Event.created_at > known)
        .where(or_(*map(_matches, endpoint.event_types)))
        .where(or_(Delivery.id.is_(None), Delivery.status != "delivered"))
        .order_by(Event.created_at, Event.id)
        .limit(MOST + 1)
    )
    if body.until is not None:
        query = query.where(Event.created_at < body.until)
    return [Missed(event, delivery_id) for event, delivery_id in session.execute(query)]


def _matches(pattern: str) -> ColumnElement[bool]:
    if pattern == "*":
        return Event.type.is_not(None)
    prefix, wild, _ = pattern.partition("*")
    return Event.type.startswith(prefix, autoescape=True) if wild else Event.type == pattern


def _deliver(session: Session, ledger: Ledger, endpoint: Endpoint, missed: Missed, *, who: str) -> UUID | None:
    if missed.delivery_id is None:
        return _deliver_first(session, endpoint, missed.event)
    connection = driver_connection(session.connection())
    task = Reader(ledger.schema).task(connection, missed.delivery_id)
    if task is None or task.state != "dead":
        return None
    operate.retry(connection, ledger, task.id, who=who)
    return task.id


def _deliver_first(session: Session, endpoint: Endpoint, event: Event) -> UUID:
    payload = session.get(Payload, event.id) or Payload(
        event_id=event.id,
        event_type=event.type,
        body=body_of(event.type, event.content, occurred_at=event.created_at),
    )
    delivery = Delivery(id=uuid7(), endpoint=endpoint, payload=payload, event_type=event.type)
    session.add(delivery)
    enqueue(session, webhooks.deliver_webhook.message(str(delivery.id)), task_id=delivery.id)
    return delivery.id
