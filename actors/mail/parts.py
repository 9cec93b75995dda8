"""The parts of a mail: texts, attachments, and what holds them together. All of it 7-bit, all lines short."""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

_LONGEST_PLAIN_LINE = 200
# Also what makes a name look like another one: marks of direction, and nothing at all.
_NAMELESS = re.compile(r'[\x00-\x1f\x7f-\x9f"\\/\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff]')
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}/[a-z0-9][a-z0-9.+-]{0,60}")
# Percent-encoded it must fit on one line.
_LONGEST_NAME = 200


class MessageRefused(ValueError):
    """Not a mail that can be built. The text never repeats the content."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that goes along; `content_type` is a media type without parameters."""

    filename: str
    content_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Part:
    """Header lines and an encoded body, which ends with CRLF."""

    headers: tuple[str, ...]
    body: bytes

    def raw(self) -> bytes:
        return "".join(f"{line}\r\n" for line in self.headers).encode("ascii") + b"\r\n" + self.body


def written(text: str | None, html: str | None, *, boundary: str) -> Part:
    """What people read: one text, or both forms as alternatives, the plain one first."""
    parts = [_text(text, "plain")] if text is not None else []
    parts += [_text(html, "html")] if html is not None else []
    if not parts:
        raise MessageRefused("a mail needs a text or an HTML body")
    return parts[0] if len(parts) == 1 else _multipart("alternative", parts, boundary)


def mixed(content: Part, attachments: Sequence[Part], *, boundary: str) -> Part:
    return _multipart("mixed", [content, *attachments], boundary) if attachments else content


def check_media_type(content_type: str) -> None:
    """Passes for what base64 may carry: neither a multipart nor a message (RFC 2046)."""
    if not _MEDIA_TYPE.fullmatch(content_type) or content_type.startswith(("multipart/", "message/")):
        raise MessageRefused("an attachment's content type is not a media type such as application/pdf")


def check_filename(name: str) -> None:
    if not name or _NAMELESS.search(name) or len(name.encode()) > _LONGEST_NAME:
        raise MessageRefused(
            "an attachment's file name is missing, too long, or holds characters that hide or lead away"
        )


def attached(attachment: Attachment) -> Part:
    check_media_type(attachment.content_type)
    check_filename(attachment.filename)
    name = attachment.filename
    filename = f'filename="{name}"' if name.isascii() else f"filename*=utf-8''{quote(name, safe='')}"
    headers = (
        f"Content-Type: {attachment.content_type}",
        "Content-Transfer-Encoding: base64",
        f"Content-Disposition: attachment;\r\n {filename}",
    )
    return Part(headers, _base64(attachment.content))


def _text(text: str, subtype: str) -> Part:
    if "\x00" in text or any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        raise MessageRefused("a body holds NUL or half a character")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n") + "\n"
    raw = lines.replace("\n", "\r\n").encode()
    encoding, body = _encoded(raw)
    return Part((f'Content-Type: text/{subtype}; charset="utf-8"', f"Content-Transfer-Encoding: {encoding}"), body)


def _encoded(raw: bytes) -> tuple[str, bytes]:
    if raw.isascii() and max(map(len, raw.split(b"\r\n"))) <= _LONGEST_PLAIN_LINE:
        return "7bit", raw
    if 3 * len(raw.translate(None, bytes(range(128)))) < len(raw):
        # b2a_qp takes over the line ends that it finds: CRLF, as every line here has.
        return "quoted-printable", binascii.b2a_qp(raw, istext=True)
    return "base64", _base64(raw)


def _base64(raw: bytes) -> bytes:
    return base64.encodebytes(raw).replace(b"\n", b"\r\n") or b"\r\n"


def _multipart(subtype: str, parts: Sequence[Part], boundary: str) -> Part:
    mark = boundary.encode("ascii")
    body = b"".join(b"--%b\r\n%b\r\n" % (mark, part.raw()) for part in parts) + b"--%b--\r\n" % mark
    return Part((f'Content-Type: multipart/{subtype};\r\n boundary="{boundary}"',), body)
