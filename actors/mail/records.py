"""What is written of a mail while it is sent. Its row tells at any moment how often the server may have got it:
a copy is counted before its end goes out, and taken back when a reply says that it was not accepted."""

from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Executable, Result, case, exists, false, func, null, select, true, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningUpdate

from actors.database import ledger
from actors.mail.replies import Outcome, Permanent, Sent, Temporary, Uncertain
from actors.mail.suppression import note_refusal, suppressed, withheld
from actors.mail.transport_state import pause_left
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
    now = func.clock_timestamp()
    columns: tuple[Any, ...] = (
        Mail.id,
        Mail.body,
        Mail.sender,
        Mail.envelope_sender,
        Mail.recipient,
        Mail.stream,
        Mail.status,
        Mail.on_uncertain,
        Mail.copies,
        Mail.in_flight,
        func.coalesce(Mail.expires_at <= now, false()),
        now - func.coalesce(Mail.send_at, Mail.created_at),
        Mail.slot_at - now,
        pause_left(server),
    )
    row: Any = session.execute(select(*columns).where(Mail.id == mail_id)).one_or_none()
    return Letter._make((*row, suppressed(session, row.recipient, row.stream))) if row else None


def begin_copy(session: Session, letter: Letter, run_id: UUID) -> bool:
    """From the commit on, the server may have the mail. False if it is not to get it: it has had its copies, it
    expired, its recipient wants no more, or another run is sending it."""
    begun = (
        update(Mail)
        .values(copies=Mail.copies + 1, in_flight=run_id)
        .where(
            Mail.id == letter.id,
            Mail.status.not_in(("sent", "bounced")),
            Mail.copies < letter.most_copies,
            Mail.in_flight.is_(None),
            func.coalesce(Mail.expires_at > func.clock_timestamp(), true()),
            ~withheld(letter.recipient, letter.stream),
        )
        .returning(Mail.id)
    )
    return _changed(session, begun) is not None


def record(session: Session, mail_id: UUID, run_id: UUID, outcome: Outcome, *, last: bool) -> History | None:
    """The reply as evidence, and what follows from it for the mail. `last`: no other attempt comes after a failure."""
    recorded = _recorded(outcome, run_id, last=last).where(Mail.id == mail_id)
    row = _changed(session, recorded)
    if row is None:
        return None
    history = History(*row)
    if isinstance(outcome, Permanent):
        note_refusal(session, history, outcome.reply)
    return history


def record_lost(session: Session, letter: Letter, run_id: UUID, outcome: Uncertain) -> History | None:
    """The attempt that was in flight is over without a reply. None, and nothing is written, if it has one by now, or if
    this run is over itself: the flight may be that of a living one (I3)."""
    lost = _recorded(outcome, letter.in_flight, last=False).where(
        Mail.id == letter.id,
        Mail.in_flight == letter.in_flight,
        exists().where(Task.id == letter.id, Task.run_id == run_id),
    )
    row = _changed(session, lost)
    return None if row is None else History(*row)


def _recorded(outcome: Outcome, run_id: UUID | None, *, last: bool) -> ReturningUpdate[str, str, int, int]:
    return (
        update(Mail)
        .values(attempts=Mail.attempts + 1, reply=str(outcome.reply), reply_at=func.clock_timestamp(), slot_at=null())
        .values(_consequences(outcome, last=last))
        .values(_of_the_copy(outcome, run_id))
        .returning(Mail.recipient, Mail.on_uncertain, Mail.copies, Mail.troubles)
    )


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


def _consequences(outcome: Outcome, *, last: bool) -> dict[str, Any]:
    if isinstance(outcome, Sent):
        return {"status": _unless("bounced", then="sent"), "sent_at": func.clock_timestamp()}
    if isinstance(outcome, Permanent):
        return {"status": _unless("sent", "bounced", then="refused")}
    if isinstance(outcome, Uncertain):
        return {"status": _unless("sent", "bounced", then="uncertain"), "uncertain": Mail.uncertain + 1}
    if isinstance(outcome, Temporary):
        return {"status": _unless("sent", "bounced", "uncertain", then="failed" if last else "queued")}
    return {"status": _unless("sent", "bounced", "uncertain", then="queued"), "troubles": Mail.troubles + 1}


def _unless(*known: str, then: str) -> ColumnElement[str]:
    """A run that comes late, or a second copy that was refused, does not take back what is known."""
    return case((Mail.status.in_(known), Mail.status), else_=then)


def _of_the_copy(outcome: Outcome, run_id: UUID | None) -> dict[str, Any]:
    if isinstance(outcome, Sent | Uncertain):
        return {"in_flight": func.nullif(Mail.in_flight, run_id)}
    mine = Mail.in_flight == run_id
    return {
        "copies": case((mine, Mail.copies - 1), else_=Mail.copies),
        "in_flight": func.nullif(Mail.in_flight, run_id),
    }


def _changed(session: Session, statement: Executable) -> Any:
    """The one row that was changed, or None."""
    return _executed(session, statement).one_or_none()


def _executed(session: Session, statement: Executable) -> Result[Any]:
    options = {"synchronize_session": False, "schema_translate_map": {"outbox": ledger().schema}}
    return session.execute(statement, execution_options=options)
