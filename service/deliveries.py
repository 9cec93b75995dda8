"""Deliveries: what went to an endpoint, what each attempt met, and one of them once more."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from sqlalchemy import Row, func, select
from sqlalchemy.orm import Session

from actors import webhooks
from actors.tables import Delivery, DeliveryAttempt, Endpoint
from actors.webhooks.outcomes import Ruling
from outbox.ledger import Ledger
from outbox.wake import wake
from service.access import Reader
from service.bodies import StrictRoute
from service.database import Db, Tasks, driver_connection
from service.endpoints import find
from service.fields import Instant, OrEmpty, Type
from service.idempotency import WriterOnce
from service.problems import Problem

__all__ = ["routes"]

routes = APIRouter(prefix="/v1", tags=["deliveries"], route_class=StrictRoute)

Status = Literal["queued", "delivered", "failing", "refused", "failed", "missed"]
#: The clock that made an id and that of the row's time may be apart by this much.
_DRIFT = timedelta(hours=1)


def _milliseconds(span: Any) -> Any:
    return round(span / timedelta(milliseconds=1), 1) if isinstance(span, timedelta) else span


Milliseconds = Annotated[float | None, BeforeValidator(_milliseconds)]


class DeliveryItem(BaseModel):
    """One event to one endpoint. Its id is its task's; `webhook_id` is what the receiver sees: one that was sent again has
    that of the first. What follows `attempted_at` tells of the last attempt."""

    model_config = ConfigDict(from_attributes=True)

    delivery_id: UUID
    webhook_id: UUID
    endpoint_id: UUID
    event_id: UUID
    event_type: str
    status: Status
    created_at: datetime
    delivered_at: datetime | None
    attempt_count: int
    attempted_at: datetime | None
    phase: str | None
    status_code: int | None
    reason: str | None
    duration_ms: Milliseconds


class Attempt(BaseModel):
    """What one attempt met: how far it came, and the beginning of what was answered."""

    model_config = ConfigDict(from_attributes=True)

    number: int
    at: datetime
    outcome: Ruling
    phase: str | None
    status_code: int | None
    reason: str | None
    excerpt: str | None
    duration_ms: Annotated[Milliseconds, Field(validation_alias="duration")]


class DeliveryDetail(DeliveryItem):
    """A delivery with its attempts, the oldest first."""

    attempts: list[Attempt]


class DeliveryPage(BaseModel):
    """A page of deliveries, the newest first. `next_cursor` asks for the next page; null at the end."""

    items: list[DeliveryItem]
    next_cursor: UUID | None


class Resent(BaseModel):
    """The delivery that is under way now, and its task."""

    delivery_id: UUID
    task_ids: list[UUID]


class DeliveryFilter(BaseModel):
    """What to list. `status` may be given several times; `since` is about the time of creation."""

    model_config = ConfigDict(extra="forbid")

    status: Annotated[list[Status] | None, OrEmpty] = None
    event_type: Annotated[Type | None, OrEmpty] = None
    since: Annotated[Instant | None, OrEmpty] = None
    cursor: Annotated[UUID | None, OrEmpty] = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50


_ITEM: tuple[Any, ...] = (
    Delivery.id.label("delivery_id"),
    func.coalesce(Delivery.webhook_id, Delivery.id).label("webhook_id"),
    Delivery.endpoint_id,
    Delivery.event_id,
    Delivery.event_type,
    Delivery.status,
    Delivery.created_at,
    Delivery.delivered_at,
    Delivery.attempts.label("attempt_count"),
    Delivery.attempted_at,
    Delivery.phase,
    Delivery.status_code,
    Delivery.reason,
    Delivery.duration.label("duration_ms"),
)


@routes.get("/endpoints/{endpoint_id}/deliveries")
def list_deliveries(
    session: Db, _principal: Reader, endpoint_id: UUID, wanted: Annotated[DeliveryFilter, Query()]
) -> DeliveryPage:
    """What went to this endpoint, or is on its way: the newest first, a page at a time."""
    query = select(*_ITEM).where(Delivery.endpoint_id == endpoint_id).order_by(Delivery.id.desc())
    if wanted.status:
        query = query.where(Delivery.status.in_(wanted.status))
    if wanted.event_type is not None:
        query = query.where(Delivery.event_type == wanted.event_type)
    if wanted.since is not None:
        query = query.where(Delivery.created_at >= wanted.since).where(Delivery.id >= _first_id_of(wanted.since))
    if wanted.cursor is not None:
        query = query.where(Delivery.id < wanted.cursor)
    with session.begin():
        find(session, endpoint_id)
        found = [DeliveryItem.model_validate(row) for row in session.execute(query.limit(wanted.limit + 1))]
    page = found[: wanted.limit]
    return DeliveryPage(items=page, next_cursor=page[-1].delivery_id if len(found) > wanted.limit else None)


@routes.get("/deliveries/{delivery_id}")
def read_delivery(session: Db, _principal: Reader, delivery_id: UUID) -> DeliveryDetail:
    """A delivery with its attempts."""
    of_it = select(DeliveryAttempt).where(DeliveryAttempt.delivery_id == delivery_id).order_by(DeliveryAttempt.number)
    with session.begin():
        item = DeliveryItem.model_validate(_found(session, delivery_id))
        attempts = [Attempt.model_validate(each) for each in session.scalars(of_it)]
    return DeliveryDetail(**item.model_dump(), attempts=attempts)


@routes.post("/deliveries/{delivery_id}/resend", status_code=202, response_model=Resent)
def resend_delivery(request: Request, session: Db, _tasks: Tasks, once: WriterOnce, delivery_id: UUID) -> Response:
    """Send it again, whatever became of it: the same bytes under the same `webhook-id`. A dead one is tried again; else
    there is a new delivery. 409 while the event is still under way to this endpoint, or the endpoint is disabled."""
    with session.begin():
        if (known := once.recall(session)) is not None:
            return known
        delivery = _found(session, delivery_id)
        endpoint = find(session, delivery.endpoint_id, locked=True)
        if not endpoint.enabled:
            raise Problem("conflict", "The endpoint is disabled.")
        sent = webhooks.resend(session, endpoint, {delivery.event_id: delivery.event_type}, which="all")
        if not sent:
            raise Problem("conflict", "This event is still under way to this endpoint: it will arrive without this.")
        ledger = Ledger(request.app.state.settings.outbox_schema)
        ledger.audit(
            driver_connection(session.connection()),
            who=once.principal.name,
            action="resend",
            subject=str(delivery_id),
            delivery=sent[0],
        )
        answer = once.keep(session, 202, Resent(delivery_id=sent[0], task_ids=sent))
    wake(session)
    return answer


def _first_id_of(since: datetime) -> UUID:
    """No row of this time or later has a smaller one; so the log is read no further."""
    return UUID(int=max(0, int((since.timestamp() - _DRIFT.total_seconds()) * 1000)) << 80)


def _found(session: Session, delivery_id: UUID) -> Row[Any]:
    query = select(*_ITEM).join(Delivery.endpoint).where(Delivery.id == delivery_id, Endpoint.deleted_at.is_(None))
    row = session.execute(query).one_or_none()
    if row is None:
        raise Problem("not-found", "No delivery has this id: it never was, or its retention is over.")
    return row
