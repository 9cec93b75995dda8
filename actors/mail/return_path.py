"""The address that a mail's bounce comes back to: it names the mail, and proves that the name is ours."""

from __future__ import annotations

import base64
import hmac
import re
from uuid import UUID

from actors.mail.address import Address
from actors.secrets import Vault

__all__ = ["MOST_LOCAL", "mail_of", "return_path_for"]

_OWNER = "return path"
_MARK_OCTETS = 10
_TOKEN = re.compile(r"\+([0-9a-f]{32})\.([a-z2-7]{16})@")
#: What is left of the 64 characters before the @.
MOST_LOCAL = 64 - len("+") - 32 - len(".") - 16


def return_path_for(mail_id: UUID, base: Address, vault: Vault) -> Address:
    """`bounces@example.com` as `bounces+<mail id>.<mark>@example.com`; in lower case, for some servers change it."""
    return Address(f"{base.local}+{mail_id.hex}.{_mark(mail_id, vault)}", base.domain)


def mail_of(text: str, vault: Vault) -> UUID | None:
    """The mail that a return path in this text was made for; None if there is none that was made here."""
    for found in _TOKEN.finditer(text.lower()):
        mail_id = UUID(found[1])
        if hmac.compare_digest(found[2], _mark(mail_id, vault)):
            return mail_id
    return None


def _mark(mail_id: UUID, vault: Vault) -> str:
    return base64.b32encode(vault.mark(str(mail_id), owner=_OWNER)[:_MARK_OCTETS]).decode().lower()
