"""Suppressions: addresses that get no mail, of one stream or of any."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Select, func, or_, select, tuple_

from actors.mail.suppression import EVERY, Reason, held, key_of, lift, suppress
from actors.tables import Suppression
from service.access import Admin
from service.access import Reader as ReaderRole
from service.bodies import StrictRoute
from service.database import Db
from service.fields import Email, Form, OrEmpty
from service.idempotency import AdminOnce
from service.problems import Problem

__all__ = ["LIFTED_HERE", "routes"]

routes = APIRouter(prefix="/v1/suppressions", tags=["suppressions"], route_class=StrictRoute)

Why = Literal["hard_bounce", "complaint", "unsubscribe", "manual"]
#: A stream, or `*` for all of them.
Scope = Annotated[str, Field(max_length=32, pattern=r"^(?:[*]|[a-z][a-z0-9_\-]*)$", examples=["*", "newsletter"])]

_EPOCH, _TICK = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_LAST = (datetime(9000, 1, 1, tzinfo=UTC) - _EPOCH) // _TICK
#: What somebody else than the recipient may take back.
LIFTED_HERE = (Reason.MANUAL, Reason.HARD_BOUNCE)
_KEY = (Suppression.created_at, Suppression.recipient, Suppression.stream, Suppression.reason)


class NewSuppression(Form):
    """Who is to get no mail, of what, and for how long: for ever, if not given."""

    recipient: Email
    stream: Scope = EVERY
    days: Annotated[int, Field(ge=1, le=3650)] | None = None


class SuppressionView(BaseModel):
    """An address that gets no mail, and why."""

    model_config = ConfigDict(from_attributes=True)

    recipient: str
    stream: str
    reason: Why
    source: str
    created_at: datetime
    expires_at: datetime | None


class SuppressionPage(BaseModel):
    """A page of suppressions in force, the newest first. `next_cursor` asks for the next page; null at the end."""

    items: list[SuppressionView]
    next_cursor: str | None


class SuppressionFilter(BaseModel):
    """What to list."""

    model_config = ConfigDict(extra="forbid")

    recipient: Annotated[Email | None, OrEmpty] = None
    cursor: Annotated[
        Annotated[str, Field(min_length=12, max_length=1024, pattern="^[A-Za-z0-9_-]+$")] | None, OrEmpty
    ] = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50


class Lifted(BaseModel):
    """What is to count no more: all of an address that may be lifted, or what this narrows it to."""

    model_config = ConfigDict(extra="forbid")

    recipient: Email
    stream: Scope | None = None
    reason: Why | None = None


@routes.get("")
def list_suppressions(
    session: Db, _principal: ReaderRole, wanted: Annotated[SuppressionFilter, Query()]
) -> SuppressionPage:
    """Who gets no mail now. The newest first, a page at a time."""
    in_force = or_(Suppression.expires_at.is_(None), Suppression.expires_at > func.clock_timestamp())
    page: Select[Any] = select(Suppression).where(in_force).order_by(*(column.desc() for column in _KEY))
    if wanted.recipient is not None:
        page = page.where(Suppression.recipient == key_of(wanted.recipient))
    if wanted.cursor is not None:
        page = page.where(tuple_(*_KEY) < tuple_(*_after(wanted.cursor)))
    with session.begin():
        found = session.scalars(page.limit(wanted.limit + 1)).all()
    more = len(found) > wanted.limit
    items = [SuppressionView.model_validate(each) for each in found[: wanted.limit]]
    return SuppressionPage(items=items, next_cursor=_cursor(items[-1]) if more else None)


@routes.post("", status_code=201, response_model=SuppressionView)
def suppress_address(body: NewSuppression, session: Db, once: AdminOnce) -> Response:
    """Send no more mail to an address, not even what is queued."""
    lasting = None if body.days is None else timedelta(days=body.days)
    with session.begin():
        if (known := once.recall(session)) is not None:
            return known
        suppress(session, body.recipient, stream=body.stream, reason=Reason.MANUAL, source="api", lasting=lasting)
        made = session.scalars(held(body.recipient, stream=body.stream, reason=Reason.MANUAL)).one()
        return once.keep(session, 201, SuppressionView.model_validate(made))


@routes.delete("", status_code=204)
def lift_suppressions(session: Db, _principal: Admin, which: Annotated[Lifted, Query()]) -> None:
    """Let an address get mail again. Who complained or unsubscribed said so themselves: that is not lifted here."""
    reason = None if which.reason is None else Reason(which.reason)
    with session.begin():
        found = session.scalars(held(which.recipient, stream=which.stream, reason=reason).with_for_update()).all()
        if not found:
            raise Problem("not-found", "Nothing of this kind is kept about this address.")
        for each in found:
            if Reason(each.reason) not in LIFTED_HERE:
                raise Problem("conflict", f"A suppression for the reason {each.reason} is its recipient's own word.")
            lift(session, each.recipient, stream=each.stream, reason=Reason(each.reason))


def _cursor(last: SuppressionView) -> str:
    """Where a page ended. Whatever has this form is a place in the order, also one where nothing stands."""
    octets = ((last.created_at - _EPOCH) // _TICK).to_bytes(8, "big")
    octets += "\n".join((last.recipient, last.stream, last.reason)).encode()
    return base64.urlsafe_b64encode(octets + b" " * (-len(octets) % 3)).decode()


def _after(cursor: str) -> tuple[datetime, str, str, str]:
    octets = base64.urlsafe_b64decode(cursor[: len(cursor) // 4 * 4])
    at = _EPOCH + min(int.from_bytes(octets[:8], "big"), _LAST) * _TICK
    parts = octets[8:].decode(errors="replace").replace("\0", "").strip(" ").split("\n", 2)
    recipient, stream, reason = (*parts, "", "")[:3]
    return at, recipient, stream, reason
