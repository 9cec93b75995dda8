"""A mail as bytes, built once. Every attempt sends these bytes, so a repeat can be told from a second mail.

Written out by hand: the standard library's EmailMessage takes milliseconds of the request that sends the mail, decodes
what looks encoded in the values that it is given, and folds them in ways that have lost quotes and added addresses.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from uuid import UUID

from actors.mail.address import Address
from actors.mail.headers import HeaderRefused, check_name, written_header, written_mailbox
from actors.mail.parts import Attachment, MessageRefused, attached, mixed, written

__all__ = ["MAX_LINE", "MAX_OCTETS", "Attachment", "Draft", "Mailbox", "MessageRefused", "build", "message_id"]

MAX_LINE = 998
MAX_OCTETS = 20 * 1024 * 1024

_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)|\x00")


@dataclass(frozen=True, slots=True)
class Mailbox:
    """An address, and the name shown beside it."""

    address: Address
    name: str = ""


@dataclass(frozen=True, slots=True)
class Draft:
    """What a mail says. At least one of `text` and `html`; `headers` beyond those that every mail has."""

    sender: Mailbox
    to: Mailbox
    subject: str
    text: str | None = None
    html: str | None = None
    attachments: Sequence[Attachment] = ()
    headers: Mapping[str, str] | None = None
    reply_to: Mailbox | None = None


def message_id(mail_id: UUID, domain: str) -> str:
    """The `Message-ID` of a mail: its task's id, so that logs, database and mailbox name the same thing."""
    return f"<{mail_id}@{domain}>"


def build(draft: Draft, *, mail_id: UUID, date: datetime) -> bytes:
    """The whole message with CRLF line ends: 7-bit (headers in UTF-8 only if an address needs SMTPUTF8), lines of at
    most 998 octets, no bare CR or LF, no NUL. The same arguments give the same bytes. Else MessageRefused or
    HeaderRefused."""
    head = "".join(_head(draft, mail_id=mail_id, date=date))
    content = mixed(
        written(draft.text, draft.html, boundary=f"=_{mail_id.hex}_alternative"),
        [attached(attachment) for attachment in draft.attachments],
        boundary=f"=_{mail_id.hex}_mixed",
    )
    return _checked(head.encode() + content.raw())


def _head(draft: Draft, *, mail_id: UUID, date: datetime) -> list[str]:
    if date.tzinfo is None:
        raise ValueError("the date of a mail must be aware")
    answers = draft.reply_to
    return [
        written_mailbox("From", draft.sender.name, str(draft.sender.address)),
        written_mailbox("To", draft.to.name, str(draft.to.address)),
        *([written_mailbox("Reply-To", answers.name, str(answers.address))] if answers is not None else []),
        written_header("Subject", draft.subject),
        f"Date: {format_datetime(date)}\r\n",
        f"Message-ID: {message_id(mail_id, draft.sender.address.domain)}\r\n",
        *_further(draft.headers or {}),
        "MIME-Version: 1.0\r\n",
    ]


def _further(headers: Mapping[str, str]) -> list[str]:
    seen = {"subject"}
    for name in headers:
        check_name(name)
        if name.lower() in seen:
            raise HeaderRefused("a header is given twice")
        seen.add(name.lower())
    return [written_header(name, value) for name, value in headers.items()]


def _checked(raw: bytes) -> bytes:
    if len(raw) > MAX_OCTETS:
        raise MessageRefused(f"the mail is larger than {MAX_OCTETS} octets")
    if _BARE.search(raw) or not raw.endswith(b"\r\n"):
        raise MessageRefused("the mail would hold a bare CR, a bare LF or NUL")
    if max(map(len, raw.split(b"\r\n"))) > MAX_LINE:
        raise MessageRefused(f"the mail would hold a line longer than {MAX_LINE} octets")
    return raw
