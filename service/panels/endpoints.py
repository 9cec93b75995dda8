"""Endpoints: how each fares, the newest first. No secret, and of headers only the names."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from outbox.dashboard import Ask, Page
from outbox.dashboard.render import queried
from outbox.ledger import Conn
from service.panels.reads import LAST, LIMIT, cursor_of, page_of, rows

__all__ = ["Standing", "one", "show"]


class Standing(NamedTuple):
    """An endpoint and how it fares. `latest`: the outcomes of its last deliveries, the newest first."""

    id: UUID
    url: str
    event_types: list[str]
    description: str
    header_names: list[str]
    fifo: bool
    concurrency: int
    rate_per_second: float | None
    notify: str | None
    enabled: bool
    disabled_reason: str | None
    disabled_at: datetime | None
    missed_since: datetime | None
    created_at: datetime
    failures: int
    failing_since: datetime | None
    probe_at: datetime | None
    latest: list[str]


def show(ask: Ask) -> Page:
    """A page of them."""
    page, last = page_of(rows(ask.conn, Standing, _STANDINGS, id=None, cursor=cursor_of(ask), limit=LIMIT + 1))
    values = {"endpoints": page, "next": queried("/endpoints", cursor=str(last.id)) if last else None, "now": ask.now()}
    return Page("endpoints.html", "Endpoints", values)


def one(conn: Conn, id: UUID) -> Standing | None:
    return next(iter(rows(conn, Standing, _STANDINGS, id=id, cursor=LAST, limit=1)), None)


_STANDINGS = """
select
    e.id, e.url, e.event_types, e.description, array(select jsonb_object_keys(e.headers)) as header_names,
    e.fifo, e.concurrency, e.rate_per_second, e.notify, e.enabled, e.disabled_reason, e.disabled_at, e.missed_since,
    e.created_at, coalesce(h.failures, 0) as failures, h.failing_since, h.probe_at,
    array(
        select d.status
        from app.delivery d
        where d.endpoint_id = e.id
        order by d.id desc
        limit 10) as latest
from app.endpoint e
left join app.endpoint_health h on h.endpoint_id = e.id
where e.deleted_at is null
and e.id < %(cursor)s
and (%(id)s::uuid is null or e.id = %(id)s)
order by e.id desc
limit %(limit)s
"""
