"""Celery: acknowledged late, publisher confirms, no results."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from celery import Celery  # type: ignore[import-not-found]

from bench.apps.stamp import Stamps

ENQUEUE = "sync"

app = Celery("bench", broker=os.environ["RABBITMQ_URL"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=64,
    worker_send_task_events=False,
    task_default_queue="bench",
    broker_connection_retry_on_startup=True,
    broker_transport_options={"confirm_publish": True},
)
stamps = Stamps(os.environ["BENCH_STAMPS"])


@app.task(name="noop")  # type: ignore[untyped-decorator]
def noop(number: int, email: str = "", name: str = "") -> None:
    stamps.perform(number)


@asynccontextmanager
async def sends() -> AsyncIterator[Callable[..., Awaitable[None]]]:
    with app.producer_or_acquire() as producer:

        async def send(**arguments: object) -> None:
            noop.apply_async(kwargs=arguments, producer=producer)

        yield send
