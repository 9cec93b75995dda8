"""faststream-outbox: published in the caller's transaction, one relay to RabbitMQ, one consumer there."""

from __future__ import annotations

import logging
import os
from typing import Any

from faststream import FastStream  # type: ignore[import-not-found]
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue  # type: ignore[import-not-found]
from faststream_outbox import OutboxBroker, make_outbox_table  # type: ignore[import-not-found]
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from bench.apps.stamp import Stamps
from bench.peers.domain import url

ENQUEUE = "async"

metadata = MetaData()
table = make_outbox_table(metadata, table_name="faststream_outbox")
engine = create_async_engine(url("asyncpg"), pool_size=20)
outbox = OutboxBroker(engine, outbox_table=table, log_level=logging.DEBUG, logger=None)
queue = RabbitQueue("bench", durable=True)
stamps = Stamps(os.environ["BENCH_STAMPS"])


def rabbit() -> Any:
    return RabbitBroker(os.environ["RABBITMQ_URL"], default_channel=Channel(prefetch_count=100), logger=None)


async def send_in(session: AsyncSession, **arguments: object) -> None:
    await outbox.publish(arguments, queue="bench", session=session)


async def prepare() -> None:
    async with engine.begin() as conn:
        await conn.run_sync(metadata.create_all)


async def work(part: str) -> None:
    await {"relay": relay, "consumer": consumer}[part]()


async def relay() -> None:
    broker = rabbit()
    publisher = broker.publisher(queue, persist=True)
    options = {"max_workers": 16, "fetch_batch_size": 100, "terminal_flush_batch_size": 100, "min_fetch_interval": 0.01}

    @publisher  # type: ignore[untyped-decorator]
    @outbox.subscriber("bench", **options)  # type: ignore[untyped-decorator]
    async def pass_on(body: dict[str, Any]) -> dict[str, Any]:
        return body

    async def connect() -> None:
        await broker.connect()
        await broker.declare_queue(queue)

    await FastStream(outbox, on_startup=[connect], logger=None).run()


async def consumer() -> None:
    broker = rabbit()

    @broker.subscriber(queue)  # type: ignore[untyped-decorator]
    async def noop(body: dict[str, Any]) -> None:
        await stamps.perform_async(body["number"])

    await FastStream(broker, logger=None).run()
