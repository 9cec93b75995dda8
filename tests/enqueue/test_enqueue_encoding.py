"""What is not JSON fails in the request, with the argument's name; nothing is written."""

from __future__ import annotations

import json
import math
from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import uuid4

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker
from outbox_rows import Outbox, a_message

from outbox import ArgumentError, enqueue
from outbox.encoding import encode
from outbox.tasks import OutboxTasks


class Colour(Enum):
    RED = 1


class Level(IntEnum):
    HIGH = 3


class Mood(StrEnum):
    GLAD = "glad"


@dataclass
class Point:
    x: int = 1


def a_cycle() -> list[Any]:
    cycle: list[Any] = []
    cycle.append(cycle)
    return cycle


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


NOT_JSON: dict[str, tuple[Any, str]] = {
    "bytes": (b"raw", "base64"),
    "bytearray": (bytearray(b"raw"), "bytearray"),
    "set": ({1, 2}, "sorted list"),
    "frozenset": (frozenset({1}), "frozenset"),
    "datetime": (datetime.now(UTC), "isoformat"),
    "date": (date(2026, 1, 1), "isoformat"),
    "time": (time(1, 2), "time"),
    "timedelta": (timedelta(1), "total_seconds"),
    "uuid": (uuid4(), r"str\("),
    "decimal": (Decimal("1.10"), r"str\("),
    "fraction": (Fraction(1, 3), "Fraction"),
    "complex": (1j, "complex"),
    "path": (Path("x"), "Path"),
    "object": (object(), "object"),
    "function": (print, "builtin"),
    "enum": (Colour.RED, "Colour"),
    "dataclass": (Point(), "Point"),
    "generator": ((n for n in (1,)), "generator"),
    "userdict": (UserDict(a=1), "UserDict"),
    "nan": (math.nan, "NaN and infinity"),
    "inf": (math.inf, "NaN and infinity"),
    "minus inf": (-math.inf, "NaN and infinity"),
    "number of more digits than Python reads": (10**5000, "4300"),
    "nul": ("a\x00b", "NUL"),
    "surrogate": ("a\ud800b", "surrogate"),
    "cycle": (a_cycle(), "[Cc]ircular"),
    "deep": (nested(100), "nested too deeply"),
    "very deep": (nested(100_000), "nested too deeply"),
}


@pytest.mark.parametrize("kind", NOT_JSON)
@pytest.mark.parametrize("inside", ["alone", "in a list", "in a dict"])
def test_what_is_not_json_is_refused_with_the_argument_s_name(outbox: Outbox, kind: str, inside: str) -> None:
    value, told = NOT_JSON[kind]
    value = {"alone": value, "in a list": [1, value], "in a dict": {"k": {"l": value}}}[inside]
    with outbox.session() as session:
        with pytest.raises(ArgumentError, match=f"(?s)^send_mail: argument 2 .*({told})"):
            enqueue(session, a_message("fine", value, "fine too"))
        with pytest.raises(ArgumentError, match=f"(?s)^send_mail: argument 'body' .*({told})"):
            enqueue(session, a_message("fine", body=value))
        session.commit()
    assert outbox.ids() == []


@pytest.mark.parametrize("key", ["a\x00b", "a\ud800b"])
def test_keys_of_objects_are_checked_like_text(outbox: Outbox, key: str) -> None:
    with outbox.session() as session, pytest.raises(ArgumentError, match="send_mail: argument 1 "):
        enqueue(session, a_message({"deep": [{key: 1}]}))


def test_keys_that_are_no_text_become_text_as_everywhere_in_json(outbox: Outbox) -> None:
    id = outbox.add({1: "a", 1.5: "b", False: "c", None: "d", Level.HIGH: "e"})
    assert outbox.row(id)["args"] == [{"1": "a", "1.5": "b", "false": "c", "null": "d", "3": "e"}]


@pytest.mark.parametrize("key", [(1, 2), b"k", Colour.RED, math.inf])
def test_keys_that_json_has_no_text_for_are_refused(outbox: Outbox, key: Any) -> None:
    with outbox.session() as session, pytest.raises(ArgumentError, match=r"send_mail: argument 1 is not JSON"):
        enqueue(session, a_message({"deep": [{key: "value"}]}))


def test_the_arguments_together_may_take_so_many_bytes_and_no_more(outbox: Outbox) -> None:
    limit = 1_048_576
    with outbox.session() as session:
        enqueue(session, a_message("x" * (limit - 6)))  # ["…"] and {}
        enqueue(session, a_message("é" * ((limit - 6) // 2)))
        with pytest.raises(ArgumentError, match=r"send_mail: the arguments take 1048577 bytes, more than 1048576"):
            enqueue(session, a_message("x" * (limit - 5)))
        with pytest.raises(ArgumentError, match="more than 1048576"):
            enqueue(session, a_message("x" * 600_000, other="y" * 600_000))
        session.rollback()


def test_subclasses_of_json_s_own_types_arrive_as_those(outbox: Outbox) -> None:
    pair = namedtuple("pair", "left right")
    id = outbox.add((1, 2), pair(1, "r"), OrderedDict(b=1, a=2), Level.HIGH, Mood.GLAD)
    assert outbox.row(id)["args"] == [[1, 2], [1, "r"], {"b": 1, "a": 2}, 3, "glad"]


def test_text_that_only_looks_like_an_escape_is_kept(outbox: Outbox) -> None:
    odd = ["\\u0000", "\\\\u0000", "\\ud800", '"', "\\", "</script>", "\u2028", "\x7f\x1f", "💣", "%s %(rows)s %%"]
    named: dict[str, Any] = {"ключ %(x)s": odd}
    id = outbox.add(message=a_message(*odd, **named))
    row = outbox.row(id)
    assert row["args"] == odd
    assert row["kwargs"] == {"ключ %(x)s": odd}


def test_a_nul_beside_an_escape_is_still_found() -> None:
    with pytest.raises(ArgumentError, match="NUL"):
        encode(["\\u0000", "\x00"], {}, actor="a", limit=1000)


def test_a_hundred_levels_are_taken_and_breadth_has_no_limit(outbox: Outbox) -> None:
    deep, broad = nested(99), [{"k": [n]} for n in range(1000)]
    assert outbox.row(outbox.add(deep, broad))["args"] == [deep, broad]


def test_options_of_a_message_are_checked_too(outbox: Outbox) -> None:
    for bad in (object(), math.nan, "\x00", b""):
        with outbox.session() as session, pytest.raises(ArgumentError, match=r"send_mail \(options\): argument 'x'"):
            enqueue(session, a_message(1).copy(options={"x": bad}))


# ---------------------------------------------------------------------- the actor's own signature


def test_a_call_that_does_not_fit_the_actor_is_refused(outbox: Outbox, broker: StubBroker) -> None:
    @dramatiq.actor
    def send_invoice(order_id: int, *, copy_to: str | None = None) -> None: ...

    with outbox.session() as session:
        tasks: Any = OutboxTasks(session)
        calls: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
            ("order_id", (), {}),
            ("too many", (1, 2), {}),
            ("copy", (1,), {"copy": "a"}),
            ("order_id", (1,), {"order_id": 2}),
        ]
        for told, args, kwargs in calls:
            with pytest.raises(ArgumentError, match=f"send_invoice: .*{told}"):
                tasks.add_task(send_invoice, *args, **kwargs)
        tasks.add_task(send_invoice, 1, copy_to="a")
        tasks.add_task(send_invoice, order_id=1)
        session.commit()
    assert len(outbox.ids()) == 2


def test_what_is_no_actor_is_refused_by_name(outbox: Outbox) -> None:
    def send_invoice() -> None: ...

    with outbox.session() as session:
        tasks: Any = OutboxTasks(session)
        with pytest.raises(ArgumentError, match=r"send_invoice with @dramatiq\.actor"):
            tasks.add_task(send_invoice)
        with pytest.raises(ArgumentError, match="needs a Dramatiq actor"):
            tasks.add_task("send_invoice")


def test_arguments_are_fixed_when_they_are_enqueued(outbox: Outbox) -> None:
    items = [1, 2]
    with outbox.session() as session:
        task = enqueue(session, a_message(items))
        items.append(3)
        session.commit()
    assert outbox.row(task.id)["args"] == [[1, 2]]
    assert json.loads(task.args) == [[1, 2]]
