"""One endpoint: how it fares, and what went to it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from outbox.dashboard import Ask, NotThere, Page
from outbox.dashboard.render import queried
from service.panels import endpoints
from service.panels.reads import LIMIT, cursor_of, id_of, page_of, rows

__all__ = ["show"]


class Line(NamedTuple):
    """A delivery, and what its last attempt met. Its id is its task's."""

    id: UUID
    event_type: str
    status: str
    created_at: datetime
    attempts: int
    attempted_at: datetime | None
    phase: str | None
    status_code: int | None
    reason: str | None
    duration: timedelta | None


class Walk(NamedTuple):
    """A replay, and how far it is."""

    status: str
    since: datetime
    seen: int
    enqueued: int
    total: int | None
    who: str
    created_at: datetime


def show(ask: Ask) -> Page:
    """Its facts, a page of its deliveries, its last replays."""
    id = id_of(ask, "an endpoint")
    standing = endpoints.one(ask.conn, id)
    if standing is None:
        raise NotThere("No endpoint has this id: it never was, or it was deleted.")
    page, last = page_of(rows(ask.conn, Line, _DELIVERIES, id=id, cursor=cursor_of(ask), limit=LIMIT + 1))
    values = {
        "each": standing,
        "deliveries": page,
        "next": queried(f"/endpoints/{id}", cursor=str(last.id)) if last else None,
        "replays": rows(ask.conn, Walk, _REPLAYS, id=id),
        "now": ask.now(),
    }
    return Page("endpoint.html", standing.url, values)


_DELIVERIES = """
select id, event_type, status, created_at, attempts, attempted_at, phase, status_code, reason, duration
from app.delivery
where endpoint_id = %(id)s and id < %(cursor)s
order by id desc
limit %(limit)s
"""

_REPLAYS = """
select status, since, seen, enqueued, total, who, created_at
from app.replay
where endpoint_id = %(id)s
order by id desc
limit 5
"""
