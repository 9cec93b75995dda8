"""`current_run().session()`: what an actor writes and its outcome commit together, exactly once (I9)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from awaiting import await_that
from broker_side import admin
from sqlalchemy import text
from wire import Wire
from workshop import MakeWorkshop, Workshop

import outbox
from outbox import current_run


@pytest.fixture
def tally(shop: Workshop) -> Workshop:
    prepare(shop)
    return shop


def prepare(workshop: Workshop) -> None:
    """A table that actors count in; its check is deferred to the commit."""
    workshop.db.execute("drop table if exists tally, allowed")
    workshop.db.execute("create table allowed (name text primary key)")
    workshop.db.execute("create table tally (name text references allowed deferrable initially deferred, n int)")
    workshop.db.execute("insert into allowed values ('one')")


def count_one(name: str = "one") -> None:
    current_run().session().execute(text("insert into tally values (:name, 1)"), {"name": name})


def counted(workshop: Workshop) -> int:
    (count,) = workshop.db.execute("select count(*) from tally").fetchone() or (0,)
    return int(count)


def test_writes_and_outcome_commit_together(tally: Workshop) -> None:
    wrote, may_end = threading.Event(), threading.Event()

    @tally.actor()
    def count() -> None:
        count_one()
        wrote.set()
        may_end.wait(20)

    message = count.send()
    assert wrote.wait(20)
    assert (counted(tally), tally.fate(message.message_id).state) == (0, "running")
    may_end.set()
    tally.await_state(message.message_id, "succeeded")
    assert counted(tally) == 1


def test_what_is_sent_commits_with_them(tally: Workshop) -> None:
    @tally.actor()
    def child() -> None: ...

    @tally.actor()
    def count() -> None:
        child.send()
        count_one()
        outbox.enqueue(current_run().session(), child.message(), delay=None)

    count.send()
    tally.await_all("succeeded", 3)
    assert counted(tally) == 1


def test_a_raise_rolls_the_writes_back_and_records_the_failure(tally: Workshop) -> None:
    @tally.actor(max_retries=0)
    def count() -> None:
        count_one()
        current_run().session().flush()
        raise ValueError("boom")

    assert tally.await_state(count.send().message_id, "dead").reason == "ValueError: boom"
    assert counted(tally) == 0


def test_a_commit_that_fails_is_a_failure_of_the_task(tally: Workshop) -> None:
    @tally.actor(max_retries=0)
    def child() -> None: ...

    @tally.actor(max_retries=0)
    def count() -> None:
        child.send()
        count_one("not allowed")

    fate = tally.await_state(count.send().message_id, "dead")
    assert "IntegrityError" in (fate.reason or "")
    assert (counted(tally), len(tally.fates())) == (0, 1)


def test_a_swallowed_database_error_cannot_pass_for_a_success(tally: Workshop) -> None:
    @tally.actor(max_retries=0)
    def count() -> None:
        count_one()
        try:
            current_run().session().execute(text("select 1/0"))
        except Exception:
            pass

    tally.await_state(count.send().message_id, "dead")
    assert counted(tally) == 0


def test_a_statement_timeout_is_a_failure_not_an_interruption(tally: Workshop) -> None:
    @tally.actor(max_retries=0)
    def count() -> None:
        current_run().session().execute(text("set local statement_timeout = '10ms'"))
        current_run().session().execute(text("select pg_sleep(5)"))

    assert "QueryCanceled" in (tally.await_state(count.send().message_id, "dead").reason or "")


def test_a_task_delivered_many_times_writes_once(make_workshop: MakeWorkshop) -> None:
    workshop = make_workshop()
    prepare(workshop)

    @workshop.actor()
    def count() -> None:
        count_one()

    message = count.send()
    workshop.publish()
    workshop.await_state(message.message_id, "published")
    with admin(workshop.settings.rabbitmq_url) as channel:
        channel.confirm_delivery()
        _, _, body = channel.basic_get(workshop.queue(), auto_ack=True)
        for _ in range(10):
            channel.basic_publish("", workshop.queue(), body or b"")
    station = workshop.work(threads=4)
    workshop.await_state(message.message_id, "succeeded")
    await_that(lambda: not station._consumers["default"].unclaimed)
    assert counted(workshop) == 1


def test_a_run_that_is_no_longer_the_tasks_writes_nothing(tally: Workshop) -> None:
    entered = threading.Semaphore(0)
    first_may_end = threading.Event()
    runs: list[int] = []

    @tally.actor()
    def count() -> None:
        runs.append(1)
        count_one()
        entered.release()
        if len(runs) == 1:
            first_may_end.wait(20)

    message = count.send()
    assert entered.acquire(timeout=20)
    tally.db.execute(  # as a rescue does it
        "update outbox.task set state = 'pending', fence = gen_random_uuid(), run_id = null, worker_id = null,"
        " claimed_at = null, claimed_beat = null, published_at = null, epoch = null where id = %s",
        [UUID(message.message_id)],
    )
    assert entered.acquire(timeout=20)
    tally.await_state(message.message_id, "succeeded")
    first_may_end.set()
    await_that(lambda: not tally.broker.station._runs)
    assert (len(runs), counted(tally)) == (2, 1)


def test_a_backend_that_dies_under_an_actor_interrupts_it_and_counts_no_failure(tally: Workshop) -> None:
    runs: list[int] = []

    @tally.actor(max_retries=0)
    def count() -> None:
        runs.append(1)
        count_one()
        if len(runs) == 1:
            kill_backend(tally)
        current_run().session().execute(text("select 1"))

    message = count.send()
    fate = tally.await_state(message.message_id, "scheduled")
    assert (fate.failures, fate.outcomes) == (0, ["interrupted"])
    tally.make_due(message.message_id)
    tally.await_state(message.message_id, "succeeded")
    assert (len(runs), counted(tally)) == (2, 1)


def test_a_backend_that_dies_before_the_commit_interrupts_it_too(tally: Workshop) -> None:
    runs: list[int] = []

    @tally.actor(max_retries=0)
    def count() -> None:
        runs.append(1)
        count_one()
        if len(runs) == 1:
            kill_backend(tally)

    message = count.send()
    fate = tally.await_state(message.message_id, "scheduled")
    assert (fate.failures, counted(tally)) == (0, 0)
    tally.make_due(message.message_id)
    tally.await_state(message.message_id, "succeeded")
    assert counted(tally) == 1


@pytest.mark.parametrize(
    "trouble",
    ["25006", "25P03", "53100", "53300"],
    ids=["read-only", "idle too long", "disk full", "no connection left"],
)
def test_the_servers_own_trouble_interrupts_an_actor_and_counts_no_failure(tally: Workshop, trouble: str) -> None:
    """I5: it meets whoever writes at that moment."""

    @tally.actor(max_retries=0)
    def count() -> None:
        count_one()
        raising = f"do $$ begin raise exception using errcode = '{trouble}'; end $$"
        current_run().session().execute(text(raising))

    fate = tally.await_state(count.send().message_id, "scheduled", "dead")
    assert (fate.state, fate.failures, fate.outcomes) == ("scheduled", 0, ["interrupted"])
    assert counted(tally) == 0


def kill_backend(workshop: Workshop) -> None:
    """Ends the server's side of the run's session."""
    (pid,) = current_run().session().execute(text("select pg_backend_pid()")).one()
    workshop.db.execute("select pg_terminate_backend(%s, 5000)", [pid])


@pytest.fixture
def wire(database_url: str) -> Iterator[Wire]:
    wire = Wire(database_url)
    yield wire
    wire.close()


@pytest.mark.parametrize("lost", [b"COMMIT", b"outbox.history"], ids=["commit", "outcome"])
def test_a_lost_reply_to_the_commit_repeats_nothing_that_was_committed(
    make_workshop: MakeWorkshop, wire: Wire, database_url: str, lost: bytes
) -> None:
    workshop = make_workshop(database_url=wire.url)
    prepare(workshop)
    runs: list[Any] = []

    @workshop.actor(max_retries=0)
    def count() -> None:
        runs.append(1)
        count_one()
        if len(runs) == 1:
            wire.lose_reply_to(lost)

    message = count.send()
    workshop.publish(database_url=database_url)
    workshop.work()
    fate = workshop.await_state(message.message_id, "succeeded", "scheduled")
    await_that(lambda: wire.lost_replies == 1)
    if lost != b"COMMIT":  # nothing was committed: it is interrupted, and runs again
        assert (fate.state, fate.failures, counted(workshop)) == ("scheduled", 0, 0)
        workshop.make_due(message.message_id)
        workshop.await_state(message.message_id, "succeeded")
    await_that(lambda: not workshop.broker.station._runs)
    assert workshop.fate(message.message_id).state == "succeeded"
    assert counted(workshop) == 1


def test_a_session_is_closed_whatever_happens(tally: Workshop) -> None:
    @tally.actor(max_retries=0)
    def count(fail: bool) -> None:
        count_one()
        if fail:
            raise ValueError("boom")

    for n in range(20):
        count.send(n % 2 == 0)
    await_that(lambda: {fate.state for fate in tally.fates().values()} == {"succeeded", "dead"})
    await_that(lambda: not tally.broker.station._runs)
    assert tally.broker.engine().pool.checkedout() == 0  # type: ignore[attr-defined]
    assert counted(tally) == 10


def test_an_async_actor_has_the_session_too(tally: Workshop) -> None:
    @tally.actor()
    async def count() -> None:
        count_one()

    tally.await_state(count.send().message_id, "succeeded")
    assert counted(tally) == 1
