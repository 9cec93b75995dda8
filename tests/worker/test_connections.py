"""What each connection of a worker and a relay asks of PostgreSQL, as that has understood it."""

from __future__ import annotations

import time
from datetime import timedelta
from functools import partial
from typing import Any, cast

import psycopg
import pytest
from awaiting import await_that
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from wire import Wire
from workshop import MakeWorkshop

from outbox import current_run, database
from outbox.database import UNLIMITED, PromptConnection, answered

ASKED = "select current_setting('idle_in_transaction_session_timeout'), current_setting('enable_seqscan')"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, str]]:
    """(how long it may idle in a transaction, whether it may read whole tables) of each connection, by its name."""
    made: dict[str, tuple[str, str]] = {}
    connect = database.connect

    def look(conninfo: str, *, name: str, **options: Any) -> Any:
        conn = connect(conninfo, name=name, **options)
        ((idle, seqscan),) = conn.execute(ASKED).fetchall()
        made[name] = (idle, seqscan)
        return conn

    monkeypatch.setattr(database, "connect", look)
    return made


def test_a_frozen_process_holds_no_lock_for_ever_and_what_names_its_rows_reads_no_whole_table(
    make_workshop: MakeWorkshop, made: dict[str, tuple[str, str]]
) -> None:
    """I5, I12: idle in a transaction, it is ended by the server; its plans are none of an empty table."""
    workshop = make_workshop(lease=timedelta(seconds=7))

    @workshop.actor()
    def note() -> None: ...

    message = note.send()
    workshop.publish()
    workshop.await_state(message.message_id, "published")
    workshop.work()
    workshop.await_state(message.message_id, "succeeded")
    assert {name: idle for name, (idle, _) in made.items() if name in ("relay keeper", "settle")} == {
        "relay keeper": "7s",
        "settle": "7s",
    }
    assert {made[name][0] for name in ("relay registry", "relay epoch", "topology")} == {"30s"}
    assert {name for name, (_, seqscan) in made.items() if seqscan == "off"} == {
        "claim default", "settle", "relay carrier", "relay chronicle",
    }  # fmt: skip


def test_a_process_takes_every_letter_whatever_its_environment_calls_its_encoding(
    make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim answers the task's message: one letter that the encoding lacks would hold up the whole queue."""
    workshop = make_workshop()
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    said: list[str] = []

    @workshop.actor(max_retries=0)
    def say(words: str) -> None:
        said.append(current_run().session().execute(text("select :words"), {"words": words}).scalar_one())

    message = say.send("Привет 💣")
    workshop.open()
    workshop.await_state(message.message_id, "succeeded", "dead")
    assert said == ["Привет 💣"]


def test_a_worker_whose_database_falls_silent_behind_a_proxy_works_again(
    make_workshop: MakeWorkshop, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy takes every byte, so TCP notices nothing: the heartbeat waited for its answer for ever, and the claim too."""
    monkeypatch.setattr("outbox.station.PROMPT", timedelta(seconds=1))
    wire = Wire(database_url)
    beside, workshop = make_workshop(), make_workshop(lease=timedelta(seconds=1), database_url=wire.url)
    ran: list[int] = []
    for each in (beside, workshop):
        each.actor(actor_name="note")(ran.append)
    beside.publish()
    workshop.work()
    beside.broker.get_actor("note").send(1)
    await_that(lambda: ran == [1])
    wire.vanish()
    beside.broker.get_actor("note").send(2)
    await_that(lambda: ran == [1, 2])
    wire.close()


def test_an_engine_s_pool_does_not_wait_for_a_database_that_fell_silent(database_url: str) -> None:
    """A connection at rest is asked before it is lent, and one in a transaction is rolled back: neither for ever."""
    second, wire = timedelta(seconds=1), Wire(database_url)
    engine = answered(create_engine(wire.url, pool_pre_ping=True), at_rest=second)
    with engine.connect() as conn:
        assert conn.execute(text("select 1")).scalar() == 1
        assert cast(PromptConnection, conn.connection.driver_connection).within == UNLIMITED
    wire.vanish()
    began = time.monotonic()
    with engine.begin() as conn:
        conn.execute(text("select pg_sleep(1.5)"))  # its own affair
        wire.vanish()
        with pytest.raises(OperationalError, match="no answer within 1 s"):
            conn.rollback()
    with engine.connect() as conn:
        conn.execute(text("select 1"))
        conn.rollback()
        conn.execute(text("select pg_sleep(1.5)"))  # of the next transaction
    assert 2 < time.monotonic() - began < 10
    engine.dispose()
    wire.close()


def test_what_ended_a_connection_is_told_and_not_what_came_of_it(database_url: str) -> None:
    """An outage must look like one: whoever rolls back afterwards must not meet an error of another kind."""
    engine = answered(create_engine(database_url))
    with pytest.raises(OperationalError, match="administrator command"), Session(engine) as session, session.begin():
        pid = session.scalar(text("select pg_backend_pid()"))
        with psycopg.connect(database_url, autocommit=True) as beside:
            beside.execute("select pg_terminate_backend(%s)", [pid])
        session.execute(text("select 1"))
    with Session(engine) as session:
        assert session.scalar(text("select 1")) == 1
    engine.dispose()


def test_actors_write_on_a_connection_that_works_when_the_one_before_fell_silent(
    make_workshop: MakeWorkshop, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each thread had one of the pool, which was asked whether it lives, and the time limit, minutes later, ended the wait."""
    monkeypatch.setattr("outbox.station.PROMPT", timedelta(seconds=1))
    monkeypatch.setattr("outbox.broker.database.answered", partial(answered, at_rest=timedelta(seconds=1)))
    wire = Wire(database_url)
    beside, workshop = make_workshop(), make_workshop(lease=timedelta(seconds=1), database_url=wire.url)
    ran: list[int] = []

    def write(number: int) -> None:
        current_run().session().execute(text("select 1"))
        ran.append(number)

    for each in (beside, workshop):
        each.actor(actor_name="write")(write)
    beside.publish()
    workshop.work()
    for number in range(4):
        beside.broker.get_actor("write").send(number)
    await_that(lambda: sorted(ran) == [0, 1, 2, 3])
    wire.vanish()
    last = beside.broker.get_actor("write").send(4)
    workshop.await_state(last.message_id, "succeeded")
    wire.close()
