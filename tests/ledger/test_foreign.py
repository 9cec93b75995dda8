"""Messages of another producer become rows once, however often they come and whatever became of the row (I2)."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from outbox_rows import Outbox, a_message
from states import cancel

from outbox import foreign
from outbox.ledger import Conn


def adopt(outbox: Outbox, message: dramatiq.Message[Any]) -> None:
    foreign.adopt(outbox.conn, outbox.ledger, message, queue="mail", body=message.encode())


def aside(outbox: Outbox) -> int:
    return int(outbox.conn.execute("select count(*) from outbox.audit").fetchall()[0][0])


def end(outbox: Outbox, outcome: str) -> None:
    """The only task ends so."""
    (id,) = outbox.ids()
    if outcome == "cancelled":
        cancel(outbox, id)
    else:
        claimed = outbox.must_claim(id, outbox.a_worker())
        outbox.succeed(claimed) if outcome == "succeeded" else outbox.end_dead(claimed)


@pytest.mark.parametrize("outcome", ["succeeded", "dead", "cancelled"])
def test_a_foreign_message_whose_task_has_ended_is_not_run_again(outbox: Outbox, outcome: str) -> None:
    message: dramatiq.Message[Any] = a_message("from elsewhere")
    adopt(outbox, message)
    end(outbox, outcome)
    adopt(outbox, message)
    assert outbox.ids() == []
    assert aside(outbox) == 0


def test_nor_is_one_whose_task_ends_while_its_second_copy_is_looked_at(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    message: dramatiq.Message[Any] = a_message("from elsewhere")
    adopt(outbox, message)
    enqueue, beside = outbox.ledger.enqueue, Outbox(outbox.url)

    def enqueue_late(conn: Conn, rows: str) -> None:
        end(beside, "succeeded")
        enqueue(conn, rows)

    monkeypatch.setattr(outbox.ledger, "enqueue", enqueue_late)
    adopt(outbox, message)
    beside.close()
    assert outbox.ids() == []


def test_a_foreign_message_whose_task_lives_is_left_alone(outbox: Outbox) -> None:
    message: dramatiq.Message[Any] = a_message("from elsewhere")
    adopt(outbox, message)
    (id,) = outbox.ids()
    outbox.fail(outbox.must_claim(id, outbox.a_worker()), wait=timedelta(hours=1))
    before = outbox.all()
    adopt(outbox, message)
    assert outbox.all() == before
    assert aside(outbox) == 0


def test_a_body_that_no_row_could_hold_is_cut_and_told_by_its_digest(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "KEPT", 1000)
    message: dramatiq.Message[Any] = a_message("x" * 5000)
    assert not foreign.receive(outbox.conn, outbox.ledger, message, way="refuse", queue="mail", body=message.encode())
    ((detail,),) = outbox.conn.execute("select detail from outbox.audit").fetchall()
    assert base64.b64decode(detail["body_base64"]) == message.encode()[:1000]
    assert (detail["size"], len(detail["sha256"])) == (str(len(message.encode())), 64)
