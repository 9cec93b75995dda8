"""What is wrong outside, for the dashboard's overview: endpoints that are disabled or fail, a mail server that is away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from outbox.attention import Concern
from outbox.ledger import Conn
from service.panels.mail import LOOK
from service.panels.reads import rows

__all__ = ["concerns"]

#: So many mails in doubt are a concern, and so many endpoints are told of one by one.
MANY, MOST = 10, 20


class Troubled(NamedTuple):
    """An endpoint that is disabled, not by its owner, or whose circuit is open."""

    id: UUID
    url: str
    disabled_at: datetime | None
    disabled_reason: str | None
    failures: int
    failing_since: datetime | None


class Away(NamedTuple):
    """A mail server that could not be used."""

    name: str
    reason: str | None
    troubles: int


class Doubted(NamedTuple):
    """Mails that may have arrived, among the latest."""

    number: int
    since: datetime | None


def concerns(conn: Conn) -> Sequence[Concern]:
    """The gravest of each kind first."""
    return [*_endpoints(conn), *_servers(conn), *_uncertain(conn)]


def _endpoints(conn: Conn) -> Iterator[Concern]:
    for each in rows(conn, Troubled, _ENDPOINTS, most=MOST):
        yield _disabled(each) if each.disabled_at else _failing(each)


def _disabled(each: Troubled) -> Concern:
    return Concern(
        cause="endpoint_disabled",
        told=f"The endpoint {each.url} is disabled: {each.disabled_reason}.",
        since=each.disabled_at,
        severity="serious",
        mend="Have its receiver mended, enable it, and replay what it missed, on its page under Endpoints.",
        runbook="WebhookEndpointDisabled",
        query=None,
        subject=str(each.id),
    )


def _failing(each: Troubled) -> Concern:
    return Concern(
        cause="endpoint_failing",
        told=f"The endpoint {each.url} failed {each.failures} times in a row: one delivery at a time tries it.",
        since=each.failing_since,
        severity="notice",
        mend="Have its receiver mended; a test from its page under Endpoints tries it at once.",
        runbook="WebhookEndpointDisabled",
        query="actor:deliver_webhook state:retrying",
        subject=str(each.id),
    )


def _servers(conn: Conn) -> Iterator[Concern]:
    for each in rows(conn, Away, _SERVERS):
        yield Concern(
            cause="mail_server_away",
            told=f"The mail server {each.name} cannot be used: {each.reason}",
            since=None,
            severity="serious",
            mend="See that it runs, and SMTP_URL: user, password, TLS. Mails wait, and follow by themselves.",
            runbook="MailServerUnusable",
            query="actor:send_mail",
            subject=each.name,
        )


def _uncertain(conn: Conn) -> Iterator[Concern]:
    for each in rows(conn, Doubted, _UNCERTAIN, look=LOOK):
        if each.number >= MANY:
            yield Concern(
                cause="mails_uncertain",
                told=f"{each.number} mails of the last day may have arrived or not: the server fell silent before it replied.",
                since=each.since,
                severity="notice",
                mend="Look for their Message-ID in the log of the mail server; retry those that it does not have.",
                runbook="MailServerUnusable",
                query="actor:send_mail state:dead",
                subject=None,
            )


_ENDPOINTS = """
select e.id, e.url, e.disabled_at, e.disabled_reason, coalesce(h.failures, 0) as failures, h.failing_since
from app.endpoint e
left join app.endpoint_health h on h.endpoint_id = e.id
where e.deleted_at is null
and (not e.enabled and e.disabled_reason <> 'disabled by its owner' or e.enabled and h.probe_at is not null)
order by e.enabled, coalesce(e.disabled_at, h.failing_since)
limit %(most)s
"""

_SERVERS = """
select name, reason, troubles
from app.transport
where paused_until is not null and troubles > 0
"""

_UNCERTAIN = """
select count(*) as number, min(reply_at) as since
from (select status, reply_at from app.mail order by id desc limit %(look)s) latest
where status = 'uncertain' and reply_at > clock_timestamp() - interval '1 day'
"""
