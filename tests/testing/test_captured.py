"""What `captured()` keeps: what was committed, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dramatiq
import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from outbox import ArgumentError, NoTransaction, OutboxBroker, enqueue
from outbox.fastapi import OutboxTasks, outbox_tasks
from outbox.testing import assert_enqueued, captured, refute_enqueued
from tests.testing.conftest import User


@pytest.fixture
def welcome(broker: OutboxBroker) -> Any:
    @dramatiq.actor(broker=broker, actor_name="welcome", queue_name="mail")
    def welcome(user_id: int, *, greeting: str = "Hello") -> None: ...

    return welcome


def test_a_committed_task_is_enqueued_with_its_options(session: Session, welcome: Any) -> None:
    with captured() as tasks:
        enqueue(session, welcome.message(1, greeting="Hi"), delay=timedelta(hours=1), ordering_key="u1", priority=3)
        session.commit()
        task = tasks.assert_enqueued(welcome)
    assert (task.args, task.kwargs, task.queue) == ([1], {"greeting": "Hi"}, "mail")
    assert task.arguments == {"user_id": 1, "greeting": "Hi"}
    assert (task.delay, task.ordering_key, task.priority, task.state) == (timedelta(hours=1), "u1", 3, "scheduled")


def test_nothing_is_enqueued_before_the_commit(session: Session, welcome: Any) -> None:
    with captured() as tasks:
        enqueue(session, welcome.message(1))
        session.flush()
        tasks.refute_enqueued(welcome)
        session.commit()
        tasks.assert_enqueued(welcome, times=1)


def test_a_rollback_takes_its_tasks_along(session: Session, welcome: Any) -> None:
    with captured() as tasks:
        enqueue(session, welcome.message(1))
        session.flush()
        session.rollback()
        enqueue(session, welcome.message(2))
        session.rollback()
        enqueue(session, welcome.message(3))
        session.commit()
    assert [task.args for task in tasks.tasks] == [[3]]


def test_a_rolled_back_savepoint_takes_its_tasks_along_and_no_others(session: Session, welcome: Any) -> None:
    with captured() as tasks:
        enqueue(session, welcome.message(1))
        with pytest.raises(RuntimeError), session.begin_nested():
            enqueue(session, welcome.message(2))
            session.flush()
            raise RuntimeError
        with session.begin_nested():
            enqueue(session, welcome.message(3))
        tasks.refute_enqueued(welcome)
        session.commit()
    assert [task.args for task in tasks.tasks] == [[1], [3]]


def test_the_tasks_of_a_savepoint_fall_with_the_transaction_around_it(session: Session, welcome: Any) -> None:
    with captured() as tasks:
        with session.begin_nested():
            enqueue(session, welcome.message(1))
        session.rollback()
        tasks.refute_enqueued(welcome)


def test_domain_rows_and_tasks_share_the_unit_of_work(session: Session, engine: Engine, welcome: Any) -> None:
    with captured() as tasks:
        user = User(email="ada@example.org")
        session.add(user)
        session.flush()
        OutboxTasks(session).add_task(welcome, user.id)
        session.commit()
        tasks.assert_enqueued(welcome, where={"user_id": user.id})
    with Session(engine) as other:
        assert other.scalars(select(User.email)).all() == ["ada@example.org"]


def test_send_outside_of_any_transaction_is_enqueued_at_once(welcome: Any) -> None:
    with captured() as tasks:
        message = welcome.send_with_options(args=(7,), delay=60_000)
        task = tasks.assert_enqueued(welcome, where={"user_id": 7})
    assert str(task.id) == message.message_id
    assert task.delay == timedelta(seconds=60)


def get_session(request: Request) -> Iterator[Session]:
    with Session(request.app.state.engine) as session:
        yield session


Tasks = outbox_tasks(get_session)


def signup(end: str, tasks: Tasks, request: Request) -> None:
    welcome = request.app.state.welcome
    tasks.add_task(welcome, 1)
    welcome.send(2)
    assert isinstance(tasks.session, Session)
    tasks.session.commit() if end == "commit" else tasks.session.rollback()


def test_send_in_a_request_joins_its_transaction(engine: Engine, welcome: Any) -> None:
    app = FastAPI()
    app.state.engine, app.state.welcome = engine, welcome
    app.post("/{end}")(signup)
    with captured() as tasks, TestClient(app) as client:
        client.post("/rollback").raise_for_status()
        tasks.refute_enqueued(welcome)
        client.post("/commit").raise_for_status()
    assert [task.args for task in tasks.tasks] == [[1], [2]]


def test_a_taken_unique_key_answers_the_task_that_holds_it(session: Session, welcome: Any) -> None:
    with captured() as tasks:
        first = enqueue(session, welcome.message(1), unique_key="u")
        same_flush = enqueue(session, welcome.message(2), unique_key="u")
        session.flush()
        later = enqueue(session, welcome.message(3), unique_key="u")
        session.commit()
        after = enqueue(session, welcome.message(4), unique_key="u")
        session.commit()
        assert {same_flush.id, later.id, after.id} == {first.id}
        assert [each.enqueued for each in (first, same_flush, later, after)] == [True, False, False, False]
        tasks.assert_enqueued(welcome, times=1)
        tasks.drain()
        enqueue(session, welcome.message(5), unique_key="u")
        session.commit()
        tasks.assert_enqueued(welcome, where={"user_id": 5})


def test_a_wrong_call_is_refused_as_in_production(session: Session, welcome: Any) -> None:
    with captured() as tasks:
        with pytest.raises(ArgumentError, match="is not JSON"):
            enqueue(session, welcome.message(datetime.now(UTC)))
        with pytest.raises(ArgumentError, match="user_id"):
            enqueue(session, welcome.message())
        session.commit()
        tasks.refute_enqueued(welcome)


def test_a_failed_assertion_says_what_was_enqueued(session: Session, welcome: Any) -> None:
    with captured() as tasks:
        with pytest.raises(AssertionError, match="Was the session committed"):
            tasks.assert_enqueued(welcome)
        enqueue(session, welcome.message(1))
        session.commit()
        with pytest.raises(AssertionError, match=r"found 0. Enqueued: welcome\(1\) \[pending\]"):
            tasks.assert_enqueued(welcome, where={"user_id": 2})
        with pytest.raises(AssertionError, match="expected none of welcome"):
            tasks.refute_enqueued("welcome", where=lambda task: task.args == [1])


def test_the_functions_speak_of_the_innermost_block(session: Session, welcome: Any) -> None:
    with captured():
        enqueue(session, welcome.message(1))
        session.commit()
        with captured():
            refute_enqueued(welcome)
        assert_enqueued(welcome)
    with pytest.raises(LookupError, match="with captured"):
        assert_enqueued(welcome)


def test_after_the_block_enqueue_needs_postgresql_again(engine: Engine, welcome: Any) -> None:
    with captured(), Session(engine) as session:
        enqueue(session, welcome.message(1))
        session.commit()
    with Session(engine) as session, pytest.raises(NoTransaction, match="needs PostgreSQL"):
        enqueue(session, welcome.message(1))
