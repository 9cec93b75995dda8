"""Arguments become JSON when they are enqueued, so what cannot be encoded fails in the request, not in the relay."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NoReturn

from dramatiq import Actor

from outbox.errors import ArgumentError

__all__ = ["check_call", "encode"]

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=True).encode

#: Levels of nesting. Whoever decodes the message may have less stack left than whoever encoded it.
_DEPTH = 100

_HINTS = {
    "datetime": "pass .isoformat()",
    "date": "pass .isoformat()",
    "timedelta": "pass .total_seconds()",
    "UUID": "pass str(...)",
    "Decimal": "pass str(...)",
    "bytes": "pass an id, or base64 text",
    "set": "pass a sorted list",
}


def encode(args: Sequence[Any], kwargs: Mapping[str, Any], *, actor: str, limit: int) -> tuple[str, str]:
    """The JSON of a call's arguments, exactly as the message will carry them.

    As everywhere in JSON, and in Dramatiq, tuples arrive as lists, and keys that are numbers, booleans or None as text.

    Raises ArgumentError, naming the argument, for what is not JSON: other types, NaN and infinity, NUL, lone
    surrogates, cycles, more than a hundred levels; and for more than `limit` bytes in all.
    """
    try:
        first, second = _encode(list(args)), _encode(dict(kwargs))
        size = len(first.encode()) + len(second.encode())
    except (TypeError, ValueError, RecursionError) as error:
        _name_the_culprit(args, kwargs, actor, error)
    if first.count("[") + first.count("{") + second.count("[") + second.count("{") > _DEPTH:
        _refuse_depth(args, kwargs, actor)
    if "\\u0000" in first or "\\u0000" in second:
        _refuse_nul(args, kwargs, actor)
    if size > limit:
        raise ArgumentError(
            f"{actor}: the arguments take {size} bytes, more than {limit}. Store the payload in a table and pass its id."
        )
    return first, second


def check_call(actor: Actor[Any, Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """The call fits the actor's signature; else ArgumentError names what is missing or too much."""
    try:
        _signature(actor.fn).bind(*args, **kwargs)
    except TypeError as error:
        raise ArgumentError(f"{actor.actor_name}: {error}") from None


@lru_cache(maxsize=4096)
def _signature(fn: Any) -> inspect.Signature:
    return inspect.signature(fn)


def _named(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from ((f"argument {index + 1}", value) for index, value in enumerate(args))
    yield from ((f"argument {name!r}", value) for name, value in kwargs.items())


def _name_the_culprit(args: Sequence[Any], kwargs: Mapping[str, Any], actor: str, error: Exception) -> NoReturn:
    for name, value in _named(args, kwargs):
        try:
            _encode(value).encode()
        except UnicodeEncodeError:
            raise ArgumentError(f"{actor}: {name} contains a lone surrogate, which is not text.") from None
        except RecursionError:
            raise ArgumentError(f"{actor}: {name} is nested too deeply.") from None
        except (TypeError, ValueError) as reason:
            raise ArgumentError(f"{actor}: {name} is not JSON: {reason}.{_hint(reason)}") from None
    raise ArgumentError(f"{actor}: the arguments are not JSON: {error}") from None


def _hint(reason: Exception) -> str:
    if "Out of range float" in str(reason):
        return " Hint: NaN and infinity have no JSON; pass None, or text."
    return next((f" Hint: {hint}." for kind, hint in _HINTS.items() if f"type {kind} " in str(reason)), "")


def _refuse_depth(args: Sequence[Any], kwargs: Mapping[str, Any], actor: str) -> None:
    for name, value in _named(args, kwargs):
        level, depth = [value], 0
        while level:
            level = [each for outer in level for each in _inside(outer)]
            depth += 1
            if depth > _DEPTH:
                raise ArgumentError(f"{actor}: {name} is nested too deeply: more than {_DEPTH} levels.")


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, (list, tuple)) else ()


def _refuse_nul(args: Sequence[Any], kwargs: Mapping[str, Any], actor: str) -> None:
    for name, value in _named(args, kwargs):
        if _has_nul(value):
            raise ArgumentError(f"{actor}: {name} contains a NUL character, which PostgreSQL does not store as text.")


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, Mapping):
        return any(_has_nul(key) or _has_nul(each) for key, each in value.items())
    return isinstance(value, (list, tuple)) and any(map(_has_nul, value))
