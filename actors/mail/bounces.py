"""What mail servers and providers tell of a mail after it was taken: bounces (RFC 3464), complaints (RFC 5965).

Anybody can send such a report. It counts only if it names the return path that we made for the mail; else it is kept
as an event, and nothing follows from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes, message_from_string
from email.message import Message
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from actors.mail.return_path import mail_of
from actors.mail.suppression import BOUNCE_LASTS, Reason, nobody_there, suppress
from actors.secrets import Vault
from actors.tables import Mail, MailEvent
from actors.text import storable

__all__ = ["Event", "Kept", "ReportRefused", "keep", "named_in", "read_report"]

_DETAIL_OCTETS = 1000
_MOST_PARTS = 50
# OpenSMTPD calls its bounces mixed; what makes them reports is in them all the same.
_REPORTS = frozenset({"multipart/report", "multipart/mixed"})
_STATUS = re.compile(r"(?<![\d.])([245][.]\d{1,3}[.]\d{1,3})(?![\d.])")
_OUR_MESSAGE_ID = re.compile(r"<([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})@[^<>@\s]+>", re.I)
# The standard library takes quadratic time over the parameters of this header.
_CONTENT_TYPE = re.compile(rb"^content-type:[^\n]*(?:\n[ \t][^\n]*)*", re.I | re.M)
_LONGEST_CONTENT_TYPE = 2000
# It looks for the end of every part that a line may be in, at every line.
_MOST_BOUNDARIES = 20
_KINDS = {"failed": "bounced", "delayed": "deferred", "delivered": "delivered", "relayed": "delivered"}


class ReportRefused(ValueError):
    """Nothing that can be read as a mail."""


@dataclass(frozen=True, slots=True)
class Event:
    """What is told of a mail. `kind` is of Anymail's vocabulary. `of`: the mail that it is proved to be about; `named`:
    the one that it says it is about."""

    kind: str
    status: str | None = None
    detail: str | None = None
    hard: bool = False
    of: UUID | None = None
    named: UUID | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """The mail that an event is about, if there is one, and whether anything could follow from it."""

    mail_id: UUID | None
    acted_upon: bool


def keep(session: Session, id: str, event: Event) -> Kept:
    """Keep an event, and do what follows from it; of one that was kept before, nothing follows again."""
    mail_id = session.scalar(select(Mail.id).where(Mail.id == (event.of or event.named)))
    row = insert(MailEvent).values(id=id, mail_id=mail_id, kind=event.kind, status=event.status, detail=event.detail)
    new = session.scalar(row.on_conflict_do_nothing().returning(MailEvent.id)) is not None
    if not new or mail_id is None or mail_id != event.of:
        return Kept(mail_id, acted_upon=False)
    _act(session, mail_id, event)
    return Kept(mail_id, acted_upon=True)


def _act(session: Session, mail_id: UUID, event: Event) -> None:
    of = session.execute(select(Mail.recipient, Mail.stream).where(Mail.id == mail_id)).one()
    if event.kind == "bounced":
        told = update(Mail).where(Mail.id == mail_id, Mail.status.in_(("queued", "sent", "uncertain")))
        session.execute(told.values(status="bounced"), execution_options={"synchronize_session": False})
        if event.hard:
            suppress(session, of.recipient, reason=Reason.HARD_BOUNCE, source="bounce", lasting=BOUNCE_LASTS)
    elif event.kind == "complained":
        suppress(session, of.recipient, reason=Reason.COMPLAINT, source="complaint")
    elif event.kind == "unsubscribed":
        suppress(session, of.recipient, stream=of.stream, reason=Reason.UNSUBSCRIBE, source="provider")


def read_report(raw: bytes, vault: Vault) -> Event:
    """The event that a mail tells of: a bounce, a complaint, or something else. Raises ReportRefused."""
    raw = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if any(len(found[0]) > _LONGEST_CONTENT_TYPE for found in _CONTENT_TYPE.finditer(raw)):
        raise ReportRefused
    if raw.lower().count(b"boundary") > _MOST_BOUNDARIES:
        raise ReportRefused
    try:
        report = message_from_bytes(raw)
        parts = list(_parts(report))
        told = _told(report, parts)
        said = [*_values(report, "To", "Delivered-To", "X-Original-To", "Envelope-To"), *_return_paths(parts)]
        of = next((found for value in said if (found := mail_of(value, vault))), None)
    except (RecursionError, LookupError, TypeError, AttributeError, ValueError):
        raise ReportRefused from None
    return Event(told.kind, told.status, told.detail, told.hard, of, _named(parts))


def _parts(message: Message) -> Iterator[Message]:
    """The parts of a report, without what is inside the mail that came back."""
    if message.get_content_type() not in _REPORTS:
        return
    for part, _ in zip(message.get_payload(), range(_MOST_PARTS), strict=False):
        if isinstance(part, Message):
            yield part


def _told(report: Message, parts: list[Message]) -> Event:
    kinds = {part.get_content_type(): part for part in reversed(parts)}
    if (status := kinds.get("message/delivery-status")) is not None:
        return _of_delivery_status(_fields(status))
    if (feedback := kinds.get("message/feedback-report")) is not None:
        return _of_feedback(_fields(feedback))
    automatic = str(report.get("Auto-Submitted", "no")).strip().lower().startswith("auto-replied")
    return Event("autoresponded" if automatic else "unknown")


def _fields(part: Message) -> list[Message]:
    """The blocks of a machine-readable part; how the standard library reads them depends on its type."""
    payload = part.get_payload()
    if isinstance(payload, str):
        return [message_from_string(payload)]
    return [block for block in payload if isinstance(block, Message)]


def _of_delivery_status(blocks: list[Message]) -> Event:
    """A mail has one recipient; a report about several tells of the one that failed."""
    recipients = [block for block in blocks if "Action" in block]
    failed = [block for block in recipients if _word(block, "Action") == "failed"]
    chosen = next(iter(failed or recipients), None)
    if chosen is None:
        return Event("unknown")
    diagnostic = _text(chosen, "Diagnostic-Code")
    status = _status(_text(chosen, "Status"), diagnostic)
    kind = _KINDS.get(_word(chosen, "Action"), "unknown")
    hard = kind == "bounced" and status is not None and nobody_there(status)
    return Event(kind, status, storable(diagnostic, octets=_DETAIL_OCTETS) or None, hard)


def _status(status: str, diagnostic: str) -> str | None:
    """`Status`, or the server's own word where that says nothing: 5.0.0."""
    found = _STATUS.match(status)
    if found is None or found[1].endswith(".0.0"):
        found = _STATUS.search(diagnostic) or found
    return found[1] if found else None


def _of_feedback(blocks: list[Message]) -> Event:
    kind = _word(blocks[0], "Feedback-Type") if blocks else ""
    names = {"abuse": "complained", "fraud": "complained", "virus": "complained", "opt-out": "unsubscribed"}
    return Event(names.get(kind, "unknown"), None, storable(kind, octets=_DETAIL_OCTETS) or None)


def _return_paths(parts: list[Message]) -> Iterator[str]:
    """The return path, as the report repeats it."""
    for part in parts:
        if part.get_content_type() == "message/feedback-report":
            for block in _fields(part):
                yield from _values(block, "Original-Mail-From")
        elif part.get_content_type() in ("message/rfc822", "text/rfc822-headers"):
            for block in _fields(part):
                yield from _values(block, "Return-Path")


def _named(parts: list[Message]) -> UUID | None:
    for part in parts:
        if part.get_content_type() in ("message/rfc822", "text/rfc822-headers"):
            for block in _fields(part):
                if found := _OUR_MESSAGE_ID.search(_text(block, "Message-ID")):
                    return UUID(found[1])
    return None


def named_in(message_id: str) -> UUID | None:
    """The mail that a `Message-ID` of ours names."""
    found = _OUR_MESSAGE_ID.fullmatch(message_id.strip())
    return UUID(found[1]) if found else None


def _values(message: Message, *names: str) -> Iterator[str]:
    return (_short(value) for name in names for value in message.get_all(name, []))


def _word(message: Message, name: str) -> str:
    words = _text(message, name).split()
    return words[0].lower() if words else ""


def _text(message: Message, name: str) -> str:
    return " ".join(_short(message.get(name, "")).split())


def _short(value: object) -> str:
    return str(value)[:2000]
