"""arq: a hundred jobs at a time, polled every 10 ms, no results kept."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from arq import create_pool  # type: ignore[import-not-found]
from arq.connections import RedisSettings  # type: ignore[import-not-found]

from bench.apps.stamp import Stamps

ENQUEUE = "async"

settings = RedisSettings.from_dsn(os.environ["REDIS_URL"])
stamps = Stamps(os.environ["BENCH_STAMPS"])


async def noop(_: dict[str, Any], number: int, email: str, name: str) -> None:
    await stamps.perform_async(number)


class Worker:
    functions = (noop,)
    redis_settings = settings
    max_jobs = 100
    poll_delay = 0.01
    keep_result = 0


@asynccontextmanager
async def sends() -> AsyncIterator[Callable[..., Awaitable[None]]]:
    pool = await create_pool(settings)

    async def send(**arguments: object) -> None:
        await pool.enqueue_job("noop", **arguments)

    yield send
    await pool.aclose()
