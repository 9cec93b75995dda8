"""`python -m bench.peers.drive SYSTEM prepare | fill COUNT | pace COUNT RATE | units SECONDS | work [PART]`.

Runs in the system's own environment, with `bench.peers.apps.SYSTEM_app`, a module that has

* `ENQUEUE`: "sync" or "async", the kind of session that its users have,
* `send_in(session, **arguments)` if it enqueues within the caller's transaction, else
  `sends()`, an asynchronous context of `send(**arguments)` that returns once the message is sent,
* `prepare()` where it needs tables, and `work(part)` where it has no command of its own that serves.

`pace` prints JSON [[number, before, after], …], the instants around the commit or the send;
`units` prints [units a second with the domain row alone, units a second with the task].
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from importlib import import_module
from inspect import isawaitable
from types import ModuleType
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from bench.peers.domain import TABLE, arguments, url, user

Instants = tuple[float, float]
CHUNK = 100


class Unit:
    """A unit of work on one system: `row` alone, or with the task too."""

    def __init__(self, app: ModuleType, send: Callable[..., Awaitable[None]] | None) -> None:
        self._app, self._send = app, send
        self._sessions = sync_sessions() if app.ENQUEUE == "sync" else async_sessions()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Any]:
        session = self._sessions()
        try:
            yield session
        finally:
            await _done(session.close())

    async def row(self, number: int) -> None:
        async with self.session() as session:
            await self._insert(session, number)
            await _done(session.commit())

    async def row_and_task(self, number: int) -> None:
        async with self.session() as session:
            await self._insert(session, number)
            if self._send is None:
                await _done(self._app.send_in(session, **arguments(number)))
            await _done(session.commit())
        if self._send is not None:
            await self._send(**arguments(number))

    async def task(self, number: int) -> Instants:
        """The instants around what makes the task known to others: the commit, or the send."""
        if self._send is not None:
            before = time.monotonic()
            await self._send(**arguments(number))
            return before, time.monotonic()
        async with self.session() as session:
            await _done(self._app.send_in(session, **arguments(number)))
            await _done(session.flush())
            before = time.monotonic()
            await _done(session.commit())
            return before, time.monotonic()

    async def many(self, numbers: range) -> None:
        """As fast as it goes: for a backlog."""
        if self._send is not None:
            await asyncio.gather(*(self._send(**arguments(number)) for number in numbers))
            return
        async with self.session() as session:
            for number in numbers:
                await _done(self._app.send_in(session, **arguments(number)))
            await _done(session.commit())

    async def _insert(self, session: Any, number: int) -> None:
        session.add(user(number))
        await _done(session.flush())


def sync_sessions() -> Callable[[], Any]:
    engine = create_engine(url("psycopg"))
    return lambda: Session(engine)


def async_sessions() -> Callable[[], Any]:
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine  # needs greenlet, which not every peer brings

    engine = create_async_engine(url("asyncpg"))
    return lambda: AsyncSession(engine)


async def fill(unit: Unit, count: int) -> None:
    for first in range(1, count + 1, CHUNK):
        await unit.many(range(first, min(first + CHUNK, count + 1)))


async def pace(unit: Unit, count: int, rate: float) -> list[tuple[int, float, float]]:
    taken = []
    began = time.monotonic() + 0.1
    for number in range(1, count + 1):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        taken.append((number, *await unit.task(number)))
    return taken


async def units(unit: Unit, seconds: float) -> list[float]:
    """Both by turns, so that what slows the machine down slows both."""
    kinds = (unit.row, unit.row_and_task)
    spent, made = [0.0, 0.0], 0
    for kind in kinds:
        await kind(0)
    while sum(spent) < seconds:
        for index, kind in enumerate(kinds):
            began = time.monotonic()
            for number in range(25):
                await kind(made + number)
            spent[index] += time.monotonic() - began
        made += 25
    return [made / each for each in spent]


async def main(system: str, verb: str, *words: str) -> None:
    app = import_module(f"bench.peers.apps.{system}_app")
    if verb == "prepare":
        sessions = sync_sessions() if app.ENQUEUE == "sync" else async_sessions()
        session = sessions()
        await _done(session.execute(TABLE))
        await _done(session.commit())
        await _done(session.close())
        if hasattr(app, "prepare"):
            await _done(app.prepare())
        return
    if verb == "work":
        await _done(app.work(*words))
        return
    async with app.sends() if hasattr(app, "sends") else nullcontext() as send:
        unit = Unit(app, send)
        if verb == "fill":
            await fill(unit, int(words[0]))
        elif verb == "pace":
            json.dump(await pace(unit, int(words[0]), float(words[1])), sys.stdout)
        elif verb == "units":
            json.dump(await units(unit, float(words[0])), sys.stdout)


async def _done(result: Any) -> None:
    if isawaitable(result):
        await result


if __name__ == "__main__":
    try:
        import uvloop

        uvloop.run(main(*sys.argv[1:]))
    except ModuleNotFoundError as error:
        if error.name != "uvloop":
            raise
        asyncio.run(main(*sys.argv[1:]))
