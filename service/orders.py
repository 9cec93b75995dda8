"""`POST /v1/orders`: the order, its receipt and mail, the `order.placed` webhooks and the statistics, or nothing."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field
from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from actors import analytics, receipts
from service import events
from service.bodies import StrictRoute
from service.database import Db, Tasks
from service.fields import ClientId, Currency, Email, Form, Sku
from service.idempotency import WriterOnce
from service.problems import Problem
from service.tables import Order, OrderItem

__all__ = ["PLACED", "Item", "NewOrder", "content_of", "routes"]

PLACED = "order.placed"

routes = APIRouter(prefix="/v1/orders", tags=["orders"], route_class=StrictRoute)


class Item(Form):
    """One line of an order."""

    sku: Sku
    quantity: Annotated[int, Field(ge=1, le=1_000_000)]
    unit_price_cents: Annotated[int, Field(ge=0, le=1_000_000_000)]


class NewOrder(Form):
    """What is ordered, and where the receipt goes."""

    email: Email
    items: Annotated[list[Item], Field(min_length=1, max_length=500)]
    currency: Currency
    client_id: ClientId | None = None

    @property
    def total_cents(self) -> int:
        return sum(item.quantity * item.unit_price_cents for item in self.items)

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.model_dump_json().encode()).digest()


class Placed(BaseModel):
    """The order, and the tasks that were made: the receipt (its mail follows), the webhooks, the statistics."""

    order_id: UUID
    total_cents: int
    task_ids: list[UUID]


_KNOWN: dict[int | str, dict[str, Any]] = {200: {"model": Placed, "description": "Known by its client_id."}}


@routes.post("", status_code=201, response_model=Placed, responses=_KNOWN)
def place_order(body: NewOrder, session: Db, _tasks: Tasks, once: WriterOnce) -> Response:
    """Place an order. With a `client_id` that came before: 200 with the order of that time, or 409 if it differs."""
    with session.begin():
        if (known := once.recall(session)) is not None:
            return known
        row = _add(session, body)
        if row is None:
            return once.keep(session, 200, _earlier(session, body))
        order_id, placed_at = row
        task_ids = [
            _enqueue_receipt(session, body, order_id, placed_at),
            *_publish(session, body, order_id, placed_at),
            _enqueue_count(session, body, placed_at),
        ]
        session.execute(update(Order).where(Order.id == order_id).values(task_ids=task_ids))
        return once.keep(session, 201, Placed(order_id=order_id, total_cents=body.total_cents, task_ids=task_ids))


def _add(session: Session, body: NewOrder) -> tuple[UUID, datetime] | None:
    """The new order's id and time; None if there is one with this client id already.

    Whoever brings the same client id at the same moment waits here for the outcome of the first.
    """
    row = insert(Order).values(
        id=uuid7(),
        client_id=body.client_id,
        email=body.email,
        currency=body.currency,
        total_cents=body.total_cents,
        digest=body.digest,
    )
    placed = session.execute(
        row.on_conflict_do_nothing(index_elements=[Order.client_id]).returning(Order.id, Order.placed_at)
    ).first()
    if placed is None:
        return None
    session.add_all(
        OrderItem(order_id=placed.id, position=position, **item.model_dump())
        for position, item in enumerate(body.items)
    )
    return placed.id, placed.placed_at


def _enqueue_receipt(session: Session, body: NewOrder, order_id: UUID, placed_at: datetime) -> UUID:
    lines = [receipts.Line(item.sku, item.quantity, item.unit_price_cents) for item in body.items]
    return receipts.enqueue_receipt(
        session, order_id=order_id, email=body.email, currency=body.currency, placed_at=placed_at, lines=lines
    ).id


def _publish(session: Session, body: NewOrder, order_id: UUID, placed_at: datetime) -> list[UUID]:
    published = events.publish(session, type=PLACED, content=content_of(body, order_id=order_id, placed_at=placed_at))
    return published.task_ids if published else []


def content_of(body: NewOrder, *, order_id: UUID, placed_at: datetime) -> bytes:
    """What the endpoints are told of an order."""
    content = {
        "order_id": str(order_id),
        "placed_at": placed_at.isoformat(),
        **body.model_dump(mode="json"),
        "total_cents": body.total_cents,
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def _enqueue_count(session: Session, body: NewOrder, placed_at: datetime) -> UUID:
    return analytics.enqueue_count(session, PLACED, at=placed_at, currency=body.currency, cents=body.total_cents).id


def _earlier(session: Session, body: NewOrder) -> Placed:
    order = session.scalars(select(Order).where(Order.client_id == body.client_id)).one()
    if order.digest != body.digest:
        raise Problem("conflict", "Another order has this client_id.")
    return Placed(order_id=order.id, total_cents=order.total_cents, task_ids=order.task_ids)
