"""RQ: two `SimpleWorker`s, which do not fork for each job; no results kept."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from redis import Redis  # type: ignore[import-not-found]
from rq import Queue, SimpleWorker  # type: ignore[import-not-found]

from bench.apps.stamp import Stamps

ENQUEUE = "sync"

redis = Redis.from_url(os.environ["REDIS_URL"])
queue = Queue("bench", connection=redis)
stamps = Stamps(os.environ["BENCH_STAMPS"])


def noop(number: int, email: str, name: str) -> None:
    stamps.perform(number)


@asynccontextmanager
async def sends() -> AsyncIterator[Callable[..., Awaitable[None]]]:
    async def send(**arguments: object) -> None:
        queue.enqueue("bench.peers.apps.rq_app.noop", kwargs=arguments, result_ttl=0)

    yield send


def work() -> None:
    SimpleWorker([queue], connection=redis).work(logging_level=logging.WARNING)
