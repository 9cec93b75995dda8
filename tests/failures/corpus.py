"""Failures with their labels: real code that raises, run with many values, as if from many places and Python versions."""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import traceback
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import create_engine, text

__all__ = ["KINDS", "Failed", "corpus"]


class Failed(NamedTuple):
    """What an attempt holds, and the kind that a person would give it."""

    label: str
    error: str
    traceback: str


class OrderGone(Exception):
    pass


def key(r: random.Random) -> Any:
    return {"a": 1}[f"user-{r.randrange(10**6)}"]


def attribute(r: random.Random) -> Any:
    return r.choice([None, 3, "text"]).email  # type: ignore[union-attr]


def number(r: random.Random) -> Any:
    return int(r.choice(["x", "12a", "", "n/a", "O'Neil", 'he said "no"', "1_000_"]))


def index(r: random.Random) -> Any:
    return [*range(r.randrange(9))][r.randrange(10, 99)]


def division(r: random.Random) -> Any:
    return r.randrange(9) / 0


def missing_file(r: random.Random) -> Any:
    return open(f"/srv/{r.choice(['in', 'out'])}/{uuid.UUID(int=r.getrandbits(128))}.pdf")


def relative_file(r: random.Random) -> Any:
    return open(f"var/files/{r.randrange(999)}/scan {r.randrange(99)}.pdf")


def bad_json(r: random.Random) -> Any:
    return json.loads('{"a": ' + "1, " * r.randrange(1, 20))


def no_such_order(r: random.Random) -> Any:
    raise OrderGone(f"order {r.randrange(10**8)} of {r.choice(['ann', 'bob'])}@example.org is gone")


def gone_by_uuid(r: random.Random) -> Any:
    raise OrderGone(f"no order {uuid.UUID(int=r.getrandbits(128))} since {moment(r).isoformat()}")


def late(r: random.Random) -> Any:
    raise TimeoutError(
        f"no answer from https://{r.choice('abc')}.example.org/v{r.randrange(3)}?q={r.random()} in {r.random() * 30:.2f}s"
    )


def away(r: random.Random) -> Any:
    raise ConnectionError(f"connect to {'.'.join(str(r.randrange(256)) for _ in range(4))}:{r.randrange(65536)} failed")


def away_six(r: random.Random) -> Any:
    raise ConnectionError(f"no route to [2001:db8::{r.randrange(65536):x}:{r.randrange(65536):x}]:443")


def refused(r: random.Random) -> Any:
    socket.create_connection(("127.0.0.1", 1 + r.randrange(3)), timeout=1)


def http(r: random.Random) -> Any:
    raise RuntimeError(
        f"HTTP 503 on try {r.randrange(1, 9)} of {r.randrange(9, 20)}, request req_{r.getrandbits(60):x}a1"
    )


def repr_of_object(r: random.Random) -> Any:
    raise TypeError(f"cannot send {object()!r}")


def repr_of_dict(r: random.Random) -> Any:
    raise ValueError(
        f"bad order: {dict.fromkeys((f'k{n}' for n in range(r.randrange(1, 6))), r.choice([None, True, 'a', 2.5]))}"
    )


def chained(r: random.Random) -> Any:
    try:
        key(r)
    except KeyError as error:
        raise LookupError(f"customer {r.randrange(10**6)} not read") from error


def while_handling(r: random.Random) -> Any:
    try:
        division(r)
    except ZeroDivisionError:
        raise_again(r)


def raise_again(r: random.Random) -> Any:
    raise ArithmeticError(f"no share of {r.randrange(99)}")


def in_a_comprehension(r: random.Random) -> Any:
    return [each["id"] for each in [{"x": r.random()}]]


def in_a_generator(r: random.Random) -> Any:
    return sum(1 / (each - 3) for each in range(9))


def in_a_lambda(r: random.Random) -> Any:
    return sorted([r.random(), "x"], key=lambda each: each + 1)


def deep(r: random.Random, left: int | None = None) -> Any:
    left = r.randrange(2, 40) if left is None else left
    if left == 0:
        raise RuntimeError(f"node {r.randrange(999)} has no parent")
    return deep(r, left - 1)


def group(r: random.Random) -> Any:
    raise ExceptionGroup(f"{r.randrange(2, 9)} parts failed", [ValueError(r.random()), KeyError(r.random())])


def noted(r: random.Random) -> Any:
    error = PermissionError(f"may not write as {r.choice(['ann', 'bob'])!r}")
    error.add_note(f"asked at {moment(r)}")
    raise error


def database_unique(r: random.Random) -> Any:
    with create_engine("sqlite://").begin() as conn:
        conn.execute(text("create table t (id integer primary key)"))
        id = r.randrange(10**6)
        for _ in range(2):
            conn.execute(text("insert into t values (:id)"), {"id": id})


def asynchronous(r: random.Random) -> Any:
    async def within() -> None:
        await asyncio.wait_for(asyncio.sleep(1), timeout=0)

    asyncio.run(within())


def quotes_a_traceback(r: random.Random) -> Any:
    raise ChildProcessError(
        f"exit code {r.randrange(1, 99)}:\nTraceback (most recent call last):\n"
        f'  File "/x/{r.random()}.py", line {r.randrange(99)}, in f{r.randrange(9)}\n    x\nValueError: {r.random()}'
    )


def smtp(r: random.Random) -> Any:
    raise RuntimeError(
        f"450 4.2.1 <u{r.randrange(99)}@{r.choice(['gmx', 'web'])}.example.org>: mailbox busy (id {r.getrandbits(40):X}A)"
    )


def wrong_arguments(r: random.Random) -> Any:
    division(*[r] * r.randrange(2, 9))


def assertion(r: random.Random) -> Any:
    assert r is None


def decoded(r: random.Random) -> Any:
    return bytes([65] * r.randrange(20) + [0xFF - r.randrange(9)]).decode("ascii")


def money(r: random.Random) -> Any:
    raise ValueError(
        f"card declined: {r.randrange(10**4)}.{r.randrange(100):02} EUR, charge ch_{r.getrandbits(50):x}9 at {moment(r):%d %b %Y %H:%M}"
    )


def a_bare_name(r: random.Random) -> Any:
    """Words that nothing marks as a value: a person sees one kind, no rule can."""
    raise LookupError(f"customer {r.choice(['ann', 'ann', 'ann', 'ann', 'bob'])} unknown")


def moment(r: random.Random) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=r.randrange(10**7))


KINDS: list[Callable[[random.Random], Any]] = [
    key, attribute, number, index, division, missing_file, relative_file, bad_json, no_such_order, gone_by_uuid, late, away,
    away_six, refused, http, repr_of_object, repr_of_dict, chained, while_handling, in_a_comprehension, in_a_generator, in_a_lambda,
    deep, group, noted, database_unique, asynchronous, quotes_a_traceback, smtp, wrong_arguments, assertion, decoded, money, a_bare_name,
]  # fmt: skip


def corpus(each: int) -> Iterator[Failed]:
    """So many of each kind; always the same ones, but for ports and addresses in memory."""
    r = random.Random(7)
    for kind in KINDS:
        for _ in range(each):
            yield _as_elsewhere(_raised(kind, r), r)


def _raised(kind: Callable[[random.Random], Any], r: random.Random) -> Failed:
    try:
        kind(r)
    except Exception as error:
        told = "".join(traceback.format_exception(error, limit=-30))
        return Failed(kind.__name__, f"{type(error).__name__}: {error}", told)
    raise AssertionError(f"{kind.__name__} raises nothing")


def _as_elsewhere(failed: Failed, r: random.Random) -> Failed:
    """The same from another machine, after an edit of the code, by a Python with or without its markers."""
    root = r.choice(["/app", f"/srv/releases/2026-11-2{r.randrange(9)}", "C:\\work", "/home/ann/shop"])
    message = failed.error.partition(": ")[2]
    frames, said, notes = failed.traceback.rpartition(message or "AssertionError")
    frames = re.sub(r'File "(/[^"]*)/tests/failures/', lambda _: f'File "{root}/tests/failures/', frames)
    frames = re.sub(r"(?<=, line )\d+(?=, in )", lambda found: str(int(found[0]) + r.randrange(-9, 9)), frames)
    if r.random() < 0.5:
        frames = re.sub(r"^ +[~^]+\n", "", frames, flags=re.MULTILINE)
    return failed._replace(traceback=frames + said + notes)
