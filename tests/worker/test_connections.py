"""What each connection of a worker and a relay asks of PostgreSQL, as that has understood it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from awaiting import await_that
from sqlalchemy import text
from wire import Wire
from workshop import MakeWorkshop

from outbox import current_run, database

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
