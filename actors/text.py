"""Text from the far side, made safe to store."""

import re

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def storable(text: str, *, octets: int) -> str:
    """What PostgreSQL can always keep: no NUL, no lone surrogate, at most `octets` bytes of UTF-8."""
    clean = _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text[:octets])
    return clean.encode()[:octets].decode(errors="ignore")


def storable_bytes(raw: bytes, *, octets: int) -> str:
    """As `storable`, for bytes of unknown encoding: read as UTF-8, what is not becomes U+FFFD."""
    return storable(raw[:octets].decode(errors="replace"), octets=octets)
