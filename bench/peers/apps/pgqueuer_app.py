"""PgQueuer: enqueued on the caller's own connection, a thousand jobs at a time over a pool, on uvloop."""

from __future__ import annotations

import json
import os

import asyncpg  # type: ignore[import-untyped]
from pgqueuer import PgQueuer  # type: ignore[import-not-found]
from pgqueuer.db import AsyncpgDriver  # type: ignore[import-not-found]
from pgqueuer.models import Job  # type: ignore[import-not-found]
from pgqueuer.queries import Queries  # type: ignore[import-not-found]
from sqlalchemy.ext.asyncio import AsyncSession

from bench.apps.stamp import Stamps

ENQUEUE = "async"

stamps = Stamps(os.environ["BENCH_STAMPS"])


async def send_in(session: AsyncSession, **arguments: object) -> None:
    raw = await (await session.connection()).get_raw_connection()
    queries = Queries(AsyncpgDriver(raw.driver_connection))
    await queries.enqueue("noop", json.dumps(arguments).encode())


async def prepare() -> None:
    conn = await asyncpg.connect(os.environ["DATABASE_URL"])
    await Queries(AsyncpgDriver(conn)).install()
    await conn.close()


async def work() -> None:
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=2, max_size=8) as pool:
        queuer = PgQueuer.from_asyncpg_pool(pool)

        @queuer.entrypoint("noop")  # type: ignore[untyped-decorator]
        async def noop(job: Job) -> None:
            assert job.payload is not None
            await stamps.perform_async(json.loads(job.payload)["number"])

        await queuer.run(batch_size=1000)
