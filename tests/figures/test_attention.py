"""What needs attention: each situation made in the tables as processes leave it, and told as one sentence; else all is clear."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from outbox_rows import Outbox, a_message

from outbox import operate
from outbox.attention import _TOLD, Concern, attention
from outbox.query import parse

LEASE = timedelta(seconds=10)
MINUTE = timedelta(minutes=1)
RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks.md"


def a_process(
    outbox: Outbox, kind: str, *, queues: tuple[str, ...] = (), threads: int = 0, tells: tuple[str, ...] = ()
) -> UUID:
    process = uuid4()
    outbox.ledger.join(
        outbox.conn, worker=process, kind=kind, host="there", pid=7, queues=list(queues), threads=threads, lease=LEASE
    )
    outbox.conn.execute("update outbox.worker set unclaimed = %s where id = %s", [list(tells), process])
    return process


@pytest.fixture
def house(outbox: Outbox) -> Outbox:
    """A relay and a worker of the queue mail, and nothing wrong."""
    a_process(outbox, "relay")
    a_process(outbox, "worker", queues=("mail",), threads=2)
    return outbox


def concerns(outbox: Outbox) -> list[Concern]:
    found = attention(outbox.conn)
    headings = re.findall(r"^## (\w+)$", RUNBOOKS.read_text(), re.MULTILINE)
    for each in found:
        assert each.told.endswith(".")
        assert each.runbook in headings
        assert each.query is None or parse(each.query)
    return found


def the_one(outbox: Outbox) -> Concern:
    (found,) = concerns(outbox)
    return found


def age(outbox: Outbox, ids: list[UUID], span: timedelta) -> None:
    outbox.conn.execute("update outbox.task set due_at = due_at - %s where id = any(%s)", [span, ids])


def test_a_house_in_order_needs_none(house: Outbox) -> None:
    house.add("x")
    assert concerns(house) == []


def test_no_relay_is_the_first_concern_there_is(outbox: Outbox) -> None:
    assert the_one(outbox).cause == "no_relay"
    relay = a_process(outbox, "relay")
    outbox.conn.execute("update outbox.worker set beat_at = beat_at - %s where id = %s", [3 * MINUTE, relay])
    assert [(each.cause, each.since is not None) for each in concerns(outbox)] == [
        ("no_relay", True),
        ("process_silent", True),
    ]


@pytest.mark.parametrize("reason", sorted(_TOLD))
def test_what_every_relay_tells_of_rabbitmq_is_told_and_what_one_tells_is_not(outbox: Outbox, reason: str) -> None:
    a_process(outbox, "worker", queues=("mail",), threads=2)
    said = f"{reason} *" if reason in ("away", "blocked") else f"{reason} mail"
    a_process(outbox, "relay", tells=(said, "nonsense"))
    assert the_one(outbox).cause == f"broker_{reason}"
    a_process(outbox, "relay")
    assert concerns(outbox) == []


def test_a_relay_that_is_behind_is_told_with_how_far_and_how_many(house: Outbox) -> None:
    age(house, house.add_many(3), 3 * MINUTE + timedelta(seconds=12))
    found = the_one(house)
    assert (found.cause, found.severity, found.query) == ("relay_behind", "serious", "state:pending queue:mail")
    assert re.fullmatch(r"The relay is 3m1[2-9]s behind: 3 of the queue mail are due\.", found.told)
    house.ledger.pause_queue(house.conn, "mail", who="ann")
    assert concerns(house) == []


def test_a_queue_with_tasks_and_no_worker(house: Outbox) -> None:
    house.add(message=a_message("x", queue="heavy"))
    found = the_one(house)
    assert (found.cause, found.told, found.subject) == (
        "no_worker",
        "The queue heavy has 1 task and no worker.",
        "heavy",
    )


def test_workers_that_are_all_busy_before_a_long_queue(house: Outbox) -> None:
    ids = house.add_many(21)
    house.ledger.queue_epoch(house.conn, "mail")
    house.ledger.mark_published(house.conn, ids, epochs={"mail": 0})
    assert concerns(house) == []
    house.conn.execute(
        "update outbox.worker set running = array[gen_random_uuid(), gen_random_uuid()] where kind = 'worker'"
    )
    assert the_one(house).cause == "workers_busy"


def test_a_pause_that_may_have_been_forgotten(house: Outbox) -> None:
    house.ledger.queue_epoch(house.conn, "mail")
    house.add("x")
    operate.pause_queue(house.conn, house.ledger, "mail", who="ann")
    assert concerns(house) == []
    house.conn.execute("update outbox.queue set paused_at = paused_at - %s", [11 * MINUTE])
    found = the_one(house)
    assert (found.cause, found.severity, found.mend) == ("queue_paused", "notice", "outbox queues resume mail")
    assert "paused by ann" in found.told


def test_schedules_without_a_scheduler_and_a_fire_that_was_missed(house: Outbox) -> None:
    house.conn.execute(
        "insert into outbox.schedule (name, actor, queue, cron, fired_through) values "
        "('nightly', 'a', 'mail', '* * * * *', clock_timestamp())"
    )
    assert the_one(house).cause == "no_scheduler"
    a_process(house, "scheduler")
    assert concerns(house) == []
    house.conn.execute("update outbox.schedule set fired_through = fired_through - %s", [5 * MINUTE])
    assert "missed its fire of" in the_one(house).told
    house.conn.execute("update outbox.schedule set fired_through = clock_timestamp()")
    house.conn.execute(
        "insert into outbox.fire (schedule, fire_at, outcome) values ('nightly', clock_timestamp() - interval '1 hour', 'missed')"
    )
    assert the_one(house).cause == "schedule_missed"
    house.conn.execute("update outbox.schedule set paused = true")
    assert concerns(house) == []


def test_tasks_that_died_within_the_hour_and_of_which_actor_most(house: Outbox) -> None:
    worker = house.a_worker()
    for number in range(10):
        house.end_dead(house.must_claim(house.add(number), worker))
        found = the_one(house)
        assert (found.cause, found.severity) == ("dead_rising", "serious" if number == 9 else "notice")
    assert found.told == "10 tasks died in the last hour, most of them (10) of send_mail."
    assert found.query == "state:dead since:1h"
    house.conn.execute("update outbox.dead set finished_at = finished_at - interval '2 hours'")
    assert concerns(house) == []


def test_an_actor_that_fails_more_than_it_succeeds(house: Outbox) -> None:
    worker = house.a_worker()
    for number in range(10):
        assert concerns(house) == []
        house.fail(house.must_claim(house.add(number), worker), wait=timedelta(hours=1))
    found = the_one(house)
    assert (found.cause, found.query) == ("failing", "state:retrying actor:send_mail")
    house.conn.execute(
        "insert into outbox.minute (minute, actor, queue, succeeded) values (clock_timestamp(), 'send_mail', 'mail', 11)"
    )
    assert concerns(house) == []


def test_a_dead_task_that_others_wait_behind(house: Outbox) -> None:
    first = house.add(1, ordering_key="k", hold_on_dead=True)
    house.end_dead(house.must_claim(first, house.a_worker()))
    assert [each.cause for each in concerns(house)] == ["dead_rising"]
    house.add(2, ordering_key="k")
    held = next(each for each in concerns(house) if each.cause == "held_up")
    assert held.mend is not None
    assert str(first) in held.mend


def test_serious_ones_come_first_and_others_may_add_theirs(house: Outbox) -> None:
    house.add(message=a_message("x", queue="heavy"))
    mine = Concern("mine", "The till is open.", "notice", "OutboxLag")
    assert [each.cause for each in attention(house.conn, others=[lambda _conn: [mine]])] == ["no_worker", "mine"]
