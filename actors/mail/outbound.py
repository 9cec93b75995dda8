"""A mail on its way: sent by a task with the same id, and every reply kept as evidence."""

from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

import dramatiq
from sqlalchemy import false, func, select, update
from sqlalchemy.orm import Session

from actors import outside
from actors.database import transaction
from actors.mail.address import parse
from actors.mail.replies import Outcome, Permanent, Sent, Temporary, TransportTrouble, Uncertain
from actors.tables import Mail
from outbox import Permanent as Hopeless
from outbox import Snooze, Task, current_run, enqueue

# How long a mail waits while the server cannot be used: five seconds at first, then longer each time.
_TROUBLE = timedelta(seconds=5)
_TROUBLE_MOST = timedelta(minutes=10)
_UNCERTAIN = timedelta(minutes=15)
_MOST_COPIES = 2


class RefusedForNow(Exception):
    """The server refused the mail with a temporary reply: a failure, tried again with backoff."""


def enqueue_mail(session: Session, mail: Mail) -> Task:
    """Send the mail once the session's transaction commits: at `send_at` if it has one, never after `expires_at`."""
    return enqueue(
        session, send_mail.message(str(mail.id)), task_id=mail.id, run_at=mail.send_at, expires_at=mail.expires_at
    )


# Tried again for about four days, as RFC 5321 §4.5.4.1 asks; the time limit leaves room for the final
# dot's patience, and is shorter than the half hour after which RabbitMQ takes a message back.
@dramatiq.actor(
    queue_name="mail", max_retries=24, min_backoff=30_000, max_backoff=6 * 3_600_000, time_limit=25 * 60_000
)
def send_mail(mail_id: str) -> None:
    """One SMTP conversation. Trouble of the transport costs no attempt; a mail that may have arrived is repeated at
    most once, with the same bytes."""
    letter = _opened(UUID(mail_id))
    if letter.sent:
        return
    if letter.expired:
        raise Hopeless("the mail expired before it was sent")
    outcome = outside.transport().send(letter.body, sender=parse(letter.sender), recipient=parse(letter.recipient))
    if isinstance(outcome, Sent):
        _record(current_run().session(), UUID(mail_id), outcome)
        return
    with transaction() as session:
        history = _record(session, UUID(mail_id), outcome)
    raise _verdict(outcome, history)


class _Letter(NamedTuple):
    """A mail, read from its table before the server is spoken to."""

    body: bytes
    sender: str
    recipient: str
    sent: bool
    expired: bool


class _History(NamedTuple):
    """What a mail went through, this attempt included."""

    troubles: int
    uncertain: int


def _opened(mail_id: UUID) -> _Letter:
    expired = func.coalesce(Mail.expires_at <= func.clock_timestamp(), false())
    columns = (Mail.body, Mail.sender, Mail.recipient, Mail.status == "sent", expired)
    with transaction() as session:
        row = session.execute(select(*columns).where(Mail.id == mail_id)).one_or_none()
    if row is None:
        raise Hopeless("the mail no longer exists")
    return _Letter(*row)


def _record(session: Session, mail_id: UUID, outcome: Outcome) -> _History:
    """The reply as evidence, and what follows from it for the mail."""
    evidence = update(Mail).values(
        attempts=Mail.attempts + 1, reply=str(outcome.reply), reply_at=func.clock_timestamp()
    )
    recorded = (
        evidence.values(_consequences(outcome)).where(Mail.id == mail_id).returning(Mail.troubles, Mail.uncertain)
    )
    row = session.execute(recorded, execution_options={"synchronize_session": False}).one_or_none()
    if row is None:
        raise Hopeless("the mail no longer exists")
    return _History(*row)


def _consequences(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, Sent):
        return {"status": "sent", "sent_at": func.clock_timestamp()}
    if isinstance(outcome, Permanent):
        return {"status": "refused"}
    if isinstance(outcome, TransportTrouble):
        return {"troubles": Mail.troubles + 1}
    if isinstance(outcome, Uncertain):
        return {"status": "uncertain", "uncertain": Mail.uncertain + 1}
    return {}


def _verdict(outcome: Temporary | Permanent | TransportTrouble | Uncertain, history: _History) -> Exception:
    reason = str(outcome.reply)
    if isinstance(outcome, Permanent):
        return Hopeless(reason)
    if isinstance(outcome, Temporary):
        return RefusedForNow(reason)
    if isinstance(outcome, TransportTrouble):
        return Snooze(outcome.wait or _growing_wait(history.troubles), reason)
    if history.uncertain >= _MOST_COPIES:
        return Hopeless(f"{reason}; it may have arrived already, and is not sent a third time")
    return Snooze(_UNCERTAIN, f"{reason}; it may have arrived already")


def _growing_wait(troubles: int) -> timedelta:
    doublings = min(max(troubles - 1, 0), 10)
    return min(_TROUBLE * (1 << doublings), _TROUBLE_MOST)
