"""`POST /v1/events`: one delivery to each endpoint subscribed to the type, in the transaction that keeps the event."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, NamedTuple
from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import AfterValidator, BaseModel
from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from actors import webhooks
from actors.webhooks import event_types
from service.bodies import RawBody, StrictRoute, slice_of
from service.database import Db, Tasks
from service.fields import ClientId, Form, Type, refused
from service.idempotency import WriterOnce
from service.problems import Problem
from service.tables import Event

__all__ = ["Published", "publish", "routes"]

routes = APIRouter(prefix="/v1/events", tags=["events"], route_class=StrictRoute)


def _theirs(event_type: str) -> str:
    try:
        return event_types.check_theirs(event_type)
    except event_types.EventTypeRefused as refusal:
        raise refused(str(refusal)) from None


class NewEvent(Form):
    """What happened. `data` is any JSON value; its bytes are kept and sent exactly as they came. Types that begin with
    `webhook.` are the service's own."""

    type: Annotated[Type, AfterValidator(_theirs)]
    data: Any
    client_id: ClientId | None = None


class EventAccepted(BaseModel):
    """The event, and one task for each delivery."""

    event_id: UUID
    task_ids: list[UUID]


_KNOWN: dict[int | str, dict[str, Any]] = {200: {"model": EventAccepted, "description": "Known by its client_id."}}


@routes.post("", status_code=202, response_model=EventAccepted, responses=_KNOWN)
def publish_event(body: NewEvent, raw: RawBody, session: Db, _tasks: Tasks, once: WriterOnce) -> Response:
    """Publish an event. With a `client_id` that came before: 200 with the event of that time, or 409 if it differs."""
    content = slice_of(raw, "data")
    with session.begin():
        if (known := once.recall(session)) is not None:
            return known
        event = publish(session, type=body.type, content=content, client_id=body.client_id)
        if event is not None:
            return once.keep(session, 202, EventAccepted(event_id=event.id, task_ids=event.task_ids))
        return once.keep(session, 200, _earlier(session, body, content))


class Published(NamedTuple):
    """An event that is kept, and the tasks that deliver it."""

    id: UUID
    task_ids: list[UUID]


def publish(session: Session, *, type: str, content: bytes, client_id: str | None = None) -> Published | None:
    """Keep the event and enqueue its deliveries; None if there is one with this client id already.

    Whoever brings the same client id at the same moment waits here for the outcome of the first.
    """
    row = insert(Event).values(id=uuid7(), type=type, content=content, client_id=client_id)
    kept = session.execute(
        row.on_conflict_do_nothing(index_elements=[Event.client_id]).returning(Event.id, Event.created_at)
    ).first()
    if kept is None:
        return None
    task_ids = _fan_out(session, kept.id, type=type, content=content, at=kept.created_at)
    return Published(kept.id, task_ids)


def _fan_out(session: Session, event_id: UUID, *, type: str, content: bytes, at: datetime) -> list[UUID]:
    deliveries = webhooks.fan_out(session, event_id=event_id, event_type=type, content=content, occurred_at=at)
    task_ids = [task.id for task in deliveries]
    if task_ids:
        session.execute(update(Event).where(Event.id == event_id).values(task_ids=task_ids))
    return task_ids


def _earlier(session: Session, body: NewEvent, content: bytes) -> EventAccepted:
    event = session.scalars(select(Event).where(Event.client_id == body.client_id)).one()
    if (event.type, event.content) != (body.type, content):
        raise Problem("conflict", "Another event has this client_id.")
    return EventAccepted(event_id=event.id, task_ids=event.task_ids)
