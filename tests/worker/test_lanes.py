"""Lanes end to end: relay, broker and two workers keep an order, a limit, a unique key and a priority, whatever fails."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import accumulate
from typing import Any
from uuid import UUID

import dramatiq
import pytest
from awaiting import await_that
from sqlalchemy.orm import Session
from test_processes import Plant, plant
from workshop import MakeWorkshop, Workshop

from outbox import current_run, enqueue, operate
from outbox.ledger import Ledger

__all__ = ["plant"]

QUICK: dict[str, Any] = {"min_backoff": 1, "max_backoff": 2}
FAR_OFF: dict[str, Any] = {"min_backoff": 3_600_000, "max_backoff": 3_600_000}

Body = Callable[[Any], None]


class Crew:
    """Two workers on one database and one queue, and what they do, in the order in which they do it."""

    def __init__(self, make_workshop: MakeWorkshop, **settings: Any) -> None:
        self.shops = [make_workshop(**settings), make_workshop(**settings)]
        self.shop: Workshop = self.shops[-1]
        self.begun: list[Any] = []
        self.under_way: Counter[Any] = Counter()
        self.most: Counter[Any] = Counter()
        self._lock = threading.Lock()

    def actor(self, body: Body, *, lane_of: Callable[[Any], Any] = lambda label: label, **options: Any) -> None:
        """Both workers know it as `note`: it counts who is under way in each lane, then does this."""

        def note(label: Any) -> None:
            lane = lane_of(label)
            with self._lock:
                self.begun.append(label)
                self.under_way[lane] += 1
                self.most[lane] = max(self.most[lane], self.under_way[lane])
            try:
                body(label)
            finally:
                with self._lock:
                    self.under_way[lane] -= 1

        for shop in self.shops:
            self._note: dramatiq.Actor[..., Any] = shop.actor(actor_name="note", **options)(note)

    def send(self, label: Any, **options: Any) -> UUID:
        """Enqueue it in a transaction of its own: the id of the task that exists."""
        with Session(self.shop.broker.engine()) as session:
            task = enqueue(session, self._note.message(label), **options)
            session.commit()
            return task.id

    def open(self, *, threads: int = 2) -> None:
        self.shop.publish()
        for shop in self.shops:
            shop.work(threads)

    def see_one_pass(self) -> None:
        """Whatever may start has had its chance: a task without a lane has gone the whole road meanwhile."""
        self.shop.await_state(self.send("bystander"), "succeeded")
        self.begun.remove("bystander")

    def retry(self, id: UUID) -> None:
        operate.retry(self.shop.db, Ledger(), id, who="a test")


@pytest.fixture
def crew(make_workshop: MakeWorkshop) -> Crew:
    return Crew(make_workshop)


class Gates:
    """A body that waits until its label is let go."""

    def __init__(self) -> None:
        self._open: set[Any] = {"bystander"}
        self._changed = threading.Condition()

    def __call__(self, label: Any) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: label in self._open, 40)

    def let(self, *labels: Any) -> None:
        with self._changed:
            self._open.update(labels)
            self._changed.notify_all()


class Failing:
    """A body that fails for a label as often as it is told, once each time."""

    def __init__(self, times: dict[Any, int]) -> None:
        self._left = Counter(times)

    def __call__(self, label: Any) -> None:
        if self._left[label] > 0:
            self._left[label] -= 1
            raise RuntimeError(f"{label} fails")


# ---------------------------------------------------------------------- ordering keys


def test_each_ordering_key_keeps_its_order_through_failures_and_the_keys_go_side_by_side(crew: Crew) -> None:
    together = threading.Barrier(2, timeout=20)
    fail = Failing({f"{key}{n}": n % 3 for key in "abc" for n in range(7)})

    def body(label: str) -> None:
        if label in ("a0", "b0"):
            together.wait()  # two processes of one thread each: neither key waits for the other
        fail(label)

    crew.actor(body, lane_of=lambda label: label[0], **QUICK)
    for n in range(7):
        for key in "abc":
            crew.send(f"{key}{n}", ordering_key=key)
    crew.open(threads=1)
    crew.shop.await_all("succeeded", 21)
    for key in "abc":
        expected = [f"{key}{n}" for n in range(7) for _ in range(n % 3 + 1)]
        assert [label for label in crew.begun if label[0] == key] == expected
    assert crew.most == {"a": 1, "b": 1, "c": 1}


def test_followers_wait_as_long_as_the_head_waits_for_its_retry(crew: Crew) -> None:
    crew.actor(Failing({0: 1}), **FAR_OFF)
    head, *followers = [crew.send(n, ordering_key="k") for n in range(3)]
    crew.open()
    crew.shop.await_state(head, "scheduled")
    crew.see_one_pass()
    assert {crew.shop.fate(id).state for id in followers} == {"waiting"}
    crew.shop.make_due(head)
    crew.shop.await_all("succeeded", 4)
    assert crew.begun == [0, 0, 1, 2]


def test_a_dead_head_lets_its_followers_pass(crew: Crew) -> None:
    crew.actor(Failing({0: 2}), max_retries=1, **QUICK)
    head, *followers = [crew.send(n, ordering_key="k") for n in range(3)]
    crew.open()
    for id in followers:
        crew.shop.await_state(id, "succeeded")
    assert crew.shop.fate(head).state == "dead"
    assert crew.begun == [0, 0, 1, 2]


def test_a_dead_head_that_holds_is_done_before_its_followers_once_somebody_retries_it(crew: Crew) -> None:
    crew.actor(Failing({0: 1}), max_retries=0)
    head, *followers = [crew.send(n, ordering_key="k", hold_on_dead=True) for n in range(3)]
    crew.open()
    crew.shop.await_state(head, "dead")
    followers.append(crew.send(3, ordering_key="k", hold_on_dead=True))
    crew.see_one_pass()
    assert {crew.shop.fate(id).state for id in followers} == {"waiting"}
    crew.retry(head)
    crew.shop.await_all("succeeded", 5)
    assert crew.begun == [0, 0, 1, 2, 3]


@pytest.mark.system
def test_a_head_whose_worker_is_killed_runs_again_before_its_followers(plant: Plant) -> None:
    workers = {worker.pid: worker for worker in (plant.hire(threads=2), plant.hire(threads=2))}
    ids = _send_to(plant, "hold", "ab", ordering_key="k")
    await_that(lambda: plant.labels("started") == ["a"])
    workers[plant.traces("started")[0][1]].kill()
    await_that(lambda: plant.labels("started") == ["a", "a"])
    assert plant.fate(str(ids[1])).state == "waiting"
    plant.permit("a", "b")
    for id in ids:
        plant.workshop.await_state(id, "succeeded")
    assert plant.labels("started") == ["a", "a", "b"]


# ---------------------------------------------------------------------- concurrency limits


def test_a_limit_is_used_to_the_full_never_exceeded_and_holds_up_nobody_else(crew: Crew) -> None:
    gates = Gates()
    crew.actor(gates, lane_of=lambda label: "bystander" if label == "bystander" else "k")
    for n in range(9):
        crew.send(n, concurrency_key="k", concurrency_limit=3)
    crew.open(threads=4)  # room for eight at once
    for full in (3, 6, 9):
        await_that(lambda: len(crew.begun) == full)  # noqa: B023
        crew.see_one_pass()
        assert len(crew.begun) == full
        gates.let(*crew.begun)
    crew.shop.await_all("succeeded", 12)
    assert crew.most["k"] == 3


def test_a_limit_holds_through_failures_retries_and_delays(crew: Crew) -> None:
    fail = Failing({n: n % 4 for n in range(40)})

    def body(label: int) -> None:
        time.sleep(0.005)  # long enough for two of them to meet
        fail(label)

    crew.actor(body, lane_of=lambda _: "k", **QUICK)
    crew.open(threads=4)
    for n in range(40):
        soon = timedelta(milliseconds=5 * n) if n % 5 == 0 else None
        crew.send(n, concurrency_key="k", concurrency_limit=2, delay=soon)
    crew.shop.await_all("succeeded", 40, timeout=timedelta(seconds=60))
    assert crew.most["k"] <= 2
    assert Counter(crew.begun) == {n: n % 4 + 1 for n in range(40)}


@pytest.mark.system
def test_those_who_run_again_after_a_kill_take_no_more_places_than_the_limit(plant: Plant) -> None:
    workers = {worker.pid: worker for worker in (plant.hire(threads=2), plant.hire(threads=2))}
    ids = _send_to(plant, "hold", "abcdefgh", concurrency_key="k", concurrency_limit=2)
    await_that(lambda: len(plant.labels("started")) == 2)
    victim = plant.traces("started")[0][1]
    workers[victim].kill()
    plant.permit(*"abcdefgh")
    for id in ids:
        plant.workshop.await_state(id, "succeeded")
    steps = plant.workshop.db.execute("select what from trace where pid <> %s order by at", [victim]).fetchall()
    under_way = list(accumulate(1 if what == "started" else -1 for (what,) in steps))
    assert max(under_way) <= 2


def _send_to(plant: Plant, actor: str, labels: str, **options: Any) -> list[UUID]:
    with Session(plant.workshop.broker.engine()) as session:
        messages = [dramatiq.Message[Any]("default", actor, (label,), {}, {}) for label in labels]
        tasks = [enqueue(session, message, **options) for message in messages]
        session.commit()
        return [task.id for task in tasks]


# ---------------------------------------------------------------------- unique keys


def test_one_task_of_a_unique_key_waits_at_a_time_and_one_more_behind_a_running_one(crew: Crew) -> None:
    gates = Gates()
    crew.actor(gates)
    keys = {"unique_key": "once", "ordering_key": "once"}
    (first,) = {crew.send("first", **keys) for _ in range(5)}
    crew.open()
    await_that(lambda: crew.begun == ["first"])
    (second,) = {crew.send("second", **keys) for _ in range(5)}
    assert second != first
    crew.see_one_pass()
    assert crew.shop.fate(second).state == "waiting"
    gates.let("first")
    await_that(lambda: crew.begun == ["first", "second"])
    (third,) = {crew.send("third", **keys) for _ in range(5)}
    gates.let("second", "third")
    crew.shop.await_all("succeeded", 4)
    assert crew.begun == ["first", "second", "third"]
    assert len({first, second, third}) == 3


def test_a_unique_key_never_answers_with_a_task_that_has_already_begun(crew: Crew) -> None:
    """What a caller wrote before it enqueued is seen by a run that begins later."""
    began: dict[UUID, float] = {}
    asked: list[tuple[float, UUID]] = []

    def body(_label: Any) -> None:
        began[current_run().task_id] = time.monotonic()

    crew.actor(body)
    crew.open()

    def ask(_number: int) -> None:
        for _ in range(25):
            at = time.monotonic()
            asked.append((at, crew.send("again", unique_key="once")))

    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(ask, range(4)))
    ids = {id for _, id in asked}
    crew.shop.await_all("succeeded", len(ids))
    assert len(ids) < 100  # some met
    assert [id for at, id in asked if began[id] < at] == []


# ---------------------------------------------------------------------- priorities


def test_a_lower_priority_number_goes_first_within_a_backlog(crew: Crew) -> None:
    crew.actor(lambda _: None)
    for n in range(60):
        crew.send(f"{n * 7 % 5} {n:02}", priority=n * 7 % 5)
    crew.shop.publish()
    crew.shop.work(threads=1)
    crew.shop.await_all("succeeded", 60)
    assert crew.begun == sorted(crew.begun)


def test_an_urgent_task_overtakes_a_backlog_that_waits_in_the_database(make_workshop: MakeWorkshop) -> None:
    """All but the window of what was published before it."""
    crew = Crew(make_workshop, relay_window=5)
    gates = Gates()
    crew.actor(gates)
    for n in range(100):
        crew.send(n, priority=5)
    crew.open(threads=1)
    await_that(lambda: len(crew.begun) == 2)
    crew.send("urgent", priority=0)
    gates.let("urgent", *range(100))
    crew.shop.await_all("succeeded", 101)
    assert crew.begun.index("urgent") < 60
