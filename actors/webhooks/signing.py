"""Signatures by Standard Webhooks 1.0, over the stored bytes of a body.

Symmetric keys (`whsec_`) sign with HMAC-SHA256 as `v1`, ed25519 key pairs (`whsk_`) as `v1a`. Every key that is
valid at the time of an attempt signs it, so a rotation needs no agreement on the moment of the change.
"""

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_OCTETS = 32
_ID = re.compile(r"[A-Za-z0-9_-]{1,256}")


class SecretRefused(ValueError):
    """Not a usable signing secret. The text never contains the secret."""


class SigningKey(Protocol):
    def signature(self, signed: bytes) -> str:
        """One entry of the `webhook-signature` header."""


@dataclass(frozen=True, slots=True)
class SymmetricKey:
    key: bytes = field(repr=False)

    def signature(self, signed: bytes) -> str:
        return f"v1,{_base64(hmac.new(self.key, signed, hashlib.sha256).digest())}"


@dataclass(frozen=True, slots=True)
class AsymmetricKey:
    key: Ed25519PrivateKey = field(repr=False)

    def signature(self, signed: bytes) -> str:
        return f"v1a,{_base64(self.key.sign(signed))}"

    @property
    def public(self) -> str:
        """What a receiver needs to verify: `whpk_` and the base64 of 32 octets."""
        return f"whpk_{_base64(self.key.public_key().public_bytes_raw())}"


def generate_secret() -> str:
    """A new symmetric secret, `whsec_…`, of 32 random octets."""
    return f"whsec_{_base64(secrets.token_bytes(KEY_OCTETS))}"


def generate_key_pair() -> str:
    """A new ed25519 secret, `whsk_…`: the base64 of seed and public key."""
    key = Ed25519PrivateKey.generate()
    return f"whsk_{_base64(key.private_bytes_raw() + key.public_key().public_bytes_raw())}"


def parse_secret(text: str) -> SymmetricKey | AsymmetricKey:
    """The key in a `whsec_` (24 to 64 octets) or `whsk_` secret of canonical base64, or SecretRefused."""
    prefix, _, encoded = text.partition("_")
    if prefix == "whsec":
        key = _decoded(encoded)
        if not 24 <= len(key) <= 64:
            raise SecretRefused("a symmetric secret has 24 to 64 octets")
        return SymmetricKey(key)
    if prefix == "whsk":
        return _key_pair(_decoded(encoded))
    raise SecretRefused("a signing secret starts with whsec_ or whsk_")


def _key_pair(octets: bytes) -> AsymmetricKey:
    if len(octets) != 64:
        raise SecretRefused("an ed25519 secret has 64 octets, seed and public key")
    key = Ed25519PrivateKey.from_private_bytes(octets[:32])
    if key.public_key().public_bytes_raw() != octets[32:]:
        raise SecretRefused("the public half of the ed25519 secret does not belong to its seed")
    return AsymmetricKey(key)


def sign(keys: Sequence[SigningKey], *, webhook_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """The three headers that prove origin and age of `body`, one signature a key.

    `at` is the moment of this attempt (aware, any zone); `webhook_id` stays the same over all attempts.
    """
    if not keys:
        raise ValueError("at least one key must sign")
    if not _ID.fullmatch(webhook_id):
        raise ValueError("a webhook id consists of letters, digits, '_' and '-'")
    if at.tzinfo is None:
        raise ValueError("the time of an attempt must be aware")
    timestamp = str(int(at.timestamp()))
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(key.signature(signed) for key in keys),
    }


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")


def _decoded(encoded: str) -> bytes:
    try:
        octets = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise SecretRefused("the secret is not base64") from None
    if _base64(octets) != encoded:
        raise SecretRefused("the secret is not canonical base64")
    return octets
