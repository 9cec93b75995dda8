"""Which headers a caller may set, and what they may hold. A header can never become two."""

import re
import unicodedata

MAX_VALUE = 4096

_NAME = re.compile(r"[!-9;-~]{1,76}")
# What the builder, the relay or the receiving side writes, and what redirects or frames the message.
_STRUCTURAL = frozenset(
    {"from", "sender", "to", "cc", "bcc", "reply-to", "date", "message-id", "mime-version", "return-path", "received"}
    | {"delivered-to", "envelope-to", "errors-to", "return-receipt-to", "disposition-notification-to", "apparently-to"}
    | {"authentication-results", "received-spf", "dkim-signature", "domainkey-signature", "autocrypt", "status"}
    | {"x-envelope-from", "x-envelope-to", "x-original-to", "x-rcpt-to", "lines", "require-recipient-valid-since"}
)
_STRUCTURAL_PREFIXES = ("content-", "resent-", "arc-", "x-sender", "x-original-")
# Separators that some mail software takes for line ends, though str.isprintable tells most of them already.
_REFUSED_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})


class HeaderRefused(ValueError):
    """A header that no mail may carry. The text never repeats the value."""


def check(name: str, value: str) -> None:
    """Passes for a header that a caller may set; else HeaderRefused."""
    if not _NAME.fullmatch(name):
        raise HeaderRefused("not a header name of 1 to 76 characters")
    lowered = name.lower()
    if lowered in _STRUCTURAL or lowered.startswith(_STRUCTURAL_PREFIXES):
        raise HeaderRefused("the header is set by the service itself")
    check_value(value)


def check_value(value: str) -> None:
    if len(value) > MAX_VALUE:
        raise HeaderRefused(f"a header value has at most {MAX_VALUE} characters")
    if any(unicodedata.category(c) in _REFUSED_CATEGORIES for c in value):
        raise HeaderRefused("a header value holds a control character, a line separator or half a character")
