"""What is written of a mail while it is sent. Its row tells at any moment how often the server may have got it:
a copy is counted before its end goes out, and taken back when a reply says that it was not accepted."""

from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Executable, Result, exists, func, select, text, update
from sqlalchemy.orm import Session

from actors.database import ledger
from actors.mail.replies import Outcome, Permanent, Sent, Temporary, Uncertain
from actors.mail.suppression import EVERY, key_of, note_refusal, suppressed
from actors.tables import Mail
from outbox import Task
from outbox.models import audit, dead

__all__ = [
    "History",
    "Letter",
    "allow_one_more",
    "begin_copy",
    "close",
    "close_ended",
    "open_letter",
    "record",
    "record_lost",
]


class Letter(NamedTuple):
    """A mail, as its table has it before the server is spoken to."""

    id: UUID
    body: bytes
    sender: str
    envelope_sender: str | None
    recipient: str
    stream: str
    status: str
    on_uncertain: str
    copies: int
    in_flight: UUID | None
    expired: bool
    age: timedelta
    until_slot: timedelta | None
    pause_left: timedelta | None
    suppressed: bool

    @property
    def most_copies(self) -> int:
        """How many the server may get without anybody's word: of a mail to be held, none after one in doubt."""
        return 1 if self.on_uncertain == "hold" else 2


class History(NamedTuple):
    """What a mail went through, this attempt included."""

    recipient: str
    on_uncertain: str
    copies: int
    troubles: int


def open_letter(session: Session, mail_id: UUID, *, server: str) -> Letter | None:
    row = session.execute(_OPEN, {"id": mail_id, "server": server}).one_or_none()
    return Letter._make((*row, suppressed(session, row.recipient, row.stream))) if row else None


def begin_copy(session: Session, letter: Letter, run_id: UUID) -> bool:
    """From the commit on, the server may have the mail. False if it is not to get it: it has had its copies, it
    expired, its recipient wants no more, or another run is sending it."""
    told = {
        "id": letter.id,
        "run_id": run_id,
        "most": letter.most_copies,
        "recipient": key_of(letter.recipient),
        "streams": [letter.stream, EVERY],
    }
    return session.execute(_BEGIN_COPY, told).one_or_none() is not None


def record(session: Session, mail_id: UUID, run_id: UUID, outcome: Outcome, *, last: bool) -> History | None:
    """The reply as evidence, and what follows from it for the mail. `last`: no other attempt comes after a failure."""
    history = _record(session, mail_id, run_id, outcome, last=last)
    if history is not None and isinstance(outcome, Permanent):
        note_refusal(session, history, outcome.reply)
    return history


def record_lost(session: Session, letter: Letter, run_id: UUID, outcome: Uncertain) -> History | None:
    """The attempt that was in flight is over without a reply. None, and nothing is written, if it has one by now, or if
    this run is over itself: the flight may be that of a living one (I3)."""
    lost = (
        select(Mail.id)
        .where(
            Mail.id == letter.id,
            Mail.in_flight == letter.in_flight,
            exists().where(Task.id == letter.id, Task.run_id == run_id),
        )
        .with_for_update(of=Mail)
    )
    if _changed(session, lost) is None:
        return None
    return _record(session, letter.id, letter.in_flight, outcome, last=False)


def _record(session: Session, mail_id: UUID, flight: UUID | None, outcome: Outcome, *, last: bool) -> History | None:
    status, known = _consequence(outcome, last=last)
    told = {
        "id": mail_id,
        "flight": flight,
        "reply": str(outcome.reply),
        "status": status,
        "known": known,
        "sent": isinstance(outcome, Sent),
        "doubts": int(isinstance(outcome, Uncertain)),
        "troubles": int(not isinstance(outcome, Sent | Permanent | Uncertain | Temporary)),
        "taken_back": not isinstance(outcome, Sent | Uncertain),
    }
    row = session.execute(_RECORD, told).one_or_none()
    return None if row is None else History(*row)


def close(session: Session, letter: Letter, status: str) -> None:
    """It will not be sent. What may have arrived already stays in doubt."""
    _changed(
        session, update(Mail).values(status=status).where(Mail.id == letter.id, Mail.copies == 0).returning(Mail.id)
    )


def close_ended(session: Session) -> dict[str, int]:
    """What the task of a mail became where no attempt could say so: dead by crashes, expired before it started, ended
    while the server may have had it."""
    waits, unfinished = Mail.status == "queued", exists().where(Task.id == Mail.id)
    unsent = Mail.copies == 0
    in_doubt = update(Mail).values(status="uncertain", in_flight=None).where(waits, ~unsent, ~unfinished)
    over = {
        "failed": update(Mail).values(status="failed").where(waits, unsent, Mail.id == dead.c.id, ~unfinished),
        "expired": update(Mail)
        .values(status="expired")
        .where(waits, unsent, Mail.expires_at < func.now(), ~unfinished),
        "uncertain": in_doubt,
    }
    return {status: len(_executed(session, closed.returning(Mail.id)).all()) for status, closed in over.items()}


def allow_one_more(session: Session, letter: Letter) -> bool:
    """If an operator had it tried again since its last attempt: as if its last copy had been counted by nobody. One word
    allows one copy, whoever else heard it."""
    asked = exists().where(audit.c.subject == str(letter.id), audit.c.action == "retry", audit.c.at > Mail.reply_at)
    allowed = update(Mail).values(copies=letter.most_copies - 1)
    unmoved = (Mail.copies == letter.copies, Mail.in_flight.is_(None))
    return _changed(session, allowed.where(Mail.id == letter.id, *unmoved, asked).returning(Mail.id)) is not None


def _consequence(outcome: Outcome, *, last: bool) -> tuple[str, list[str]]:
    """The status that follows, and those that it does not replace: a run that comes late, or a second copy that was
    refused, does not take back what is known."""
    if isinstance(outcome, Sent):
        return "sent", ["bounced"]
    if isinstance(outcome, Permanent):
        return "refused", ["sent", "bounced"]
    if isinstance(outcome, Uncertain):
        return "uncertain", ["sent", "bounced"]
    return "failed" if last and isinstance(outcome, Temporary) else "queued", ["sent", "bounced", "uncertain"]


def _changed(session: Session, statement: Executable) -> Any:
    """The one row that was changed, or None."""
    return _executed(session, statement).one_or_none()


def _executed(session: Session, statement: Executable) -> Result[Any]:
    options = {"synchronize_session": False, "schema_translate_map": {"outbox": ledger().schema}}
    return session.execute(statement, execution_options=options)


# Whole, and not put together for each mail: that took a third of a mail's time.
_OPEN = text("""
select
    m.id, m.body, m.sender, m.envelope_sender, m.recipient, m.stream, m.status, m.on_uncertain, m.copies, m.in_flight,
    coalesce(m.expires_at <= clock_timestamp(), false) as expired,
    clock_timestamp() - coalesce(m.send_at, m.created_at) as age,
    m.slot_at - clock_timestamp() as until_slot,
    (select t.paused_until - clock_timestamp() from app.transport t where t.name = :server) as pause_left
from app.mail m
where m.id = :id
""")

_BEGIN_COPY = text("""
update app.mail m
set copies = m.copies + 1, in_flight = :run_id
where m.id = :id
and m.status not in ('sent', 'bounced')
and m.copies < :most
and m.in_flight is null
and coalesce(m.expires_at > clock_timestamp(), true)
and not exists (
    select
    from app.suppression s
    where s.recipient = :recipient
    and s.stream = any(:streams)
    and (s.expires_at is null or s.expires_at > clock_timestamp()))
returning m.id
""")

_RECORD = text("""
update app.mail m
set attempts = m.attempts + 1, reply = :reply, reply_at = clock_timestamp(), slot_at = null,
    status = case when m.status = any(:known) then m.status else :status end,
    sent_at = case when :sent then clock_timestamp() else m.sent_at end,
    uncertain = m.uncertain + :doubts,
    troubles = m.troubles + :troubles,
    copies = m.copies - case when :taken_back and m.in_flight = :flight then 1 else 0 end,
    in_flight = nullif(m.in_flight, :flight)
where m.id = :id
returning m.recipient, m.on_uncertain, m.copies, m.troubles
""")
