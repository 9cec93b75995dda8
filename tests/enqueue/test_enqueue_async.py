"""The same promises on an AsyncSession (I1, I11)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from outbox_rows import Outbox, a_message
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)

from outbox import NoTransaction, enqueue
from outbox.enqueue import uncommitted
from outbox.tasks import OutboxTasks

Story = Callable[[AsyncEngine], Awaitable[None]]


def tell(outbox: Outbox, story: Story, **options: Any) -> None:
    async def whole() -> None:
        engine = create_async_engine(outbox.engine.url, **options)
        try:
            await story(engine)
        finally:
            await engine.dispose()

    asyncio.run(whole())


def numbers(outbox: Outbox) -> list[int]:
    return sorted(row["args"][0] for row in outbox.all())


def test_commit_rollback_and_savepoints_on_an_async_session(outbox: Outbox) -> None:
    async def story(engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session:
            enqueue(session, a_message(1))
            await session.commit()
            enqueue(session, a_message(2))
            await session.rollback()
            enqueue(session, a_message(3))
            savepoint = await session.begin_nested()
            enqueue(session, a_message(4))
            await session.flush()
            await savepoint.rollback()
            async with session.begin_nested():
                enqueue(session, a_message(5))
            assert [task.args for task in uncommitted(session)] == ["[3]", "[5]"]
            await session.commit()
            assert uncommitted(session) == []

    tell(outbox, story)
    assert numbers(outbox) == [1, 3, 5]


def test_enqueueing_itself_does_no_io(outbox: Outbox) -> None:
    async def story(engine: AsyncEngine) -> None:
        sent: list[str] = []
        event.listen(engine.sync_engine, "before_cursor_execute", lambda *a: sent.append(a[2]))
        async with AsyncSession(engine) as session:
            for number in range(30):
                enqueue(session, a_message(number))  # outside of a greenlet: any I/O here would raise MissingGreenlet
            assert sent == []
            await session.commit()
        assert len(sent) == 1

    tell(outbox, story)
    assert numbers(outbox) == list(range(30))


def test_a_failed_task_cannot_be_committed_away_on_an_async_session(outbox: Outbox) -> None:
    taken = outbox.add(0)

    async def story(engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session:
            enqueue(session, a_message(1))
            await session.flush()
            enqueue(session, a_message(2), task_id=taken)
            with pytest.raises(DBAPIError):
                await session.flush()
            with pytest.raises(SQLAlchemyError):
                await session.commit()
            await session.rollback()

    tell(outbox, story)
    assert numbers(outbox) == [0]


def test_an_async_session_closed_with_tasks_says_so_loudly(outbox: Outbox, caplog: pytest.LogCaptureFixture) -> None:
    async def story(engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session:
            enqueue(session, a_message(1))
            await session.flush()

    with caplog.at_level(logging.ERROR, "outbox.enqueue"):
        tell(outbox, story)
    assert "never committed" in caplog.text
    assert numbers(outbox) == []


def test_an_async_engine_in_autocommit_is_refused(outbox: Outbox) -> None:
    async def story(engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session:
            with pytest.raises(NoTransaction, match="autocommit"):
                enqueue(session, a_message(1))

    tell(outbox, story, isolation_level="AUTOCOMMIT")


def test_an_async_connection_in_autocommit_is_refused(outbox: Outbox) -> None:
    async def story(engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session:
            await session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
            enqueue(session, a_message(1))
            with pytest.raises(NoTransaction, match="autocommit"):
                await session.commit()
            await session.rollback()

    tell(outbox, story)
    assert numbers(outbox) == []


def test_an_async_scoped_session_is_a_session(outbox: Outbox) -> None:
    async def story(engine: AsyncEngine) -> None:
        scoped = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
        enqueue(scoped, a_message(1))
        await scoped.commit()
        await scoped.remove()

    tell(outbox, story)
    assert numbers(outbox) == [1]


def test_concurrent_async_sessions_keep_their_tasks_apart(outbox: Outbox) -> None:
    async def one(engine: AsyncEngine, number: int) -> None:
        async with AsyncSession(engine) as session:
            OutboxTasks(session)
            await session.execute(text("select 1"))
            enqueue(session, a_message(number))
            await asyncio.sleep(0)
            await session.flush()
            await (session.commit() if number % 2 else session.rollback())

    async def story(engine: AsyncEngine) -> None:
        await asyncio.gather(*(one(engine, number) for number in range(40)))

    tell(outbox, story)
    assert numbers(outbox) == list(range(1, 40, 2))


def test_an_async_commit_wakes_the_relay(outbox: Outbox) -> None:
    outbox.conn.execute("listen outbox")
    try:

        async def story(engine: AsyncEngine) -> None:
            async with AsyncSession(engine) as session:
                enqueue(session, a_message(1))
                await session.commit()

        tell(outbox, story)
        assert len(list(outbox.conn.notifies(timeout=10, stop_after=1))) == 1
    finally:
        outbox.conn.execute("unlisten outbox")
