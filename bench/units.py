"""`python -m bench.units COUNT`: units of work in turn, with a domain row alone, with 1 task and with 10 beside it.

By a Session and by an AsyncSession. Prints JSON: {"sync 0": [wall, processor], …}, seconds of all COUNT of them. The
processor's are this process's: SQLAlchemy, driver and enqueue; PostgreSQL has its own.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from bench.apps.ours import broker, noop
from bench.peers.domain import User
from bench.tasks import arguments
from outbox import enqueue

TASKS = (0, 1, 10)
WARM_UP = 50


class Clock:
    """What the units of each kind took: wall and processor, in seconds."""

    def __init__(self) -> None:
        self.taken: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    @contextmanager
    def times(self, kind: str) -> Iterator[None]:
        wall, processor = time.perf_counter(), time.thread_time()
        yield
        self.taken[kind][0] += time.perf_counter() - wall
        self.taken[kind][1] += time.thread_time() - processor


def by_session(clock: Clock, count: int) -> None:
    engine = create_engine(broker.settings.sqlalchemy_url)
    for number in range(count):
        for tasks in TASKS:
            with clock.times(f"sync {tasks}"), Session(engine) as session:
                session.add(user := User(email=f"someone{number}@example.com", name="Someone Very Nice"))
                session.flush()
                _enqueue(session, user.id, tasks)
                session.commit()
    engine.dispose()


async def by_async_session(clock: Clock, count: int) -> None:
    engine = create_async_engine(broker.settings.sqlalchemy_url)
    for number in range(count):
        for tasks in TASKS:
            with clock.times(f"async {tasks}"):
                async with AsyncSession(engine) as session:
                    session.add(user := User(email=f"someone{number}@example.com", name="Someone Very Nice"))
                    await session.flush()
                    _enqueue(session, user.id, tasks)
                    await session.commit()
    await engine.dispose()


def _enqueue(session: Session | AsyncSession, user_id: int, tasks: int) -> None:
    for _ in range(tasks):
        args, kwargs = arguments(user_id)
        enqueue(session, noop.message(*args, **kwargs))


def main(count: int) -> None:
    for number in (WARM_UP, count):
        by_session(clock := Clock(), number)
        asyncio.run(by_async_session(clock, number))
    json.dump(clock.taken, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]))
