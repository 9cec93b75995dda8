"""The way out that a mail carries: one click (RFC 8058), no account, and no address that a log or a proxy could read."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping

from actors.secrets import Unreadable, Vault

__all__ = ["PATH", "headers_for", "opened", "token_for"]

#: Below PUBLIC_URL; the token follows.
PATH = "/v1/unsubscribe/"

_OWNER = "unsubscribe"
_TOKEN = re.compile(r"[A-Za-z0-9_-]{40,1024}")


def token_for(recipient: str, stream: str, vault: Vault) -> str:
    """Sealed, not stored: it opens as long as SECRET_KEY stays, however old the mail is."""
    sealed = vault.seal(json.dumps([recipient, stream], ensure_ascii=False), owner=_OWNER)
    return base64.urlsafe_b64encode(sealed).decode().rstrip("=")


def opened(token: str, vault: Vault) -> tuple[str, str] | None:
    """Recipient and stream; None if the token was not made here."""
    if not _TOKEN.fullmatch(token):
        return None
    try:
        recipient, stream = json.loads(
            vault.open(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)), owner=_OWNER)
        )
    except (ValueError, Unreadable):
        return None
    return recipient, stream


def headers_for(link: str) -> Mapping[str, str]:
    return {"List-Unsubscribe": f"<{link}>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}
