"""Mail: whether the server takes it, what became of it, and who gets none."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from outbox.dashboard import Ask, Page
from outbox.dashboard.render import queried
from service.panels.reads import LIMIT, cursor_of, page_of, rows
from service.suppressions import LIFTED_HERE

__all__ = ["LOOK", "show"]

#: So many mails are looked through for a page, and counted, the newest first: nobody counts all that were ever sent.
LOOK = 5_000
STATUSES = ("queued", "sent", "refused", "uncertain", "suppressed", "expired", "failed", "bounced")


class Server(NamedTuple):
    """A mail server that could not be used; mails wait while `paused_until` stands."""

    name: str
    paused_until: datetime | None
    reason: str | None
    troubles: int


class Facet(NamedTuple):
    """A status that can be asked for."""

    status: str
    number: int
    chosen: bool
    path: str


class Counted(NamedTuple):
    """How many of those that were looked at have this status."""

    status: str
    number: int


class Line(NamedTuple):
    """A mail, without its body. Its id is its task's."""

    id: UUID
    recipient: str
    subject: str
    status: str
    stream: str
    message_id: str
    created_at: datetime
    attempts: int
    reply: str | None
    reply_at: datetime | None


class Spared(NamedTuple):
    """An address that gets no mail of a stream, and why."""

    recipient: str
    stream: str
    reason: str
    source: str
    created_at: datetime
    expires_at: datetime | None


class Place(NamedTuple):
    """How far was looked."""

    id: UUID


def show(ask: Ask) -> Page:
    """The server, the counts, a page of mails, the newest suppressions."""
    chosen = ask.params.get("status", "")
    chosen = chosen if chosen in STATUSES else ""
    counts = {each.status: each.number for each in rows(ask.conn, Counted, _COUNTS, look=LOOK)}
    mails, following = _mails(ask, chosen)
    values = {
        "servers": rows(ask.conn, Server, _SERVERS),
        "facets": [_facet(each, counts, chosen) for each in STATUSES],
        "look": LOOK,
        "status": chosen,
        "mails": mails,
        "next": queried("/mail", status=chosen, cursor=str(following)) if following else None,
        "spared": rows(ask.conn, Spared, _SPARED),
        "lifted": LIFTED_HERE,
        "now": ask.now(),
    }
    return Page("mail.html", "Mail", values)


def _facet(status: str, counts: dict[str, int], chosen: str) -> Facet:
    path = queried("/mail", status=None if status == chosen else status)
    return Facet(status, counts.get(status, 0), status == chosen, path)


def _mails(ask: Ask, status: str) -> tuple[list[Line], UUID | None]:
    """A page, and where the next begins: behind its last row, or where no more was looked at."""
    asked = {"status": status, "cursor": cursor_of(ask), "look": LOOK}
    page, last = page_of(rows(ask.conn, Line, _MAILS, **asked, limit=LIMIT + 1))
    if last is not None or not status:
        return list(page), last.id if last else None
    looked = rows(ask.conn, Place, _LOOKED, cursor=asked["cursor"], look=LOOK - 1)
    return list(page), looked[0].id if looked else None


_SERVERS = """
select name, paused_until, reason, troubles
from app.transport
order by name
limit 20
"""

_COUNTS = """
select status, count(*) as number
from (select status from app.mail order by id desc limit %(look)s) latest
group by status
"""

_MAILS = """
select id, recipient, subject, status, stream, message_id, created_at, attempts, reply, reply_at
from (
    select id, recipient, subject, status, stream, message_id, created_at, attempts, reply, reply_at
    from app.mail
    where id < %(cursor)s
    order by id desc
    limit %(look)s) latest
where %(status)s in ('', status)
order by id desc
limit %(limit)s
"""

_LOOKED = """
select id
from app.mail
where id < %(cursor)s
order by id desc
offset %(look)s
limit 1
"""

_SPARED = """
select recipient, stream, reason, source, created_at, expires_at
from app.suppression
where expires_at is null or expires_at > clock_timestamp()
order by created_at desc
limit 50
"""
