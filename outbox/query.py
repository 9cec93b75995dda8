"""The query language: one line that says which tasks, the same on the command line, in the API and in a page.

    actor:send_mail state:dead state:retrying args.user_id:42 kwargs.note:"y z" error:"timed out" since:2h some words

Terms stand beside each other and all must hold; `state`, `actor` and `queue` given more than once mean either. `parse` makes
a `Query` of it, `str` makes the line again: `parse(str(query)) == query`. No text of it ever becomes SQL.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple, get_args

from outbox.errors import ArgumentError
from outbox.times import duration, spelled

__all__ = ["KEYS", "PUBLIC_STATES", "Argument", "Moment", "PublicState", "Query", "QueryError", "last_term", "parse"]

PublicState = Literal[
    "scheduled", "waiting", "pending", "published", "running", "retrying", "succeeded", "dead", "cancelled"
]
PUBLIC_STATES: tuple[PublicState, ...] = get_args(PublicState)
#: An instant, or how long ago.
Moment = datetime | timedelta

#: Each key, and what stands behind it.
KEYS = {
    "state": "one of " + ", ".join(PUBLIC_STATES),
    "actor": "an actor's name",
    "queue": "a queue's name",
    "id": "a task's id, or its beginning",
    "args": "args.NAME:VALUE or args.0:VALUE, an argument by its name or position",
    "kwargs": "kwargs.NAME:VALUE, an argument that was given by name",
    "error": "text of the last error, or of any attempt's",
    "failure": "the kind of the last attempt's failure, its twelve digits",
    "lane": "an ordering key or concurrency key",
    "unique": "a unique key",
    "since": "created since: 2h, 1d12h, 2026-11-25, 2026-11-25T09:00Z",
    "until": "created before: the same",
}

#: Longer lines, and more terms, are nobody's question.
LONGEST, MOST = 2000, 50
_CENTURY = timedelta(days=36525)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class QueryError(ArgumentError):
    """A query that cannot be read. `position` counts from 0; `why` says what would be right, without the caller's words."""

    def __init__(self, position: int, why: str) -> None:
        super().__init__(f"At character {position + 1} of the query: {why}.")
        self.position = position
        self.why = why


class Argument(NamedTuple):
    """An argument's value, or a value inside it. `place` args: wherever the argument was given; kwargs: by name alone."""

    place: Literal["args", "kwargs"]
    path: tuple[str, ...]
    value: str


@dataclass(frozen=True, slots=True)
class Query:
    """Which tasks: those for which every part that is given holds. Without any part: all.

    Raises ArgumentError for what no task can have: an unknown state, NUL, a moment without a time zone.
    """

    states: tuple[PublicState, ...] = ()
    actors: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    id: str | None = None
    arguments: tuple[Argument, ...] = ()
    errors: tuple[str, ...] = ()
    failure: str | None = None
    lane: str | None = None
    unique: str | None = None
    since: Moment | None = None
    until: Moment | None = None
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            given = getattr(self, name)
            if isinstance(given, tuple):
                checked: Any = tuple(dict.fromkeys(map(check, given)))
            else:
                checked = None if given is None else check(given)
            object.__setattr__(self, name, checked)

    def __str__(self) -> str:
        """The line that means this, each key in its place, quoted where it must be."""
        return " ".join(_terms(self))

    def __bool__(self) -> bool:
        """Whether it leaves anything out."""
        return self != Query()

    def also(self, other: Query) -> Query:
        """Both must hold. Raises ArgumentError when both name what can be named once."""
        merged: dict[str, Any] = {}
        for name in (each.name for each in fields(self)):
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, tuple):
                merged[name] = mine + theirs
            elif None not in (mine, theirs) and mine != theirs:
                raise ArgumentError(f"{name} is given twice.")
            else:
                merged[name] = theirs if mine is None else mine
        return Query(**merged)

    def at(self, now: datetime) -> Query:
        """The same, seen at that instant: spans become instants."""
        return replace(self, since=_instant(self.since, now), until=_instant(self.until, now))

    def frozen(self, now: datetime) -> Query:
        """The same, for ever: what is created from that instant on is none of it."""
        return replace(self, since=_instant(self.since, now), until=min(now, _instant(self.until, now) or now))


def parse(text: str) -> Query:
    """Read a query. Raises QueryError, which knows the position and what to write instead."""
    if len(text) > LONGEST:
        raise QueryError(LONGEST, f"a query has at most {LONGEST} characters")
    query = Query()
    for number, (position, key, path, value) in enumerate(_split(text)):
        if number == MOST:
            raise QueryError(position, f"a query has at most {MOST} terms")
        try:
            query = query.also(_of_term(key, path, value))
        except QueryError:
            raise
        except ArgumentError as error:
            raise QueryError(position, str(error).rstrip(".")) from None
    return query


def last_term(text: str) -> tuple[str, str, str]:
    """What somebody has begun to write: (all before it, its key with the colon or "", the rest). For completion."""
    start = max((found.start() for found in _BEGUN.finditer(text) if found.end() == len(text)), default=len(text))
    key, colon, rest = text[start:].partition(":")
    return text[:start], f"{key}:" if colon else "", rest if colon else key


# ---------------------------------------------------------------------- reading

_SPACE = re.compile(r"\s*")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_BARE = re.compile(r'[^\s"]+')
_KEY = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)((?:\.(?:[^\s.:"\\]+|"(?:[^"\\]|\\.)*"))*):', re.DOTALL)
_STEP = re.compile(r'\.(?:([^\s.:"\\]+)|"((?:[^"\\]|\\.)*)")', re.DOTALL)
_BEGUN = re.compile(r'(?:[^\s"]|"(?:[^"\\]|\\.)*(?:"|\Z))+', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


def _split(text: str) -> Iterator[tuple[int, str, tuple[str, ...], str]]:
    """(position, key or "", path, value) of each term."""
    end = _skip(text, 0)
    while end < len(text):
        position, key = end, ""
        path: tuple[str, ...] = ()
        if found := _KEY.match(text, position):
            key, path, end = found[1].lower(), _path(found[2]), found.end()
        value, end = _value(text, end)
        if end < len(text) and not text[end].isspace():
            raise QueryError(end, 'a space must stand here; a text that holds quotes is written in quotes, as \\"')
        yield position, key, path, value
        end = _skip(text, end)


def _skip(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    return found.end() if found else start


def _path(text: str) -> tuple[str, ...]:
    return tuple(bare or _ESCAPE.sub(r"\1", quoted) for bare, quoted in _STEP.findall(text))


def _value(text: str, start: int) -> tuple[str, int]:
    if text.startswith('"', start):
        found = _QUOTED.match(text, start)
        if found is None:
            raise QueryError(start, "this quote is not closed")
        return _ESCAPE.sub(r"\1", found[1]), found.end()
    found = _BARE.match(text, start)
    return (found[0], found.end()) if found else ("", start)


def _of_term(key: str, path: tuple[str, ...], value: str) -> Query:
    if path and key not in ("args", "kwargs"):
        raise ArgumentError("only args and kwargs have a name behind a point; to look for the text itself, quote it")
    if key == "":
        return Query(words=(value,))
    if key in ("args", "kwargs"):
        return Query(arguments=(Argument("args" if key == "args" else "kwargs", path, value),))
    if key not in _OF_KEY:
        raise ArgumentError(f"there is no such key. Keys are {', '.join(KEYS)}. To look for the text itself, quote it")
    return _OF_KEY[key](value)


_OF_KEY: dict[str, Callable[[Any], Query]] = {
    "state": lambda value: Query(states=(value,)),
    "actor": lambda value: Query(actors=(value,)),
    "queue": lambda value: Query(queues=(value,)),
    "id": lambda value: Query(id=value),
    "error": lambda value: Query(errors=(value,)),
    "failure": lambda value: Query(failure=value),
    "lane": lambda value: Query(lane=value),
    "unique": lambda value: Query(unique=value),
    "since": lambda value: Query(since=_moment(value)),
    "until": lambda value: Query(until=_moment(value)),
}


# ---------------------------------------------------------------------- what can be asked for


def _state(state: str) -> str:
    if state not in PUBLIC_STATES:
        raise ArgumentError(f"no task has this state; these are: {', '.join(PUBLIC_STATES)}.")
    return state


def _text(text: str) -> str:
    if not text:
        raise ArgumentError("a value must stand here, such as actor:send_mail.")
    if "\x00" in text or any("\ud800" <= each <= "\udfff" for each in text):
        raise ArgumentError("no task holds NUL or half a character.")
    return text


def _digits(id: str) -> str:
    digits = id.lower().replace("-", "")
    if not re.fullmatch("[0-9a-f]{1,32}", digits):
        raise ArgumentError("a task's id, or its beginning, has 1 to 32 of the digits 0-9 and a-f.")
    return digits


def _kind(failure: str) -> str:
    kind = failure.lower()
    if not re.fullmatch("[0-9a-f]{12}", kind):
        raise ArgumentError("a failure's kind has twelve of the digits 0-9 and a-f: outbox failures list shows them.")
    return kind


def _argument(argument: Argument) -> Argument:
    if not argument.path:
        raise ArgumentError("an argument needs its name or position: args.user_id:42, args.0:42, kwargs.user_id:42.")
    return Argument(argument.place, tuple(map(_text, argument.path)), _storable(argument.value))


def _storable(text: str) -> str:
    return _text(text) if text else text


def _checked_moment(moment: Moment) -> Moment:
    if isinstance(moment, timedelta):
        if not timedelta(0) <= moment <= _CENTURY:
            raise ArgumentError("a span lies between zero and a hundred years.")
        return moment
    if moment.tzinfo is None:
        raise ArgumentError("an instant needs a time zone, as datetime.now(UTC) has one.")
    if not 1970 <= moment.year < 9000:
        raise ArgumentError("an instant lies between the years 1970 and 9000.")
    return moment.astimezone(UTC)


def _moment(text: str) -> Moment:
    """A span, or ISO 8601; without an offset it is UTC, wherever it is read."""
    try:
        return duration(text)
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentError("needs how long ago, or when: 2h, 1d12h, 2026-11-25, 2026-11-25T09:00Z.") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _instant(moment: Moment | None, now: datetime) -> datetime | None:
    return max(now - moment, _EPOCH) if isinstance(moment, timedelta) else moment


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "states": _state, "actors": _text, "queues": _text, "id": _digits, "arguments": _argument, "errors": _text,
    "failure": _kind, "lane": _text, "unique": _text, "since": _checked_moment, "until": _checked_moment, "words": _text,
}  # fmt: skip


# ---------------------------------------------------------------------- writing


def _terms(query: Query) -> Iterator[str]:
    yield from (f"state:{state}" for state in query.states)
    yield from (f"actor:{_quoted(actor)}" for actor in query.actors)
    yield from (f"queue:{_quoted(queue)}" for queue in query.queues)
    if query.id is not None:
        yield f"id:{query.id}"
    for place, path, value in query.arguments:
        yield f"{place}{''.join(map(_step, path))}:{_quoted(value)}"
    yield from (f"error:{_quoted(error)}" for error in query.errors)
    if query.failure is not None:
        yield f"failure:{query.failure}"
    if query.lane is not None:
        yield f"lane:{_quoted(query.lane)}"
    if query.unique is not None:
        yield f"unique:{_quoted(query.unique)}"
    if query.since is not None:
        yield f"since:{_spelled(query.since)}"
    if query.until is not None:
        yield f"until:{_spelled(query.until)}"
    yield from (word if _BARE.fullmatch(word) and ":" not in word else _quote(word) for word in query.words)


def _quoted(value: str) -> str:
    return value if _BARE.fullmatch(value) else _quote(value)


def _quote(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _step(step: str) -> str:
    return f".{step}" if re.fullmatch(r'[^\s.:"\\]+', step) else f".{_quote(step)}"


def _spelled(moment: Moment) -> str:
    if isinstance(moment, timedelta):
        return spelled(moment)
    return moment.isoformat().replace("+00:00", "Z")
