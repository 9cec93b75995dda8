"""Mail: validated, built once, stored, and sent over SMTP with every reply judged."""

from actors.mail.address import AddressRefused
from actors.mail.headers import HeaderRefused
from actors.mail.message import Attachment, MessageRefused
from actors.mail.outbound import enqueue_mail, send_mail
from actors.mail.prepare import prepare

__all__ = [
    "AddressRefused",
    "Attachment",
    "HeaderRefused",
    "MessageRefused",
    "enqueue_mail",
    "prepare",
    "send_mail",
]
