"""Request bodies: strict JSON, or a 4xx before any route runs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Coroutine
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Annotated, Any, NoReturn

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute

from service.access import admit
from service.problems import Problem

__all__ = ["MAX_DEPTH", "RawBody", "StrictRoute", "loads", "refuse_other_than_json", "slice_of"]

MAX_DEPTH = 64

_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)
_SPACE = re.compile(r"[ \t\n\r]*")
_JSON = re.compile(r"application/(?:json|[a-z0-9.!#$&^_-]+\+json)", re.IGNORECASE)


class StrictRoute(APIRoute):
    """A route that reads no body before its caller is known. The body is read by `loads`, only if declared to be JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner, field = super().get_route_handler(), self.body_field

        async def strict(request: Request) -> Response:
            request = _StrictRequest(request.scope, request.receive)
            await admit(request)
            if field is None:
                _refuse_any(await request.body())
            elif field.field_info.is_required() or await request.body():
                refuse_other_than_json(request)
            return await inner(request)

        return strict


class _StrictRequest(Request):
    async def json(self) -> Any:
        return loads(await self.body())


async def _raw_body(request: Request) -> bytes:
    return await request.body()


#: The request's body as it was sent; it has been read before any dependency runs.
RawBody = Annotated[bytes, Depends(_raw_body)]


def loads(raw: bytes) -> Any:
    """The value of a JSON text (RFC 8259, UTF-8). Raises Problem 400 for anything else, and for what readers differ
    about: NaN and infinity, numbers beyond a double, an outermost member given twice, more than `MAX_DEPTH` levels.
    """
    text = _text(raw)
    try:
        _refuse_depth(text)
        value, end = _decoder.raw_decode(text, _skip(text, 0))
        if _skip(text, end) != len(text):
            raise ValueError("more than one value")
    except (ValueError, RecursionError):
        _refuse("The body is not one JSON text as RFC 8259 has it.")
    if isinstance(value, dict):
        _refuse_twice(text)
    return value


def slice_of(raw: bytes, name: str) -> bytes:
    """The bytes, exactly as sent, of a member's value in the object that `loads` accepted."""
    text = _text(raw)
    return next(text[start:end].encode() for key, start, end in _members(text) if key == name)


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        _refuse("The body is not UTF-8.")


def _refuse(detail: str) -> NoReturn:
    raise Problem("bad-request", detail)


def _refuse_any(raw: bytes) -> None:
    """An empty object says nothing, and some clients send one with every POST."""
    if raw.strip() not in (b"", b"{}"):
        raise Problem("invalid", "This takes no body.")


def refuse_other_than_json(request: Request) -> None:
    """Raise Problem 415 unless the body is declared to be JSON in UTF-8, not compressed."""
    declared, *parameters = request.headers.get("content-type", "").split(";")
    if not _JSON.fullmatch(declared.strip()):
        raise Problem("not-json", "The Content-Type must be application/json.")
    if any(_charset(each) not in ("", "utf-8") for each in parameters):
        raise Problem("not-json", "The charset must be UTF-8.")
    if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise Problem("not-json", "The body must not be compressed.")


def _charset(parameter: str) -> str:
    name, _, value = parameter.partition("=")
    return value.strip().strip('"').lower() if name.strip().lower() == "charset" else ""


def _refuse_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for token in _STRUCTURE.finditer(text):
        if text[token.start()] != '"':
            depth += 1 if text[token.start()] in "[{" else -1
            if depth > MAX_DEPTH:
                raise ValueError("nested too deeply")


def _refuse_twice(text: str) -> None:
    names = [name for name, _, _ in _members(text)]
    if len(set(names)) != len(names):
        _refuse("The body gives a member twice.")


def _members(text: str) -> list[tuple[str, int, int]]:
    """Name, start and end of each member of the outermost object of a valid JSON text."""
    found: list[tuple[str, int, int]] = []
    at = _skip(text, _skip(text, 0) + 1)
    while text[at] == '"':
        name, at = scanstring(text, at + 1, True)
        start = _skip(text, _skip(text, at) + 1)
        _, end = _decoder.raw_decode(text, start)
        found.append((name, start, end))
        at = _skip(text, end)
        at = _skip(text, at + 1) if text[at] == "," else at
    return found


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("beyond a double")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


_decoder = json.JSONDecoder(parse_float=_finite, parse_constant=_no_constant)
