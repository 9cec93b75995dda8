"""I1: tasks and domain rows exist together or not at all, whatever becomes of the session."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from outbox_rows import Outbox, a_message
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError, PendingRollbackError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

from outbox import ArgumentError, NoTransaction, enqueue
from outbox.enqueue import uncommitted


class Base(DeclarativeBase): ...


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)


@pytest.fixture
def users(outbox: Outbox) -> Callable[[], list[str]]:
    """The committed users."""
    Base.metadata.create_all(outbox.engine)
    outbox.conn.execute("delete from users")

    def emails() -> list[str]:
        return [email for (email,) in outbox.conn.execute("select email from users order by id").fetchall()]

    return emails


Users = Callable[[], list[str]]


def test_a_commit_makes_row_and_task_exist_together(outbox: Outbox, users: Users) -> None:
    with outbox.session() as session:
        session.add(User(email="a@example.org"))
        task = enqueue(session, a_message(1))
        assert (users(), outbox.ids()) == ([], [])
        session.flush()
        assert (users(), outbox.ids()) == ([], [])
        session.commit()
    assert (users(), outbox.ids()) == (["a@example.org"], [task.id])


@pytest.mark.parametrize("flushed", [True, False])
def test_a_rollback_takes_the_tasks_along(outbox: Outbox, users: Users, flushed: bool) -> None:
    with outbox.session() as session:
        session.add(User(email="a@example.org"))
        enqueue(session, a_message(1))
        if flushed:
            session.flush()
        session.rollback()
        assert uncommitted(session) == []
        session.commit()
    assert (users(), outbox.ids()) == ([], [])


def test_an_exception_in_session_begin_takes_the_tasks_along(outbox: Outbox, users: Users) -> None:
    with pytest.raises(ZeroDivisionError), outbox.session() as session, session.begin():
        session.add(User(email="a@example.org"))
        enqueue(session, a_message(1))
        session.flush()
        raise ZeroDivisionError
    assert (users(), outbox.ids()) == ([], [])


def test_a_session_is_used_again_after_commit_and_rollback(outbox: Outbox) -> None:
    with outbox.session() as session:
        first = enqueue(session, a_message(1))
        session.commit()
        enqueue(session, a_message(2))
        session.rollback()
        third = enqueue(session, a_message(3))
        session.commit()
    assert outbox.ids() == [first.id, third.id]


def test_a_task_added_alone_is_committed_by_commit(outbox: Outbox) -> None:
    with outbox.session() as session:
        task = enqueue(session, a_message(1))
        session.commit()
    assert outbox.ids() == [task.id]


def test_autoflush_writes_the_task_so_that_a_query_sees_it(outbox: Outbox) -> None:
    with outbox.session() as session:
        enqueue(session, a_message(1))
        session.connection()
        count = session.scalar(text("select count(*) from outbox.task"))
        assert count == 0 or count == 1  # a textual query flushes first from SQLAlchemy 2 on; both are right
        session.flush()
        assert session.scalar(text("select count(*) from outbox.task")) == 1
        session.rollback()
    assert outbox.ids() == []


def test_a_flush_that_fails_for_a_domain_row_leaves_no_task(outbox: Outbox, users: Users) -> None:
    with outbox.session() as session:
        session.add(User(email="a@example.org"))
        session.commit()
        session.add(User(email="a@example.org"))
        enqueue(session, a_message(1))
        with pytest.raises(DBAPIError):
            session.flush()
        with pytest.raises(PendingRollbackError):
            session.commit()
        session.rollback()
        session.commit()
    assert (users(), outbox.ids()) == (["a@example.org"], [])


def test_a_flush_that_fails_for_a_task_cannot_be_committed_away(outbox: Outbox, users: Users) -> None:
    """PostgreSQL answers COMMIT of a failed transaction by a silent ROLLBACK: the session must know better."""
    with outbox.session() as session:
        session.add(User(email="a@example.org"))
        session.flush()
        enqueue(session, a_message(1), task_id=outbox.add(1))
        with pytest.raises(DBAPIError):
            session.flush()
        with pytest.raises(SQLAlchemyError):
            session.commit()
        session.rollback()
    assert (users(), len(outbox.ids())) == ([], 1)


def test_a_failed_task_in_a_savepoint_is_gone_with_the_savepoint(outbox: Outbox, users: Users) -> None:
    taken = outbox.add(1)
    with outbox.session() as session:
        session.add(User(email="a@example.org"))
        with pytest.raises(DBAPIError), session.begin_nested():
            enqueue(session, a_message(1), task_id=taken)
            session.flush()
        kept = enqueue(session, a_message(2))
        session.commit()
    assert users() == ["a@example.org"]
    assert set(outbox.ids()) == {taken, kept.id}


@pytest.mark.parametrize("flushed", [True, False])
def test_a_session_closed_with_tasks_says_so_loudly(
    outbox: Outbox, caplog: pytest.LogCaptureFixture, flushed: bool
) -> None:
    with caplog.at_level(logging.ERROR, "outbox.enqueue"), outbox.session() as session:
        task = enqueue(session, a_message(1))
        if flushed:
            session.flush()
    assert outbox.ids() == []
    assert "never committed" in caplog.text
    assert str(task.id) in caplog.text
    assert "send_mail" in caplog.text
    assert [each.id for each in uncommitted(session)] == [task.id]


def test_a_committed_or_rolled_back_session_closes_in_silence(outbox: Outbox, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "outbox"):
        with outbox.session() as session:
            enqueue(session, a_message(1))
            session.commit()
        with outbox.session() as session:
            enqueue(session, a_message(1))
            session.rollback()
        with outbox.session() as session:
            session.execute(text("select 1"))
    assert caplog.text == ""


def test_a_lost_connection_leaves_neither_row_nor_task(outbox: Outbox, users: Users) -> None:
    with outbox.session() as session:
        session.add(User(email="a@example.org"))
        enqueue(session, a_message(1))
        session.flush()
        backend = session.scalar(text("select pg_backend_pid()"))
        outbox.conn.execute("select pg_terminate_backend(%s)", [backend])
        with pytest.raises(DBAPIError):
            session.commit()
        session.rollback()
    assert (users(), outbox.ids()) == ([], [])


# ---------------------------------------------------------------------- sessions that promise nothing


def test_an_engine_in_autocommit_is_refused(outbox: Outbox) -> None:
    engine = create_engine(outbox.engine.url, isolation_level="AUTOCOMMIT")
    with Session(engine) as session, pytest.raises(NoTransaction, match="autocommit"):
        enqueue(session, a_message(1))
    with (
        Session(outbox.engine.execution_options(isolation_level="AUTOCOMMIT")) as session,
        pytest.raises(NoTransaction, match="autocommit"),
    ):
        enqueue(session, a_message(1))
    engine.dispose()
    assert outbox.ids() == []


def test_a_connection_in_autocommit_is_refused(outbox: Outbox, users: Users) -> None:
    with (
        outbox.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        Session(connection) as session,
        pytest.raises(NoTransaction, match="autocommit"),
    ):
        enqueue(session, a_message(1))
        session.flush()
    with outbox.session() as session:
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        with pytest.raises(NoTransaction, match="autocommit"):
            enqueue(session, a_message(1))
            session.flush()
        session.rollback()
    assert outbox.ids() == []


def test_another_database_is_refused() -> None:
    engine = create_engine("sqlite://")
    with Session(engine) as session, pytest.raises(NoTransaction, match=r"postgresql\+psycopg.*sqlite"):
        enqueue(session, a_message(1))
    engine.dispose()


def test_what_is_no_session_is_refused(outbox: Outbox) -> None:
    for nothing in (None, object(), outbox.engine, outbox.conn):
        with pytest.raises(NoTransaction, match=r"needs a SQLAlchemy Session"):
            enqueue(nothing, a_message(1))  # type: ignore[arg-type]


def test_a_session_without_autobegin_needs_its_begin(outbox: Outbox) -> None:
    with outbox.session(autobegin=False) as session:
        with pytest.raises(NoTransaction, match=r"send_mail.*no transaction"):
            enqueue(session, a_message(1))
        with session.begin():
            task = enqueue(session, a_message(2))
    assert outbox.ids() == [task.id]


def test_a_session_closed_for_good_is_refused(outbox: Outbox) -> None:
    session = outbox.session(close_resets_only=False)
    session.close()
    with pytest.raises(NoTransaction, match="closed"):
        enqueue(session, a_message(1))


def test_a_scoped_session_is_a_session(outbox: Outbox) -> None:
    scoped = scoped_session(sessionmaker(outbox.engine))
    task = enqueue(scoped, a_message(1))
    scoped.commit()
    scoped.remove()
    assert outbox.ids() == [task.id]


def test_what_is_no_message_is_refused(outbox: Outbox) -> None:
    with outbox.session() as session, pytest.raises(ArgumentError, match=r"actor\.message"):
        enqueue(session, print)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- sessions bound in other ways


def test_a_session_on_a_connection_joins_its_transaction(outbox: Outbox, users: Users) -> None:
    with outbox.engine.connect() as connection:
        with connection.begin() as outer:
            with Session(connection) as session:
                session.add(User(email="a@example.org"))
                enqueue(session, a_message(1))
                session.commit()
            outer.rollback()
        assert (users(), outbox.ids()) == ([], [])
        with connection.begin(), Session(connection) as session:
            session.add(User(email="a@example.org"))
            enqueue(session, a_message(1))
            session.commit()
    assert (users(), len(outbox.ids())) == (["a@example.org"], 1)


def test_a_session_with_several_engines_writes_tasks_where_the_outbox_is(outbox: Outbox) -> None:
    from outbox.models import Base as OutboxBase

    elsewhere = create_engine("sqlite://")
    with Session(binds={OutboxBase: outbox.engine, Base: elsewhere}) as session:
        task = enqueue(session, a_message(1))
        session.commit()
    elsewhere.dispose()
    assert outbox.ids() == [task.id]


def test_a_wake_up_that_fails_does_not_make_a_committed_request_fail(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    class Mute:
        ledger, max_payload = outbox.ledger, 1000

        def committed(self, session: Session) -> None:
            raise RuntimeError("can't create new thread at interpreter shutdown")

    with caplog.at_level(logging.WARNING, "outbox"), outbox.session(info={"outbox": Mute()}) as session:
        task = enqueue(session, a_message(1))
        session.commit()
    assert outbox.ids() == [task.id]
    assert "interpreter shutdown" in caplog.text


def test_a_maker_of_sessions_is_not_a_session(outbox: Outbox) -> None:
    """It would make one for the task alone, that nobody ever commits."""
    with pytest.raises(NoTransaction, match=r"needs a SQLAlchemy Session.*sessionmaker"):
        enqueue(sessionmaker(outbox.engine), a_message(1))  # type: ignore[arg-type]


def test_a_session_without_an_engine_is_refused() -> None:
    with Session() as session, pytest.raises(NoTransaction, match="bound to a database"):
        enqueue(session, a_message(1))
