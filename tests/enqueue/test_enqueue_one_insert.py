"""I11: the business transaction pays one INSERT a flush: no NOTIFY, no broker, no further round trip."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from outbox_rows import Outbox, a_message
from sqlalchemy import event, text

from outbox import enqueue


@pytest.fixture
def statements(outbox: Outbox) -> Iterator[list[str]]:
    """What SQLAlchemy sends, in order."""
    sent: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    event.listen(outbox.engine, "before_cursor_execute", note)
    yield sent
    event.remove(outbox.engine, "before_cursor_execute", note)


@pytest.mark.parametrize("count", [1, 2, 250])
def test_any_number_of_tasks_is_one_statement(outbox: Outbox, statements: list[str], count: int) -> None:
    with outbox.session() as session:
        for number in range(count):
            enqueue(session, a_message(number), priority=number % 3, delay=timedelta(seconds=number % 2))
        assert statements == []
        session.commit()
    assert len(statements) == 1
    assert "insert into outbox.task" in statements[0]
    assert sorted(row["args"][0] for row in outbox.all()) == list(range(count))


def test_ordering_and_concurrency_keys_cost_no_statement_of_their_own(outbox: Outbox, statements: list[str]) -> None:
    with outbox.session() as session:
        for number in range(20):
            enqueue(session, a_message(number), ordering_key=f"k{number % 4}")
            enqueue(session, a_message(number), concurrency_key=f"k{number % 4}", concurrency_limit=2)
            enqueue(session, a_message(number), unique_key=f"u{number}")
        session.commit()
    assert len(statements) == 1
    assert len(outbox.ids()) == 60


def test_each_flush_writes_what_was_added_since_the_last(outbox: Outbox, statements: list[str]) -> None:
    with outbox.session() as session:
        enqueue(session, a_message(1))
        session.flush()
        session.flush()
        enqueue(session, a_message(2))
        enqueue(session, a_message(3))
        session.flush()
        session.commit()
    assert len(statements) == 2
    assert len(outbox.ids()) == 3


def test_a_session_without_tasks_pays_nothing(outbox: Outbox, statements: list[str]) -> None:
    with outbox.session() as session:
        session.execute(text("select 1"))
        session.commit()
    assert statements == ["select 1"]


INSERTED = text(
    "select relname, n_tup_ins, n_tup_upd + n_tup_del from pg_stat_xact_user_tables "
    "where schemaname = 'outbox' order by relname"
)
LOCKS = text("select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()")


def test_rows_of_the_task_table_are_all_that_the_server_writes_and_no_lock_is_taken(outbox: Outbox) -> None:
    """The server's own count, whatever the client library says it sent."""
    with outbox.session() as session:
        before = {name: (inserted, changed) for name, inserted, changed in session.execute(INSERTED)}
        for number in range(10):
            enqueue(session, a_message(number))
        session.flush()
        after = {name: (inserted, changed) for name, inserted, changed in session.execute(INSERTED)}
        inserted, changed = before.pop("task")
        assert after.pop("task") == (inserted + 10, changed)
        assert after == before
        assert session.scalar(LOCKS) == 0
        session.rollback()
