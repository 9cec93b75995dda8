"""Procrastinate: deferred on the caller's own connection, thirty tasks at a time in each of two processes."""

from __future__ import annotations

import logging
import os

import procrastinate  # type: ignore[import-not-found]
from sqlalchemy.orm import Session

from bench.apps.stamp import Stamps

ENQUEUE = "sync"

logging.getLogger("procrastinate").setLevel(logging.WARNING)
conninfo = os.environ["DATABASE_URL"]
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=conninfo))
producer = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=conninfo))
stamps = Stamps(os.environ["BENCH_STAMPS"])


@app.task(name="noop", queue="bench")  # type: ignore[untyped-decorator]
async def noop(number: int, email: str, name: str) -> None:
    await stamps.perform_async(number)


def send_in(session: Session, **arguments: object) -> None:
    raw = session.connection().connection.driver_connection
    producer.configure_task("noop", queue="bench", connection=raw).defer(**arguments)


async def prepare() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


async def work() -> None:
    async with app.open_async():
        await app.run_worker_async(queues=["bench"], concurrency=30, listen_notify=True)
