"""The types of a mail's members: what they accept can be in a mail; everything else is a 422."""

from __future__ import annotations

import base64
from typing import Annotated, Any, NoReturn, cast

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from actors.mail import HeaderRefused, MessageRefused, headers
from actors.mail.parts import check_filename, check_media_type
from service.fields import is_prose, refused

__all__ = ["Filename", "Headers", "MediaType", "Octets", "Stream", "Variables"]

_MOST_OF_VARIABLES = 262_144


def _filename(name: str) -> str:
    try:
        check_filename(name)
    except MessageRefused:
        raise refused("must be a plain file name of at most 200 bytes, such as receipt.pdf") from None
    return name


def _media_type(name: str) -> str:
    try:
        check_media_type(name.lower())
    except MessageRefused:
        raise refused("must be a media type without parameters, such as application/pdf") from None
    return name.lower()


def _headers(given: dict[str, str]) -> dict[str, str]:
    try:
        for name, value in given.items():
            headers.check(name, value)
    except HeaderRefused as refusal:
        raise refused(str(refusal)) from None
    if len({name.lower() for name in given}) != len(given):
        raise refused("a header is given twice")
    return given


def _octets(text: Any) -> bytes:
    """What is meant by a text in base64."""
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else _not_base64()
    except ValueError:
        return _not_base64()


def _not_base64() -> NoReturn:
    raise refused("must be base64, as RFC 4648 section 4 has it")


def _variables(given: dict[str, Any]) -> dict[str, Any]:
    """What templates may be filled in with: all text such as a mail can carry, and not too much of it."""
    left, waiting = _MOST_OF_VARIABLES, [cast(Any, given)]
    while waiting:
        value = waiting.pop()
        left -= 16 + (len(value) if isinstance(value, str) else 0)
        if left < 0:
            raise refused(f"must not hold more than about {_MOST_OF_VARIABLES} characters")
        if isinstance(value, str):
            _sayable(value)
        elif isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value
    return given


def _sayable(text: str) -> None:
    if not is_prose(text):
        raise refused("must not hold control characters, NUL or lone surrogates")


def _in_any_case(word: str) -> str:
    return "".join(f"[{letter.upper()}{letter}]" for letter in word)


# What these accept stands in the document as a pattern, as far as a pattern can say it.
_BASE64 = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_FILENAME = r'^[^\u0000-\u001f\u007f-\u009f"\\/\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]+$'
_HALF = r"[A-Za-z0-9][A-Za-z0-9.+\-]{0,60}"
_MEDIA_TYPE = f"^(?!(?:{'|'.join(map(_in_any_case, ('multipart', 'message')))})/){_HALF}/{_HALF}$"


def _said(**schema: Any) -> Any:
    return Field(json_schema_extra=schema)


Octets = Annotated[
    bytes,
    BeforeValidator(_octets),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "pattern": _BASE64}),
]
Headers = Annotated[
    dict[str, str],
    Field(max_length=20),
    AfterValidator(_headers),
    _said(
        propertyNames={"pattern": "^[!-9;-~]{1,76}$"},
        additionalProperties={
            "type": "string",
            "maxLength": 4096,
            "pattern": r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$",
        },
    ),
]
Stream = Annotated[str, Field(max_length=32, pattern=r"^[a-z][a-z0-9_\-]*$", examples=["newsletter"])]
Filename = Annotated[
    str,
    Field(min_length=1, max_length=200, examples=["receipt.pdf"]),
    AfterValidator(_filename),
    _said(pattern=_FILENAME),
]
MediaType = Annotated[
    str, Field(max_length=121, examples=["application/pdf"]), AfterValidator(_media_type), _said(pattern=_MEDIA_TYPE)
]
Variables = Annotated[dict[str, Any], AfterValidator(_variables)]
