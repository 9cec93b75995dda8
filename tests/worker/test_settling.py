"""Settling: the outcome first, the acknowledgement afterwards, many at once, and nobody pays for a neighbour (I2, I3)."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import dramatiq.worker
import psycopg
import pytest
from awaiting import await_that
from broker_side import depth_of, drop_connection
from prometheus_client import REGISTRY
from psycopg import sql
from sqlalchemy import text
from wire import Wire
from workshop import MakeWorkshop, Workshop

from outbox import current_run, database
from outbox.ledger import Ledger
from outbox.models import Task
from outbox.run import Outcome, Run
from outbox.settler import Settler


def test_a_message_is_acknowledged_only_after_its_outcome_is_recorded(
    workshop: Workshop, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []

    @workshop.actor()
    def note(n: int) -> None:
        ran.append(n)
        started.set()
        may_end.wait(20)

    started, may_end = threading.Event(), threading.Event()
    message = note.send(1)
    station = workshop.open()
    assert started.wait(20)
    monkeypatch.setattr(dramatiq.worker, "CONSUMER_RESTART_DELAY_SECS", 0.5)  # long enough to look at the queue
    with psycopg.connect(database_url) as other:
        other.execute("select from outbox.task where id = %s for update", [UUID(message.message_id)])
        may_end.set()
        await_that(lambda: all(run.ended for run, _, _ in station._runs.values()))
        drop_connection(station._consumers["default"])
        url = workshop.settings.rabbitmq_url
        await_that(lambda: depth_of(url, workshop.queue()) == 1)  # it comes back: nobody acknowledged it
    workshop.await_state(message.message_id, "succeeded")
    await_that(lambda: depth_of(url, workshop.queue()) == 0 and not station._consumers["default"].unclaimed)
    assert ran == [1]


def test_outcomes_wait_for_a_database_that_is_away_and_no_run_is_repeated(
    make_workshop: MakeWorkshop, database_url: str
) -> None:
    wire = Wire(database_url)
    workshop = make_workshop(database_url=wire.url, lease=timedelta(seconds=20))
    ran: list[int] = []
    may_end = threading.Event()

    @workshop.actor(max_retries=0)
    def note(n: int) -> None:
        ran.append(n)
        may_end.wait(20)
        if n == 1:
            raise ValueError("boom")

    messages = [note.send(n) for n in range(2)]
    workshop.publish(database_url=database_url)
    station = workshop.work(threads=2)
    await_that(lambda: len(ran) == 2)
    wire.cut()
    may_end.set()
    await_that(lambda: all(run.ended for run, _, _ in station._runs.values()))
    assert {fate.state for fate in workshop.fates().values()} == {"running"}
    wire.mend()
    good, bad = (workshop.await_state(each.message_id, "succeeded", "dead") for each in messages)
    wire.close()
    assert (good.state, good.failures, bad.state, bad.failures) == ("succeeded", 0, "dead", 1)
    assert sorted(ran) == [0, 1]


def test_a_database_that_takes_no_writes_is_an_outage_and_costs_neither_a_run_nor_a_child(workshop: Workshop) -> None:
    """I5: a failover, a disk that is full: what has run is recorded when the database takes it again."""
    ran: list[str] = []

    @workshop.actor(max_retries=0)
    def child() -> None:
        ran.append("child")

    @workshop.actor(max_retries=0)
    def parent() -> None:
        child.send()
        ran.append("parent")
        read_only.wait(20)

    read_only = threading.Event()
    message = parent.send()
    station = workshop.open()
    connections = count_connections(station.settler)
    await_that(lambda: ran == ["parent"])
    set_read_only(workshop, "on")
    read_only.set()
    await_that(lambda: len(connections) > 1)  # it was refused, and asks anew
    assert workshop.fate(message.message_id).state == "running"
    set_read_only(workshop, "off")
    fates = workshop.await_all("succeeded", 2)
    assert {(fate.failures, fate.attempts == []) for fate in fates.values()} == {(0, True)}
    assert ran == ["parent", "child"]


def set_read_only(workshop: Workshop, value: str) -> None:
    """For who connects from now on: as what a load balancer leads to a standby."""
    name = sql.Identifier(workshop.db.info.dbname)
    setting = sql.SQL("alter database {} set default_transaction_read_only = {}").format(name, sql.SQL(value))
    workshop.db.execute(setting)


def count_connections(settler: Settler) -> list[Any]:
    """Of this settler, from now on: it has a new one each time that it asks again."""
    made: list[Any] = []
    connect = settler._connect

    def counted() -> Any:
        made.append(conn := connect())
        return conn

    settler._connect = counted
    return made


class Desk:
    """Runs that ended, and a settler that records them all in one batch."""

    def __init__(self, database_url: str) -> None:
        self.ledger = Ledger()
        self.db = database.connect(database_url, name="desk")
        self.worker = uuid4()
        self.ledger.join(
            self.db, worker=self.worker, kind="worker", host="here", pid=1, queues=[], threads=1,
            lease=timedelta(seconds=10),
        )  # fmt: skip
        self.settled: list[Run] = []
        self.settler = Settler(
            self.ledger, lambda: database.connect(database_url, name="settle"), settled=self.settled.extend
        )

    def claimed(
        self, outcome: Outcome, *, failures: int = 0, children: tuple[Task, ...] = (), actor: str = "note"
    ) -> Run:
        """A run of a new task, claimed here, that ended so."""
        task = task_like(uuid4(), actor=actor)
        self.ledger.enqueue(self.db, f"[{row_like(task)}]")
        (fence,) = self.db.execute("select fence from outbox.task where id = %s", [task.id]).fetchone() or (uuid4(),)
        run = Run(
            task_id=task.id, run_id=uuid4(), attempt=1, failures=failures, max_attempts=None, lane=None,
            message=message_of(actor), station=cast(Any, None), outcome=outcome, children=list(children),
        )  # fmt: skip
        assert self.ledger.claim(self.db, [(task.id, fence, run.run_id)], worker=self.worker, beat=0)
        return run

    def settle(self, *runs: Run) -> None:
        for run in runs:
            self.settler.put(run)
        self.settler.start()
        assert self.settler.stop(timeout=10)

    def states(self) -> dict[UUID, str]:
        rows = self.db.execute(
            "select id, state from outbox.task union all select id, state from outbox.history"
            " union all select id, state from outbox.dead"
        )
        return dict(rows.fetchall())


def task_like(id: UUID, **columns: Any) -> Task:
    plain = {"queue": "default", "actor": "note", "args": "[]", "kwargs": "{}", "options": "{}", "priority": 0}
    return Task(id=id, **{**plain, **columns})


def message_of(actor: str) -> dramatiq.Message[Any]:
    return dramatiq.Message(queue_name="default", actor_name=actor, args=(), kwargs={}, options={})


def row_like(task: Task) -> str:
    from outbox.enqueue import row_of

    return row_of(task)


@pytest.fixture
def desk(database_url: str) -> Iterator[Desk]:
    desk = Desk(database_url)
    yield desk
    desk.db.close()


SUCCEEDED = Outcome("succeeded")


def test_a_batch_with_a_culprit_is_split_until_it_is_alone(desk: Desk) -> None:
    twin = uuid4()
    good = [desk.claimed(SUCCEEDED, children=(task_like(uuid4()),)) for _ in range(7)]
    culprit = desk.claimed(SUCCEEDED, children=(task_like(twin), task_like(twin)))  # the same id twice
    desk.settle(*good[:3], culprit, *good[3:])
    states = desk.states()
    assert {states[run.task_id] for run in good} == {"succeeded"}
    assert all(states[run.children[0].id] == "pending" for run in good)
    assert states[culprit.task_id] == "scheduled"
    assert twin not in states
    assert len(desk.settled) == 8
    (failures, reason) = desk.db.execute(
        "select failures, reason from outbox.task where id = %s", [culprit.task_id]
    ).fetchone() or (None, "")
    assert failures == 1
    assert "could not be recorded" in reason


def test_a_culprit_that_fails_for_ever_ends_dead(desk: Desk) -> None:
    twin = uuid4()
    culprit = desk.claimed(SUCCEEDED, failures=20, children=(task_like(twin), task_like(twin)))
    desk.settle(culprit)
    assert desk.states() == {culprit.task_id: "dead"}


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome("failed", error=cast(Any, 42), wait=1.0, counts=True),
        Outcome("failed", error="x", wait=cast(Any, "soon"), counts=True),
        Outcome("failed", error="x", wait=float("nan"), counts=True),
        Outcome("dead", error=cast(Any, object()), counts=True),
        Outcome("cancelled", error=cast(Any, b"bytes")),
    ],
    ids=["a number for a text", "a text for a wait", "nan", "an object for a text", "bytes for a text"],
)
def test_an_outcome_that_makes_no_sense_costs_neither_the_settler_nor_its_neighbours(
    desk: Desk, outcome: Outcome
) -> None:
    absurd, good = desk.claimed(outcome), desk.claimed(SUCCEEDED)
    desk.settle(absurd, good)
    states = desk.states()
    assert states[good.task_id] == "succeeded"
    assert states[absurd.task_id] in ("scheduled", "dead", "cancelled")


def test_what_a_raised_run_enqueued_is_dropped_and_what_its_failure_enqueued_is_kept(desk: Desk) -> None:
    child, callback = task_like(uuid4()), task_like(uuid4())
    run = desk.claimed(Outcome("failed", error="boom", wait=60.0, counts=True), children=(child,))
    run.after_failure.append(callback)
    desk.settle(run)
    assert desk.states() == {run.task_id: "scheduled", callback.id: "pending"}


@pytest.mark.parametrize("name", ["succeeded", "failed", "snoozed", "dead", "cancelled"])
def test_a_late_outcome_changes_nothing_and_enqueues_nothing(desk: Desk, name: str) -> None:
    late = desk.claimed(Outcome(name, error="late", wait=60.0 if name in ("failed", "snoozed") else None))
    late.children.append(task_like(uuid4()))
    late.after_failure.append(task_like(uuid4()))
    (beat,) = desk.db.execute("select beat from outbox.worker").fetchone() or (0,)
    desk.ledger.rescue(desk.db, worker=desk.worker, beat=beat, max_crashes=3)
    before = desk.db.execute("select * from outbox.task").fetchall()
    desk.settle(late)
    assert desk.db.execute("select * from outbox.task").fetchall() == before
    assert desk.states() == {late.task_id: "pending"}
    assert desk.settled == [late]  # its message may go: the task has another fence now


def test_an_outcome_that_comes_twice_counts_once(desk: Desk) -> None:
    run = desk.claimed(SUCCEEDED, children=(task_like(uuid4()),))
    desk.settle(run, run)
    assert sorted(desk.states().values()) == ["pending", "succeeded"]


@pytest.mark.parametrize("name", ["failed", "snoozed", "interrupted"])
def test_a_task_whose_cancel_was_asked_for_is_cancelled_instead_of_tried_again(desk: Desk, name: str) -> None:
    run = desk.claimed(Outcome(name, error="boom", wait=1.0))
    assert desk.ledger.cancel(desk.db, run.task_id, reason="operator") == "requested"
    desk.settle(run)
    assert desk.states() == {run.task_id: "cancelled"}


@pytest.mark.parametrize(("name", "state"), [("succeeded", "succeeded"), ("dead", "dead")])
def test_a_run_that_ends_for_good_before_its_cancel_keeps_its_outcome(desk: Desk, name: str, state: str) -> None:
    run = desk.claimed(Outcome(name, error="x"))
    desk.ledger.cancel(desk.db, run.task_id, reason="operator")
    desk.settle(run)
    assert desk.states() == {run.task_id: state}


def test_a_settler_that_is_told_to_stop_without_its_database_acknowledges_nothing(database_url: str) -> None:
    settled: list[Run] = []

    def away() -> Any:
        raise psycopg.OperationalError("the database is away")

    settler = Settler(Ledger(), away, settled=settled.extend)
    run = Run(
        task_id=uuid4(), run_id=uuid4(), attempt=1, failures=0, max_attempts=None, lane=None,
        message=cast(Any, None), station=cast(Any, None), outcome=SUCCEEDED,
    )  # fmt: skip
    settler.put(run)
    settler.start()
    assert not settler.stop(timeout=0.2)
    settler._thread.join(5)
    assert settled == []


def test_the_settler_survives_what_breaks_after_an_outcome_is_recorded(desk: Desk, database_url: str) -> None:
    """I5: it is the only one, and each outcome after that would wait for ever."""
    first, second = desk.claimed(SUCCEEDED), desk.claimed(SUCCEEDED)

    def settled(runs: Sequence[Run]) -> None:
        desk.settled.extend(runs)
        if first in runs:
            raise RuntimeError("nobody can be woken")

    desk.settler = Settler(desk.ledger, lambda: database.connect(database_url, name="settle"), settled=settled)
    desk.settler.start()
    desk.settler.put(first)
    await_that(lambda: desk.settled == [first])
    desk.settler.put(second)
    await_that(lambda: desk.states()[second.task_id] == "succeeded")
    assert desk.settler.alive
    assert desk.settler.stop(timeout=10)
    assert not desk.settler.alive


def test_what_is_recorded_was_what_the_worker_measured(desk: Desk) -> None:
    run = desk.claimed(SUCCEEDED)
    run.started, run.finished = 100.0, 103.0
    desk.settle(run)
    (ran,) = desk.db.execute(
        "select extract(epoch from finished_at - started_at)::float8 from outbox.history"
    ).fetchone() or (None,)
    assert ran == pytest.approx(3, abs=0.05)


class TestMetrics:
    """Each recorded outcome is counted, and nothing else."""

    def outcomes(self, actor: str) -> dict[str, float]:
        (family,) = (each for each in REGISTRY.collect() if each.name == "outbox_outcomes")
        return {
            sample.labels["outcome"]: sample.value
            for sample in family.samples
            if sample.name == "outbox_outcomes_total" and sample.labels["actor"] == actor
        }

    def runs(self, actor: str) -> tuple[float | None, float | None]:
        """How many were timed, and their seconds."""
        count, total = (
            REGISTRY.get_sample_value(f"outbox_run_seconds_{of}", {"actor": actor}) for of in ("count", "sum")
        )
        return count, total

    def test_outcomes_are_counted_as_they_were_recorded(self, desk: Desk) -> None:
        again = Outcome("failed", error="x", wait=60.0, counts=True)
        snoozed, dead = Outcome("snoozed", error="x", wait=60.0), Outcome("dead", error="x", counts=True)
        ended = [SUCCEEDED, SUCCEEDED, again, snoozed, dead, Outcome("cancelled", error="x"), again]
        runs = [desk.claimed(outcome, actor="of_all_kinds") for outcome in ended]
        desk.ledger.cancel(desk.db, runs[-1].task_id, reason="operator")
        desk.settle(*runs)
        assert self.outcomes("of_all_kinds") == {
            "succeeded": 2, "failed": 1, "snoozed": 1, "dead": 1, "cancelled": 2
        }  # fmt: skip

    def test_what_ran_is_timed(self, desk: Desk) -> None:
        ran, skipped = desk.claimed(SUCCEEDED, actor="timed"), desk.claimed(SUCCEEDED, actor="timed")
        ran.started, ran.finished = 100.0, 103.0
        desk.settle(ran, skipped)
        assert self.runs("timed") == (1, 3)

    def test_a_late_outcome_is_not_counted(self, desk: Desk) -> None:
        late = desk.claimed(SUCCEEDED, actor="late")
        (beat,) = desk.db.execute("select beat from outbox.worker").fetchone() or (0,)
        desk.ledger.rescue(desk.db, worker=desk.worker, beat=beat, max_crashes=3)
        desk.settle(late)
        assert self.outcomes("late") == {}

    def test_a_success_recorded_in_the_actors_own_session_is_counted_once(self, workshop: Workshop) -> None:
        @workshop.actor()
        def in_its_own_session() -> None:
            current_run().session().execute(text("select 1"))

        message = in_its_own_session.send()
        station = workshop.open()
        workshop.await_state(message.message_id, "succeeded")
        await_that(lambda: not station._runs)
        assert self.outcomes("in_its_own_session") == {"succeeded": 1}
        count, _ = self.runs("in_its_own_session")
        assert count == 1
