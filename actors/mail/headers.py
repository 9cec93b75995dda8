"""Which headers a caller may set, what they may hold, and how they are written. A header can never become two."""

import base64
import re
import unicodedata

MAX_VALUE = 4096

_PREFERRED_LINE = 78
_LONGEST_WORD = 900
_ENCODED_OCTETS = 36

_NAME = re.compile(r"[!-9;-~]{1,76}")
_PLAIN_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9]+(?: [A-Za-z0-9]+)*")
# A line ends only between two words with one space between them: unfolding gives that space back.
_FOLD = re.compile(r"(?<=[!-~]) (?=[!-~])")
# What the builder, the relay or the receiving side writes, and what redirects or frames the message.
_STRUCTURAL = frozenset(
    {"from", "sender", "to", "cc", "bcc", "reply-to", "date", "message-id", "mime-version", "return-path", "received"}
    | {"delivered-to", "envelope-to", "errors-to", "return-receipt-to", "disposition-notification-to", "apparently-to"}
    | {"authentication-results", "received-spf", "dkim-signature", "domainkey-signature", "autocrypt", "status"}
    | {"x-envelope-from", "x-envelope-to", "x-original-to", "x-rcpt-to", "lines", "require-recipient-valid-since"}
)
_STRUCTURAL_PREFIXES = ("content-", "resent-", "arc-", "x-sender", "x-original-")
# By which a provider's relay is told of other recipients, and of what else it is to do.
_RELAYS_PREFIXES = ("x-smtpapi", "x-mc-", "x-mailgun-", "x-msys-", "x-mj-", "x-ses-", "x-pm-", "x-sib-")
# Separators that some mail software takes for line ends, though str.isprintable tells most of them already.
_REFUSED_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})


class HeaderRefused(ValueError):
    """A header that no mail may carry. The text never repeats the value."""


def check(name: str, value: str) -> None:
    """Passes for a header that a caller may set; else HeaderRefused."""
    check_name(name)
    check_value(value)


def check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise HeaderRefused("not a header name of 1 to 76 characters")
    lowered = name.lower()
    if lowered in _STRUCTURAL or lowered.startswith(_STRUCTURAL_PREFIXES + _RELAYS_PREFIXES):
        raise HeaderRefused("the header is set by the service itself")


def check_value(value: str) -> None:
    if len(value) > MAX_VALUE:
        raise HeaderRefused(f"a header value has at most {MAX_VALUE} characters")
    if any(unicodedata.category(c) in _REFUSED_CATEGORIES for c in value):
        raise HeaderRefused("a header value holds a control character, a line separator or half a character")


def written_header(name: str, value: str) -> str:
    """The header's lines, each ended with CRLF. A reader gets back `value`, character for character."""
    check_value(value)
    if not value or (_PLAIN_VALUE.fullmatch(value) and "=?" not in value):
        lines = _folded(name, value)
        if max(map(len, lines)) <= _LONGEST_WORD:
            return _joined(lines)
    words = _encoded_words(value)
    return _joined([f"{name}: {words[0]}", *words[1:]])


def written_mailbox(header: str, name: str, address: str) -> str:
    """As `written_header`, for one address and the name shown beside it."""
    check_value(name)
    if not name:
        return f"{header}: {address}\r\n"
    if _PLAIN_NAME.fullmatch(name) and len(name) <= _PREFERRED_LINE:
        line = f"{header}: {name} <{address}>"
        return _joined([line] if len(line) <= _PREFERRED_LINE else [f"{header}: {name}", f"<{address}>"])
    words = _encoded_words(name)
    return _joined([f"{header}: {words[0]}", *words[1:], f"<{address}>"])


def _folded(name: str, value: str) -> list[str]:
    first, *words = _FOLD.split(value)
    lines = [f"{name}: {first}"]
    for word in words:
        if len(lines[-1]) + 1 + len(word) <= _PREFERRED_LINE:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _encoded_words(text: str) -> list[str]:
    """RFC 2047: words of at most 75 characters, none of which cuts a character in two."""
    pieces = [""]
    for character in text:
        if len((pieces[-1] + character).encode()) > _ENCODED_OCTETS:
            pieces.append("")
        pieces[-1] += character
    return [f"=?utf-8?b?{base64.b64encode(piece.encode()).decode('ascii')}?=" for piece in pieces]


def _joined(lines: list[str]) -> str:
    return "\r\n ".join(lines) + "\r\n"
