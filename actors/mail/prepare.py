"""A mail built and stored in the caller's transaction: its bytes are fixed before the first attempt."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from actors import outside
from actors.mail import unsubscribe
from actors.mail.address import parse
from actors.mail.message import Attachment, Draft, Mailbox, MessageRefused, build, message_id
from actors.mail.return_path import return_path_for
from actors.tables import Mail

__all__ = ["STREAM", "TRANSACTIONAL", "prepare", "way_out"]

#: The stream of what somebody asked for: a code, a receipt. Every other one can be left.
TRANSACTIONAL = "transactional"
STREAM = re.compile(r"[a-z][a-z0-9_-]{0,31}")


def prepare(
    session: Session,
    *,
    to: str,
    subject: str,
    text: str | None = None,
    html: str | None = None,
    attachments: Sequence[Attachment] = (),
    headers: Mapping[str, str] | None = None,
    reply_to: str | None = None,
    stream: str = TRANSACTIONAL,
    leavable: bool = False,
    on_uncertain: Literal["resend", "hold"] = "resend",
    send_at: datetime | None = None,
    expires_at: datetime | None = None,
) -> Mail:
    """Build a mail's bytes, once and for all attempts, and add its row to the session. `enqueue_mail` sends it.

    `mail.id` is known at once. Mail of a stream other than `transactional`, or where it is `leavable`, says how to
    unsubscribe. Raises AddressRefused, HeaderRefused or MessageRefused, whose texts repeat no input.
    """
    sender, recipient, mail_id = outside.sender(), Mailbox(parse(to)), uuid7()
    further = dict(headers or {})
    if leavable or stream != TRANSACTIONAL:
        further = _with_way_out(further, str(recipient.address), stream)
    answers = Mailbox(parse(reply_to)) if reply_to is not None else None
    draft = Draft(sender, recipient, subject, text, html, attachments, further, answers)
    mail = Mail(
        id=mail_id,
        sender=str(sender.address),
        recipient=str(recipient.address),
        subject=subject,
        message_id=message_id(mail_id, sender.address.domain),
        body=_signed(build(draft, mail_id=mail_id, date=send_at or datetime.now(UTC))),
        stream=_checked(stream),
        on_uncertain=on_uncertain,
        envelope_sender=_return_path(mail_id),
        send_at=send_at,
        expires_at=expires_at,
    )
    session.add(mail)
    return mail


def way_out(recipient: str, stream: str) -> str | None:
    """The link that unsubscribes this address from this stream; None while nobody said where the API is reached."""
    url = outside.public_url()
    token = unsubscribe.token_for(recipient, stream, outside.vault())
    return None if url is None else f"{url}{unsubscribe.PATH}{token}"


def _with_way_out(headers: dict[str, str], recipient: str, stream: str) -> dict[str, str]:
    if any(name.lower() == "list-unsubscribe" for name in headers):
        return headers
    link = way_out(recipient, stream)
    if link is None:
        raise MessageRefused("a mail that people can unsubscribe from needs PUBLIC_URL, or a List-Unsubscribe header")
    return {**headers, **unsubscribe.headers_for(link)}


def _checked(stream: str) -> str:
    if not STREAM.fullmatch(stream):
        raise MessageRefused("a stream is named by a small letter and up to 31 small letters, digits, '_' and '-'")
    return stream


def _signed(raw: bytes) -> bytes:
    signer = outside.signer()
    return raw if signer is None else signer.signed(raw)


def _return_path(mail_id: UUID) -> str | None:
    base = outside.return_path()
    return None if base is None else str(return_path_for(mail_id, base, outside.vault()))
