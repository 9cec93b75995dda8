"""Secrets at rest: AES-256-GCM under a key derived from SECRET_KEY."""

import hmac
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MIN_KEY_LENGTH = 32
_VERSION = b"\x01"
_NONCE = 12


class SecretKeyMissing(RuntimeError):
    """SECRET_KEY is unset or too short; without it no secret is stored or read."""


class Unreadable(ValueError):
    """This ciphertext was not made with this key for this owner, or was changed since."""


class Vault:
    """Seals and opens secrets. Each one is bound to its owner: moved to another row, it does not open."""

    def __init__(self, secret_key: str | None) -> None:
        if not secret_key or len(secret_key) < MIN_KEY_LENGTH:
            raise SecretKeyMissing(
                f"set SECRET_KEY to at least {MIN_KEY_LENGTH} random characters, the same for every process, "
                "for instance from: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
            )
        self._cipher = AESGCM(_derived(secret_key, b"dramatiq-outbox secrets v1"))
        self._marks = _derived(secret_key, b"dramatiq-outbox marks v1")

    def mark(self, text: str, *, owner: str) -> bytes:
        """32 octets that nobody can make who does not know SECRET_KEY: proof that we said `text` as `owner`."""
        return hmac.digest(self._marks, f"{owner}\0{text}".encode(), "sha256")

    def seal(self, secret: str, *, owner: str) -> bytes:
        nonce = secrets.token_bytes(_NONCE)
        return _VERSION + nonce + self._cipher.encrypt(nonce, secret.encode(), owner.encode())

    def open(self, sealed: bytes, *, owner: str) -> str:
        """The secret that was sealed for `owner`, or Unreadable."""
        version, nonce, ciphertext = sealed[:1], sealed[1 : 1 + _NONCE], sealed[1 + _NONCE :]
        if version != _VERSION:
            raise Unreadable("unknown format of a sealed secret")
        try:
            return self._cipher.decrypt(nonce, ciphertext, owner.encode()).decode()
        except (InvalidTag, ValueError):
            raise Unreadable("a sealed secret does not open with this SECRET_KEY for this owner") from None


def _derived(secret_key: str, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose).derive(secret_key.encode())
