"""DKIM: what a mail says is signed where it is built, and the signature is stored with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import dkim
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

__all__ = ["Signer", "signer"]

# Named once more than they occur: nobody can add another one and keep the signature.
_SINGLE = (
    b"from", b"to", b"cc", b"subject", b"date", b"message-id", b"reply-to", b"mime-version", b"content-type",
    b"content-transfer-encoding",
)  # fmt: skip
# RFC 8058 wants both of the first covered; lists on the way may add their own.
_FURTHER = (b"list-unsubscribe", b"list-unsubscribe-post", b"list-id")
_LEAST_BITS = 1024


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs as `domain`, with the key whose public half is at `selector`._domainkey.`domain`."""

    domain: str
    selector: str
    key: bytes = field(repr=False)

    def signed(self, raw: bytes) -> bytes:
        """The mail under its signature. It never expires, for a mail may wait."""
        message = dkim.DKIM(raw)
        present = [name.lower() for name, _ in message.headers]
        covered = [name for name in present if name in (*_SINGLE, *_FURTHER)]
        signature: bytes = message.sign(
            self.selector.encode(),
            self.domain.encode(),
            self.key,
            canonicalize=(b"relaxed", b"relaxed"),
            include_headers=[*covered, *_SINGLE],
        )
        return signature + raw


def signer(key_file: str, *, selector: str, domain: str) -> Signer:
    """Raises ValueError, naming the variable: a mail that should be signed is never sent without."""
    for variable, value in (("DKIM_SELECTOR", selector), ("DKIM_DOMAIN", domain)):
        if not _is_name(value):
            raise ValueError(f"{variable} must be a name of the DNS, for DKIM_KEY_FILE is set")
    try:
        pem = Path(key_file).read_bytes()
    except OSError as error:
        raise ValueError(f"DKIM_KEY_FILE cannot be read: {error.strerror}") from None
    return Signer(domain.lower(), selector.lower(), _rsa_key(pem))


def _is_name(text: str) -> bool:
    labels = text.split(".")
    return text.isascii() and len(text) <= 253 and all(
        0 < len(label) <= 63 and label.replace("-", "").replace("_", "").isalnum() for label in labels
    )  # fmt: skip


def _rsa_key(pem: bytes) -> bytes:
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):  # TypeError: it is encrypted
        raise ValueError("DKIM_KEY_FILE must hold a private key in PEM without a password") from None
    if not isinstance(key, RSAPrivateKey) or key.key_size < _LEAST_BITS:
        raise ValueError(f"DKIM_KEY_FILE must hold an RSA key of at least {_LEAST_BITS} bits")
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
