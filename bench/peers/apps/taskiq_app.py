"""taskiq on RabbitMQ by aio-pika: a hundred tasks at a time in each of two workers, acknowledged when executed."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from taskiq_aio_pika import AioPikaBroker  # type: ignore[import-not-found]

from bench.apps.stamp import Stamps

ENQUEUE = "async"

broker = AioPikaBroker(os.environ["RABBITMQ_URL"], qos=100)
stamps = Stamps(os.environ["BENCH_STAMPS"])


@broker.task("noop")  # type: ignore[untyped-decorator]
async def noop(number: int, email: str, name: str) -> None:
    await stamps.perform_async(number)


@asynccontextmanager
async def sends() -> AsyncIterator[Callable[..., Awaitable[None]]]:
    await broker.startup()

    async def send(**arguments: object) -> None:
        await noop.kiq(**arguments)

    yield send
    await broker.shutdown()
