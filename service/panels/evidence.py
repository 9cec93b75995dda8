"""What is known of a task's effect in the world: the mail server's last word, the endpoint's answers."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from actors import outside
from actors.mail.server import Security
from outbox.dashboard import Evidence
from outbox.dashboard.render import exactly, span
from outbox.ledger import Conn
from outbox.reads import TaskView
from service.panels.reads import rows

__all__ = ["evidence"]

#: So many attempts are shown: the last ones.
ATTEMPTS = 20
TLS = {Security.PLAIN: "none", Security.STARTTLS: "STARTTLS, required", Security.TLS: "from the first octet"}


class Sent(NamedTuple):
    """A mail, without what it says."""

    recipient: str
    status: str
    message_id: str
    reply: str | None
    reply_at: datetime | None
    attempts: int
    copies: int


class Attempt(NamedTuple):
    """What one attempt at a delivery met, and how it could be made by hand."""

    webhook_id: UUID
    url: str
    header_names: list[str]
    number: int
    at: datetime
    outcome: str
    phase: str | None
    status_code: int | None
    reason: str | None
    excerpt: str | None
    duration: timedelta | None


def evidence(conn: Conn, task: TaskView) -> Sequence[Evidence]:
    """Of a mail, or of a webhook, and how to ask the API. Nothing in it is a secret: `$SECRET` stands for each."""
    found = {"send_mail": _mail, "deliver_webhook": _attempts}.get(task.actor, _nothing)(conn, task.id)
    return [*found, _by_api(task.id)] if found else []


def _nothing(_conn: Conn, _id: UUID) -> list[Evidence]:
    return []


def _mail(conn: Conn, id: UUID) -> list[Evidence]:
    return [_told(each) for each in rows(conn, Sent, _MAIL, id=id)]


def _told(mail: Sent) -> Evidence:
    server = outside.transport().server
    facts = [
        ("Status", mail.status),
        ("Last reply", mail.reply),
        ("At", mail.reply_at and exactly(mail.reply_at)),
        ("To", mail.recipient),
        ("Message-ID", mail.message_id),
        ("Attempts", mail.attempts),
        ("Copies that the server may have", mail.copies),
        ("Server, as it is set now", server.name),
        ("TLS, as it is set now", TLS[server.security]),
    ]
    return Evidence("The mail", facts)


def _attempts(conn: Conn, id: UUID) -> list[Evidence]:
    return [_answered(each) for each in rows(conn, Attempt, _ATTEMPTS, id=id, most=ATTEMPTS)]


def _answered(attempt: Attempt) -> Evidence:
    facts = [
        ("Outcome", attempt.outcome),
        ("HTTP status", attempt.status_code),
        ("Came as far as", attempt.phase),
        ("Reason", attempt.reason),
        ("Took", span(attempt.duration)),
        ("At", exactly(attempt.at)),
        ("Endpoint", attempt.url),
    ]
    return Evidence(f"Attempt {attempt.number}", facts, attempt.excerpt, _curl(attempt))


def _curl(attempt: Attempt) -> str:
    """The request again. Its body is the event's, which a page does not show."""
    named = {"content-type": "application/json", "webhook-id": str(attempt.webhook_id)}
    plain = "".join(f" -H {shlex.quote(f'{name}: {value}')}" for name, value in named.items())
    unsaid = ["webhook-signature", *attempt.header_names]
    secret = "".join(f' -H {shlex.quote(f"{name}: ")}"$SECRET"' for name in unsaid)
    now = ' -H "webhook-timestamp: $(date +%s)"'
    return f"curl -X POST{plain}{now}{secret} --data-binary @body.json {shlex.quote(attempt.url)}"


def _by_api(id: UUID) -> Evidence:
    where = outside.public_url() or "http://localhost:8000"
    return Evidence(
        "By the API", [], curl=f'curl -H "Authorization: Bearer $KEY" {shlex.quote(f"{where}/v1/tasks/{id}")}'
    )


_MAIL = """
select recipient, status, message_id, reply, reply_at, attempts, copies
from app.mail
where id = %(id)s
"""

_ATTEMPTS = """
select
    coalesce(d.webhook_id, d.id) as webhook_id, e.url,
    array(select jsonb_object_keys(e.headers)) as header_names, a.number, a.at, a.outcome, a.phase,
    a.status_code, a.reason, a.excerpt, a.duration
from app.delivery d
join app.endpoint e on e.id = d.endpoint_id
join app.delivery_attempt a on a.delivery_id = d.id
where d.id = %(id)s
order by a.number desc
limit %(most)s
"""
