"""A mail built and stored in the caller's transaction: its bytes are fixed before the first attempt."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from actors import outside
from actors.mail.address import parse
from actors.mail.message import Attachment, Draft, Mailbox, build, message_id
from actors.tables import Mail


def prepare(
    session: Session,
    *,
    to: str,
    subject: str,
    text: str | None = None,
    html: str | None = None,
    attachments: Sequence[Attachment] = (),
    headers: Mapping[str, str] | None = None,
    send_at: datetime | None = None,
    expires_at: datetime | None = None,
) -> Mail:
    """Build a mail's bytes, once and for all attempts, and add its row to the session. `enqueue_mail` sends it.

    `mail.id` is known at once. Raises AddressRefused, HeaderRefused or MessageRefused, whose texts repeat no input.
    """
    sender, recipient = outside.sender(), Mailbox(parse(to))
    mail_id = uuid7()
    draft = Draft(sender, recipient, subject, text, html, attachments, headers)
    mail = Mail(
        id=mail_id,
        sender=str(sender.address),
        recipient=str(recipient.address),
        subject=subject,
        message_id=message_id(mail_id, sender.address.domain),
        body=build(draft, mail_id=mail_id, date=send_at or datetime.now(UTC)),
        send_at=send_at,
        expires_at=expires_at,
    )
    session.add(mail)
    return mail
