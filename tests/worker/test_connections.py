"""What each connection of a worker and a relay asks of PostgreSQL, as that has understood it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from workshop import MakeWorkshop

from outbox import database

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
    assert {name for name, (_, seqscan) in made.items() if seqscan == "off"} == {"claim default", "settle"}
