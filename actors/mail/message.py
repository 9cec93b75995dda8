"""A mail as bytes, built once. Every attempt sends these bytes, so a repeat can be told from a second mail."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from email import policy
from email.headerregistry import Address as HeaderAddress
from email.message import EmailMessage, MIMEPart
from email.parser import HeaderParser
from email.utils import format_datetime
from typing import Any
from uuid import UUID

from actors.mail import headers as rules
from actors.mail.address import Address

MAX_LINE = 998
MAX_OCTETS = 20 * 1024 * 1024

_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)|\x00")
_NAMELESS = re.compile(r'[\x00-\x1f\x7f-\x9f"\\/\u2028\u2029\ud800-\udfff]')
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}/[a-z0-9][a-z0-9.+-]{0,60}")


class MessageRefused(ValueError):
    """Not a mail that can be built. The text never repeats the content."""


@dataclass(frozen=True, slots=True)
class Mailbox:
    """An address, and the name shown beside it."""

    address: Address
    name: str = ""


@dataclass(frozen=True, slots=True)
class Attachment:
    filename: str
    content_type: str
    content: bytes


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


def message_id(mail_id: UUID, domain: str) -> str:
    """The `Message-ID` of a mail: its task's id, so that logs, database and mailbox name the same thing."""
    return f"<{mail_id}@{domain}>"


def build(draft: Draft, *, mail_id: UUID, date: datetime) -> bytes:
    """The whole message with CRLF line ends: 7-bit (headers in UTF-8 only if an address needs SMTPUTF8), lines of at
    most 998 octets, no bare CR or LF, no NUL. The same arguments give the same bytes. Else MessageRefused or
    HeaderRefused."""
    international = draft.sender.address.international or draft.to.address.international
    rendering = (policy.SMTPUTF8 if international else policy.SMTP).clone(cte_type="7bit")
    mail = EmailMessage(policy=rendering)
    _write_headers(mail, draft, mail_id=mail_id, date=date)
    _write_bodies(mail, draft)
    for attachment in draft.attachments:
        _attach(mail, attachment)
    _fix_boundaries(mail, mail_id)
    return _checked(mail.as_bytes(), mail, draft)


def _write_headers(mail: EmailMessage, draft: Draft, *, mail_id: UUID, date: datetime) -> None:
    if date.tzinfo is None:
        raise ValueError("the date of a mail must be aware")
    rules.check_value(draft.subject)
    mail["From"] = _header_address(draft.sender)
    mail["To"] = _header_address(draft.to)
    mail["Subject"] = draft.subject
    mail["Date"] = format_datetime(date)
    mail["Message-ID"] = message_id(mail_id, draft.sender.address.domain)
    for name, value in (draft.headers or {}).items():
        rules.check(name, value)
        if name in mail:
            raise rules.HeaderRefused("a header is given twice")
        mail[name] = value


def _header_address(mailbox: Mailbox) -> HeaderAddress:
    rules.check_value(mailbox.name)
    return HeaderAddress(mailbox.name, mailbox.address.local, mailbox.address.domain)


def _write_bodies(mail: EmailMessage, draft: Draft) -> None:
    if draft.text is None and draft.html is None:
        raise MessageRefused("a mail needs a text or an HTML body")
    if draft.text is not None:
        mail.set_content(_body(draft.text))
    if draft.html is not None and draft.text is not None:
        mail.add_alternative(_body(draft.html), subtype="html")
    elif draft.html is not None:
        mail.set_content(_body(draft.html), subtype="html")


def _body(text: str) -> str:
    if "\x00" in text or any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        raise MessageRefused("a body holds NUL or half a character")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _attach(mail: EmailMessage, attachment: Attachment) -> None:
    if not _MEDIA_TYPE.fullmatch(attachment.content_type) or attachment.content_type.startswith("multipart/"):
        raise MessageRefused("an attachment's content type is not a media type such as application/pdf")
    if not 1 <= len(attachment.filename) <= 150 or _NAMELESS.search(attachment.filename):
        raise MessageRefused("an attachment's file name is missing, too long, or holds characters of a path")
    maintype, _, subtype = attachment.content_type.partition("/")
    # Bytes of type text or message would otherwise be sent as they are, with whatever line ends they have.
    mail.add_attachment(
        attachment.content, maintype=maintype, subtype=subtype, cte="base64", filename=attachment.filename
    )


def _fix_boundaries(mail: EmailMessage, mail_id: UUID) -> None:
    containers: list[MIMEPart] = [part for part in mail.walk() if part.is_multipart()]
    for number, part in enumerate(containers):
        part.set_boundary(f"=_{mail_id.hex}_{number}")


def _checked(raw: bytes, mail: EmailMessage, draft: Draft) -> bytes:
    if len(raw) > MAX_OCTETS:
        raise MessageRefused(f"the mail is larger than {MAX_OCTETS} octets")
    if _BARE.search(raw) or not raw.endswith(b"\r\n"):
        raise MessageRefused("the mail would hold a bare CR, a bare LF or NUL")
    if max(map(len, raw.split(b"\r\n"))) > MAX_LINE:
        raise MessageRefused(f"the mail would hold a line longer than {MAX_LINE} octets")
    _check_as_read(raw, mail, draft)
    return raw


def _check_as_read(raw: bytes, mail: EmailMessage, draft: Draft) -> None:
    """What a receiver reads is what was asked for: the library's folding of headers has had its own accidents."""
    read = HeaderParser(policy=policy.SMTPUTF8).parsestr(raw.partition(b"\r\n\r\n")[0].decode())
    same = (
        read.keys() == mail.keys()
        and _read_address(read["From"]) == str(draft.sender.address)
        and _read_address(read["To"]) == str(draft.to.address)
    )
    if not same:
        raise MessageRefused("the headers of the mail would not be read as they were written")


def _read_address(header: Any) -> str | None:
    addresses: Sequence[HeaderAddress] = header.addresses
    return addresses[0].addr_spec if len(addresses) == 1 else None
