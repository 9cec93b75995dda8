"""On the database of production too, `captured()` writes no row."""

from __future__ import annotations

import asyncio
from typing import Any

import dramatiq
import psycopg
import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from outbox import OutboxBroker, enqueue
from outbox.testing import captured


@pytest.fixture
def welcome(broker: OutboxBroker) -> Any:
    @dramatiq.actor(broker=broker, actor_name="welcome")
    def welcome(user_id: int) -> None: ...

    return welcome


def test_an_async_session_is_captured_and_nothing_reaches_the_table(database_url: str, welcome: Any) -> None:
    async def signup() -> None:
        engine = create_async_engine(make_url(database_url).set(drivername="postgresql+psycopg"))
        async with AsyncSession(engine) as session:
            enqueue(session, welcome.message(1))
            await session.commit()
            async with session.begin_nested() as savepoint:
                enqueue(session, welcome.message(2))
                await session.flush()
                await savepoint.rollback()
            await session.commit()
        await engine.dispose()

    with captured() as tasks:
        asyncio.run(signup())
        assert [task.args for task in tasks.tasks] == [[1]]
    with psycopg.connect(database_url) as conn:
        assert conn.execute("select count(*) from outbox.task").fetchone() == (0,)
