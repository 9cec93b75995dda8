"""What becomes of the tasks that somebody follows: one statement for all of them, twice a second, while anybody does."""

from __future__ import annotations

import asyncio
import contextvars
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from outbox.errors import TaskNotFound
from outbox.ledger import Conn
from outbox.logs import get_logger
from outbox.reads import Reader, Standing
from service.database import driver_connection

__all__ = ["EVERY", "Watch", "has_ended"]

EVERY = timedelta(milliseconds=500)
_ENDED = frozenset({"succeeded", "dead", "cancelled"})

log = get_logger("service.watch")


def has_ended(standing: Standing) -> bool:
    return standing.task.state in _ENDED


class Watch:
    """Looks at every followed task on a connection that it gives back at once, however many follow. One a process.

    Whoever follows reads `standing` and waits for `news`; a look that finds the database away leaves what is known.
    """

    def __init__(self, engine: Engine, *, schema: str, most: int) -> None:
        self.most = most
        self.away = False
        self.closed = False
        self._engine = engine
        self._reader = Reader(schema)
        self._followed: Counter[UUID] = Counter()
        self._known: dict[UUID, Standing] = {}
        self._looked = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    @property
    def full(self) -> bool:
        return self._followed.total() >= self.most

    @contextmanager
    def follow(self, task_id: UUID) -> Iterator[None]:
        """From here on the task is looked at, until the block ends."""
        self._followed[task_id] += 1
        try:
            yield
        finally:
            self._followed[task_id] -= 1
            if not self._followed[task_id]:
                del self._followed[task_id]
                self._known.pop(task_id, None)

    async def first(self, task_id: UUID) -> None:
        """The look that a follower begins with. Raises TaskNotFound, and what the database raises."""
        before = self._known.get(task_id)
        self._learn(task_id, await asyncio.to_thread(self._on_connection, self._whole, task_id), before=before)
        if self._looking is None or self._looking.done():
            # A context of its own: what is logged while looking is no single request's.
            self._looking = asyncio.create_task(self._look_on(), context=contextvars.Context())

    def standing(self, task_id: UUID) -> Standing:
        """Where a followed task stood at the last look that succeeded."""
        return self._known[task_id]

    async def news(self, within: timedelta) -> None:
        """Returns after the next look, when the watch is closed, or when the time is over."""
        if self.closed:
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._looked.wait(), within.total_seconds())

    def close(self) -> None:
        """Nobody is to follow any longer: everybody who waits is told at once."""
        self.closed = True
        self._looked.set()

    async def end(self) -> None:
        self.close()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    async def _look_on(self) -> None:
        while self._followed and not self.closed:
            await asyncio.sleep(EVERY.total_seconds())
            await self._look()
            looked, self._looked = self._looked, asyncio.Event()
            looked.set()

    async def _look(self) -> None:
        before = {each: standing for each, standing in self._known.items() if not has_ended(standing)}
        try:
            found = await asyncio.to_thread(self._on_connection, self._all, list(before))
        except (SQLAlchemyError, psycopg.Error) as error:
            if not self.away:
                log.warning("followed tasks cannot be looked at", error=type(error).__name__)
            self.away = True
        else:
            self.away = False
            for each, standing in found.items():
                self._learn(each, standing, before=before[each])

    def _learn(self, task_id: UUID, standing: Standing, *, before: Standing | None) -> None:
        """Unless it was learnt otherwise while the look was under way, or nobody follows it any more."""
        if task_id in self._followed and self._known.get(task_id) is before:
            self._known[task_id] = standing

    def _on_connection(self, look: Callable[[Conn, Any], Any], subject: Any) -> Any:
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            return look(driver_connection(connection), subject)

    def _all(self, conn: Conn, ids: list[UUID]) -> dict[UUID, Standing]:
        found = self._reader.standing(conn, ids) if ids else {}
        for absent in set(ids) - set(found):
            with suppress(TaskNotFound):
                found[absent] = self._whole(conn, absent)
        return found

    def _whole(self, conn: Conn, task_id: UUID) -> Standing:
        task = self._reader.task(conn, task_id)
        if task is None:
            raise TaskNotFound
        return Standing(task, len(task.attempts))
