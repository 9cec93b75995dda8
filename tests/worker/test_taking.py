"""What a worker takes, how much of it, and what it gives back: nobody idle waits for what lies behind somebody's slow task."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from queue import SimpleQueue
from typing import Any
from uuid import UUID

import pytest
from awaiting import await_that
from broker_side import depth_of
from dramatiq.broker import Consumer
from dramatiq.errors import ConnectionClosed
from sqlalchemy.orm import Session
from workshop import MakeWorkshop, Workshop

import outbox
from outbox import current_run
from outbox.ledger import Conn
from outbox.run import Run


class Gate:
    """An actor body that holds until it is let go, by label."""

    def __init__(self) -> None:
        self.started: list[Any] = []
        self.ended: list[Any] = []
        self._open: set[Any] = set()
        self._changed = threading.Condition()

    def __call__(self, label: Any) -> None:
        self.started.append(label)
        with self._changed:
            assert self._changed.wait_for(lambda: label in self._open or ... in self._open, 40)
        self.ended.append(label)

    def let(self, label: Any = ...) -> None:
        with self._changed:
            self._open.add(label)
            self._changed.notify_all()


def pair(make_workshop: MakeWorkshop, body: Callable[[str, Any], None], **settings: Any) -> tuple[Workshop, Workshop]:
    """Two worker processes in one, with an actor `note` that tells which of them it runs in."""
    shops = make_workshop(**settings), make_workshop(**settings)
    for name, shop in zip("ab", shops, strict=True):
        shop.actor(actor_name="note", max_retries=0)(lambda label, name=name: body(name, label))
    return shops


def send(shop: Workshop, *args: Any, actor: str = "note") -> str:
    return str(shop.broker.get_actor(actor).send(*args).message_id)


def held(shop: Workshop) -> int:
    """Claimed, not started."""
    (count,) = shop.db.execute(
        "select count(*) from outbox.task t where t.state = 'running'"
        " and not exists (select from outbox.worker w where t.run_id = any(w.running))"
    ).fetchone() or (0,)
    return int(count)


@pytest.mark.parametrize("threads", [1, 4])
def test_slow_tasks_are_hardly_claimed_ahead(workshop: Workshop, threads: int) -> None:
    gate = Gate()
    workshop.actor(actor_name="note")(gate)
    for n in range(60):
        send(workshop, n)
    station = workshop.open(threads=threads)
    await_that(lambda: len(gate.started) == threads)
    most = 0

    def busy_for_a_while() -> bool:
        nonlocal most
        with station._lock:
            most = max(most, sum(run.started is None for run, _, _ in station._runs.values()))
        return station._blocked

    await_that(busy_for_a_while)
    assert 0 < most <= threads + 2
    await_that(lambda: held(workshop) == 0)  # and not for long: others may be idle
    gate.let()
    workshop.await_all("succeeded", 60)


def test_what_waits_behind_a_slow_task_is_run_by_an_idle_process(make_workshop: MakeWorkshop) -> None:
    gate = Gate()
    where: list[tuple[str, Any]] = []

    def body(name: str, label: Any) -> None:
        where.append((name, label))
        if label == "slow":
            gate(label)

    a, b = pair(make_workshop, body)
    b.publish()
    a.work(threads=1)
    send(a, "slow")
    await_that(lambda: gate.started)
    quick = [send(a, n) for n in range(12)]  # some are claimed behind the slow one, some fetched, some neither
    await_that(lambda: a.broker.station._in_hand > 1)
    b.work(threads=1)
    for id in quick:
        b.await_state(id, "succeeded", timeout=timedelta(seconds=8))
    assert {name for name, label in where if label != "slow"} == {"b"}
    assert not gate.ended
    assert {fate.failures for fate in b.fates().values()} == {0}
    gate.let()
    b.await_all("succeeded", 13)
    send(a, "again")
    b.stop_working()
    last = send(a, "by a again")
    b.await_state(last, "succeeded")
    assert where[-1] == ("a", "by a again")  # it takes messages again


def test_a_heavy_queue_slows_no_other_pool(make_workshop: MakeWorkshop) -> None:
    heavy, light = make_workshop(), make_workshop()
    gate = Gate()
    ran: list[int] = []
    heavy.actor(actor_name="grind", queue_name="heavy")(gate)
    light.actor(actor_name="note", queue_name="light")(ran.append)
    for n in range(300):
        send(heavy, n, actor="grind")
    heavy.publish()
    heavy.work(threads=2)
    await_that(lambda: len(gate.started) == 2)
    light.work(threads=1)
    for n in range(20):
        send(light, n)
    await_that(lambda: len(ran) == 20, timedelta(seconds=5))
    assert not gate.ended
    assert {fate.queue for fate in light.fates().values() if fate.state == "succeeded"} == {"light"}
    heavy.broker.station.drain()
    gate.let()


def test_a_task_goes_only_to_pools_that_consume_its_queue(make_workshop: MakeWorkshop) -> None:
    workshop = make_workshop()
    ran: list[str] = []
    workshop.actor(actor_name="here", queue_name="here")(lambda: ran.append("here"))
    workshop.actor(actor_name="there", queue_name="there")(lambda: ran.append("there"))
    there, here = send(workshop, actor="there"), send(workshop, actor="here")
    workshop.publish()
    workshop.work(queues={"here"})
    workshop.await_state(here, "succeeded")
    workshop.await_state(there, "published")
    assert ran == ["here"]


def test_what_is_being_claimed_has_taken_its_room_and_nobody_is_alone_beside_it(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I6: two consumers that claim at the same time would else take the same room, and a suspect start beside them."""
    ran: list[int] = []
    workshop.actor(actor_name="note")(ran.append)
    workshop.broker.declare_queue("other")
    station = workshop.open(threads=1)
    claim, other = station.ledger.claim, station._consumers["other"]
    seen: list[tuple[int, bool]] = []

    def looking(conn: Conn, asked: Any, **options: Any) -> Any:
        if not seen:
            seen.append((len(asked) + station.room(), station.ask_to_be_alone(other)))
            station.no_longer_alone(other)
        return claim(conn, asked, **options)

    monkeypatch.setattr(station.ledger, "claim", looking)
    for n in range(10):
        send(workshop, n)
    await_that(lambda: len(ran) == 10)
    assert seen == [(3, False)]  # one for the thread, two ahead
    await_that(lambda: station.ask_to_be_alone(other))


def test_what_is_being_claimed_when_its_worker_is_stopped_goes_to_others_while_a_task_runs_on(
    make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop, gate = make_workshop(lease=timedelta(seconds=60)), Gate()
    workshop.actor(actor_name="note")(gate)
    station = workshop.open(threads=1)
    monkeypatch.setattr(station, "_note_whether_blocked", lambda: None)  # however slow this machine is
    running = send(workshop, "long")
    await_that(lambda: gate.started)
    claim, claimed, stopped = station.ledger.claim, threading.Event(), threading.Event()

    def slow(conn: Conn, asked: Any, **options: Any) -> Any:
        found = claim(conn, asked, **options)
        claimed.set()
        stopped.wait(20)
        return found

    monkeypatch.setattr(station.ledger, "claim", slow)
    late = send(workshop, "late")
    assert claimed.wait(20)
    station.drain()
    stopped.set()
    workshop.await_state(late, "pending", "published", timeout=timedelta(seconds=8))
    assert (gate.started, gate.ended) == (["long"], [])
    gate.let()
    workshop.await_state(running, "succeeded")


def test_what_was_given_back_is_forgotten_although_no_thread_comes_to_it(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind more urgent tasks it would lie in Dramatiq's queue for as long as these last, and more of it every time."""
    monkeypatch.setattr("outbox.station.PATIENCE", 0.2)
    gate = Gate()
    workshop.actor(actor_name="note")(gate)
    station = workshop.open(threads=1)
    assert workshop.worker is not None
    waiting = workshop.worker.work_queue
    for n in range(6):
        send(workshop, n)
    await_that(waiting.qsize)
    await_that(lambda: station._blocked)  # from now on nothing is claimed ahead
    await_that(lambda: held(workshop) == 0 and not waiting.qsize())
    assert len(gate.started) == waiting.unfinished_tasks == 1
    gate.let()
    workshop.await_all("succeeded", 6)


class TestSuspects:
    """What ran when a worker died runs alone next (I6)."""

    def suspect(self, shop: Workshop, *args: Any) -> str:
        message = shop.broker.get_actor("note").send_with_options(args=args, delay=3_600_000)
        shop.db.execute("update outbox.task set suspect = true where id = %s", [UUID(message.message_id)])
        shop.make_due(message.message_id)
        return str(message.message_id)

    def test_nothing_starts_beside_it(self, workshop: Workshop) -> None:
        together: list[set[Any]] = []
        now: set[Any] = set()
        lock = threading.Lock()

        @workshop.actor()
        def note(label: Any) -> None:
            with lock:
                now.add(label)
                together.append(set(now))
            threading.Event().wait(0.05)
            with lock:
                now.remove(label)

        for n in range(10):
            send(workshop, n)
        suspects = [self.suspect(workshop, f"suspect {n}") for n in range(3)]
        for n in range(10, 20):
            send(workshop, n)
        workshop.open(threads=4)
        workshop.await_all("succeeded", 23)
        assert len(suspects) == 3
        for n in range(3):
            assert [each for each in together if f"suspect {n}" in each] == [{f"suspect {n}"}]

    def test_it_is_cleared_by_a_run_that_ends(self, workshop: Workshop) -> None:
        runs: list[int] = []

        @workshop.actor(min_backoff=1, max_backoff=2)
        def note(label: Any) -> None:
            runs.append(1)
            if len(runs) == 1:
                raise ValueError("boom")
            assert not workshop.fate(suspect).suspect

        suspect = self.suspect(workshop, "suspect")
        workshop.open()
        workshop.await_state(suspect, "succeeded")

    def test_the_next_one_waits_until_the_outcome_of_the_one_before_is_recorded(
        self, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else the next one's crash would be charged to it too: it still ran alone in that process."""
        ended: list[Run] = []
        workshop.actor(actor_name="note")(lambda label: None)
        station = workshop.open(threads=2)
        record = station.settler.put
        monkeypatch.setattr(station.settler, "put", ended.append)
        first = self.suspect(workshop, "first")
        await_that(lambda: ended)
        assert not station.ask_to_be_alone(station._consumers["default"])
        second = self.suspect(workshop, "second")
        monkeypatch.setattr(station.settler, "put", record)
        record(ended[0])
        for suspect in (first, second):
            workshop.await_state(suspect, "succeeded")

    def test_it_does_not_wait_for_another_processs_long_task_while_one_is_idle(
        self, make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("outbox.station.ALONE", 0.5)
        gate = Gate()
        where: list[tuple[str, Any]] = []

        def body(name: str, label: Any) -> None:
            where.append((name, label))
            if label == "long":
                gate(label)

        a, b = pair(make_workshop, body)
        b.publish()
        a.work(threads=2)
        send(a, "long")
        await_that(lambda: gate.started)
        suspect = self.suspect(a, "suspect")
        await_that(lambda: a.broker.station._consumers["default"]._suspects)
        b.work(threads=2)
        b.await_state(suspect, "succeeded", timeout=timedelta(seconds=10))
        assert ("b", "suspect") in where
        gate.let()

    def test_a_process_that_waits_to_be_empty_for_it_does_not_wait_for_ever(
        self, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("outbox.station.ALONE", 0.3)
        gate = Gate()

        @workshop.actor()
        def note(label: Any) -> None:
            if label == "long":
                gate(label)

        send(workshop, "long")
        workshop.open(threads=2)
        await_that(lambda: gate.started)
        suspect = self.suspect(workshop, "suspect")
        await_that(lambda: workshop.broker.station._alone is not None)
        quick = [send(workshop, n) for n in range(5)]
        for id in quick:
            workshop.await_state(id, "succeeded", timeout=timedelta(seconds=10))
        gate.let()
        workshop.await_state(suspect, "succeeded")


class TestCancelling:
    def test_an_actor_sees_that_its_cancel_was_asked_for(self, make_workshop: MakeWorkshop) -> None:
        workshop = make_workshop(lease=timedelta(seconds=2))
        started = threading.Event()

        @workshop.actor()
        def patient() -> None:
            run = current_run()
            started.set()
            await_that(run.cancel_requested)
            raise InterruptedError("stopped as asked")

        id = send(workshop, actor="patient")
        station = workshop.open()
        assert started.wait(20)
        assert station.ledger.cancel(workshop.db, UUID(id), reason="by hand") == "requested"
        fate = workshop.await_state(id, "cancelled")
        assert "stopped as asked" in (fate.reason or "")

    def test_a_run_that_succeeds_first_has_succeeded(self, workshop: Workshop) -> None:
        gate = Gate()
        workshop.actor(actor_name="note")(gate)
        id = send(workshop, 1)
        station = workshop.open()
        await_that(lambda: gate.started)
        station.ledger.cancel(workshop.db, UUID(id), reason="by hand")
        gate.let()
        workshop.await_state(id, "succeeded")

    @pytest.mark.parametrize("state", ["scheduled", "pending", "published"])
    def test_what_has_not_started_never_does(self, workshop: Workshop, state: str) -> None:
        ran: list[int] = []
        workshop.actor(actor_name="note")(ran.append)
        delay = 500 if state == "scheduled" else None
        id = str(workshop.broker.get_actor("note").send_with_options(args=(1,), delay=delay).message_id)
        if state == "published":
            workshop.publish()
        workshop.await_state(id, state)
        assert workshop.broker.ledger.cancel(workshop.db, UUID(id), reason="by hand") == "cancelled"
        send(workshop, 2)
        workshop.open() if state != "published" else workshop.work()
        await_that(lambda: ran == [2])
        assert workshop.fate(id).state == "cancelled"
        await_that(lambda: depth_of(workshop.settings.rabbitmq_url, workshop.queue()) == 0)
        assert ran == [2]


def test_what_has_expired_never_runs(workshop: Workshop) -> None:
    ran: list[str] = []
    actor = workshop.actor(actor_name="note")(ran.append)
    soon = datetime.now(UTC) + timedelta(seconds=0.3)
    with Session(workshop.broker.engine()) as session:
        expiring = outbox.enqueue(session, actor.message("late"), expires_at=soon)
        lasting = outbox.enqueue(session, actor.message("in time"), expires_at=soon + timedelta(hours=1))
        session.commit()
    workshop.publish()
    workshop.await_state(expiring.id, "published", "cancelled")
    await_that(lambda: datetime.now(UTC) > soon)
    workshop.work()
    fate = workshop.await_state(expiring.id, "cancelled")
    workshop.await_state(lasting.id, "succeeded")
    assert ran == ["in time"]
    assert "expired" in (fate.reason or "")


def test_a_time_limit_is_a_failure(workshop: Workshop) -> None:
    workshop.broker.emit_after("process_boot")

    @workshop.actor(time_limit=100, max_retries=0)
    def spin() -> None:
        while True:
            threading.Event().wait(0.01)

    id = send(workshop, actor="spin")
    workshop.open()
    assert "TimeLimitExceeded" in (workshop.await_state(id, "dead").reason or "")


def test_a_stopped_worker_leaves_no_thread_behind(workshop: Workshop) -> None:
    before = set(threading.enumerate())
    workshop.actor(actor_name="note")(lambda n: None)
    workshop.work(threads=3)
    workshop.stop_working()
    left = {thread for thread in set(threading.enumerate()) - before if thread.is_alive()}
    await_that(lambda: not {thread for thread in left if thread.is_alive() and "wake" not in thread.name})


@pytest.mark.timeout(30)
def test_a_consumer_that_is_closed_by_another_thread_is_left_by_its_own_first(workshop: Workshop) -> None:
    """pika's connections take one thread at a time: two at once broke them with whatever error came first."""
    workshop.broker.declare_queue("default")
    workshop.broker.declare_queue("spare")
    workshop.work(queues={"default"})
    made: SimpleQueue[Consumer] = SimpleQueue()
    ended: list[BaseException] = []

    def consume() -> None:
        consumer = workshop.broker.consume("spare", timeout=5000)
        made.put(consumer)
        try:
            while True:
                next(consumer)
        except BaseException as error:
            ended.append(error)

    def close_while_it_waits() -> None:
        thread = threading.Thread(target=consume, daemon=True)
        thread.start()
        consumer = made.get(timeout=20)
        await_that(lambda: "process_data_events" in where_is(thread))
        consumer.close()
        thread.join(20)

    for _ in range(5):
        close_while_it_waits()
    assert [type(error) for error in ended] == [ConnectionClosed] * 5


def where_is(thread: threading.Thread) -> list[str]:
    """The functions that it is in."""
    frame = sys._current_frames().get(thread.ident or 0)
    return [summary.name for summary in traceback.extract_stack(frame)] if frame else []


@pytest.mark.parametrize("name", ["settler", "lease", "station"])
def test_a_station_is_alive_only_with_all_its_threads(workshop: Workshop, name: str) -> None:
    workshop.broker.declare_queue("default")
    station = workshop.work()
    assert station.alive
    ends = {
        "settler": lambda: station.settler.stop(timeout=10),
        "lease": station.lease.stop,
        "station": station._leave.set,
    }
    ends[name]()
    await_that(lambda: not station.alive)
