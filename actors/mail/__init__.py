"""Mail: validated, built once, stored, and sent over SMTP with every reply judged."""

from actors.mail.address import AddressRefused
from actors.mail.headers import HeaderRefused
from actors.mail.message import Attachment, MessageRefused
from actors.mail.outbound import enqueue_mail, send_mail
from actors.mail.prepare import TRANSACTIONAL, prepare, way_out
from actors.mail.render import Letter, TemplateRefused, fill, letter

__all__ = [
    "TRANSACTIONAL",
    "AddressRefused",
    "Attachment",
    "HeaderRefused",
    "Letter",
    "MessageRefused",
    "TemplateRefused",
    "enqueue_mail",
    "fill",
    "letter",
    "prepare",
    "send_mail",
    "way_out",
]
