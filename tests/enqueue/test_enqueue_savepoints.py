"""I1: a savepoint that is rolled back takes its tasks along, and only its own."""

from __future__ import annotations

import logging

import pytest
from outbox_rows import Outbox, a_message
from sqlalchemy.orm import Session

from outbox import Task, enqueue
from outbox.enqueue import uncommitted


def add(session: Session, number: int) -> Task:
    return enqueue(session, a_message(number))


def numbers(outbox: Outbox) -> list[int]:
    return sorted(row["args"][0] for row in outbox.all())


@pytest.mark.parametrize("flushed", [True, False])
def test_a_rolled_back_savepoint_takes_only_its_own_tasks(outbox: Outbox, flushed: bool) -> None:
    with outbox.session() as session:
        add(session, 1)
        savepoint = session.begin_nested()
        add(session, 2)
        if flushed:
            session.flush()
        savepoint.rollback()
        assert [task.args for task in uncommitted(session)] == ["[1]"]
        add(session, 3)
        session.commit()
    assert numbers(outbox) == [1, 3]


@pytest.mark.parametrize("flushed", [True, False])
def test_a_released_savepoint_hands_its_tasks_to_the_transaction(outbox: Outbox, flushed: bool) -> None:
    with outbox.session() as session:
        with session.begin_nested():
            add(session, 1)
            if flushed:
                session.flush()
        assert len(uncommitted(session)) == 1
        session.rollback()
        assert uncommitted(session) == []
        with session.begin_nested():
            add(session, 2)
        session.commit()
    assert numbers(outbox) == [2]


def test_an_exception_in_a_savepoint_takes_its_tasks_along(outbox: Outbox) -> None:
    with outbox.session() as session:
        add(session, 1)
        with pytest.raises(ZeroDivisionError), session.begin_nested():
            add(session, 2)
            raise ZeroDivisionError
        session.commit()
    assert numbers(outbox) == [1]


def test_a_rolled_back_outer_savepoint_takes_the_released_inner_one_along(outbox: Outbox) -> None:
    with outbox.session() as session:
        add(session, 1)
        outer = session.begin_nested()
        add(session, 2)
        with session.begin_nested():
            add(session, 3)
        outer.rollback()
        assert [task.args for task in uncommitted(session)] == ["[1]"]
        session.commit()
    assert numbers(outbox) == [1]


def test_a_rolled_back_inner_savepoint_leaves_the_outer_one_whole(outbox: Outbox) -> None:
    with outbox.session() as session:
        with session.begin_nested():
            add(session, 1)
            inner = session.begin_nested()
            add(session, 2)
            session.flush()
            inner.rollback()
            add(session, 3)
        session.commit()
    assert numbers(outbox) == [1, 3]


def test_an_outer_savepoint_rolled_back_under_an_open_inner_one_takes_both_along(outbox: Outbox) -> None:
    with outbox.session() as session:
        add(session, 1)
        outer = session.begin_nested()
        add(session, 2)
        session.begin_nested()
        add(session, 3)
        session.flush()
        outer.rollback()
        assert [task.args for task in uncommitted(session)] == ["[1]"]
        session.commit()
    assert numbers(outbox) == [1]


def test_a_rollback_of_everything_takes_open_savepoints_along(outbox: Outbox) -> None:
    with outbox.session() as session:
        add(session, 1)
        session.begin_nested()
        add(session, 2)
        session.flush()
        session.get_transaction().rollback()  # type: ignore[union-attr]
        assert uncommitted(session) == []
        add(session, 3)
        session.commit()
    assert numbers(outbox) == [3]


def test_a_commit_inside_a_savepoint_is_not_yet_the_commit(outbox: Outbox) -> None:
    with outbox.session() as session:
        savepoint = session.begin_nested()
        add(session, 1)
        savepoint.commit()
        assert len(uncommitted(session)) == 1
        assert outbox.ids() == []
        session.commit()
        assert uncommitted(session) == []
    assert numbers(outbox) == [1]


def test_many_savepoints_one_after_another_keep_exactly_the_released_ones(outbox: Outbox) -> None:
    with outbox.session() as session:
        for number in range(40):
            savepoint = session.begin_nested()
            add(session, number)
            if number % 3 == 0:
                session.flush()
            savepoint.commit() if number % 2 else savepoint.rollback()
        session.commit()
    assert numbers(outbox) == list(range(1, 40, 2))


def test_a_session_closed_in_a_savepoint_names_all_that_it_dropped(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "outbox.enqueue"), outbox.session() as session:
        first = add(session, 1)
        session.begin_nested()
        second = add(session, 2)
        session.flush()
    assert outbox.ids() == []
    assert {task.id for task in uncommitted(session)} == {first.id, second.id}
    assert str(first.id) in caplog.text
    assert str(second.id) in caplog.text


def test_a_unit_test_s_outer_transaction_with_savepoints_sees_its_tasks_and_leaves_none(outbox: Outbox) -> None:
    """SQLAlchemy's recipe for tests: the session joins a transaction that is always rolled back."""
    with outbox.engine.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            add(session, 1)
            session.commit()
            add(session, 2)
            session.rollback()
            assert [row.args for row in session.query(Task)] == [[1]]
        outer.rollback()
    assert outbox.ids() == []
