"""Leases: who lives is left alone, who fell silent starts and settles nothing, and a lost reply is read, not guessed (I7)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from awaiting import await_that
from broker_side import admin
from wire import Wire
from workshop import MakeWorkshop, Workshop

from outbox import database
from outbox.lease import Lease, Report
from outbox.ledger import Conn, Ledger

SHORT = timedelta(seconds=2)


@pytest.fixture
def wire(database_url: str) -> Iterator[Wire]:
    wire = Wire(database_url)
    yield wire
    wire.close()


class Bench:
    """The ledger of a database, with a worker or two in it that only the test moves."""

    def __init__(self, database_url: str) -> None:
        self.ledger = Ledger()
        self.db = database.connect(database_url, name="bench")

    def joined(self) -> UUID:
        worker = uuid4()
        self.ledger.join(
            self.db, worker=worker, kind="worker", host="here", pid=1, queues=["default"], threads=1,
            lease=timedelta(seconds=10),
        )  # fmt: skip
        return worker

    def beat(self, worker: UUID, *runs: UUID) -> int | None:
        answer = self.ledger.beat(
            self.db, worker=worker, runs=runs, running=(), queues=["default"], unclaimed=[], claimed_through={}
        )
        return answer[0] if answer else None

    def task(self, **columns: Any) -> tuple[UUID, UUID]:
        """A pending task's id and fence."""
        row = self.db.execute(
            "insert into outbox.task (id, state, queue, actor, args, kwargs, options, due_at)"
            " values (gen_random_uuid(), 'pending', 'default', 'note', '[]', '{}', '{}', now()) returning id, fence"
        ).fetchone()
        assert row is not None
        return row[0], row[1]

    def row(self, id: UUID) -> dict[str, Any]:
        with self.db.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            found = cursor.execute("select * from outbox.task where id = %s", [id]).fetchone()
        assert found is not None
        return found


@pytest.fixture
def bench(database_url: str) -> Iterator[Bench]:
    bench = Bench(database_url)
    yield bench
    bench.db.close()


class TestClaims:
    def test_the_same_run_may_claim_twice_and_reads_that_it_has(self, bench: Bench) -> None:
        worker, (id, fence) = bench.joined(), bench.task()
        asked = [(id, fence, uuid4())]
        (first,) = bench.ledger.claim(bench.db, asked, worker=worker, beat=0)
        assert bench.ledger.claim(bench.db, asked, worker=worker, beat=0) == []
        assert [v.why for v in bench.ledger.verdicts(bench.db, asked, worker=worker)] == ["mine"]
        assert bench.ledger.claims_of(bench.db, asked, worker=worker) == [first]

    def test_another_run_and_another_fence_claim_nothing(self, bench: Bench) -> None:
        worker, (id, fence) = bench.joined(), bench.task()
        bench.ledger.claim(bench.db, [(id, fence, uuid4())], worker=worker, beat=0)
        before = bench.row(id)
        for asked in ([(id, fence, uuid4())], [(id, uuid4(), before["run_id"])], [(uuid4(), fence, uuid4())]):
            assert bench.ledger.claim(bench.db, asked, worker=worker, beat=0) == []
        assert bench.row(id) == before

    def test_who_was_declared_dead_claims_nothing(self, bench: Bench) -> None:
        worker, (id, fence) = bench.joined(), bench.task()
        bench.ledger.rescue(bench.db, worker=worker, beat=0, max_crashes=3)
        asked = [(id, fence, uuid4())]
        assert bench.ledger.claim(bench.db, asked, worker=worker, beat=0) == []
        assert [v.why for v in bench.ledger.verdicts(bench.db, asked, worker=worker)] == ["outlawed"]
        assert bench.row(id)["state"] == "pending"

    def test_a_lost_reply_to_a_claim_costs_seconds_and_neither_a_failure_nor_a_second_run(
        self, make_workshop: MakeWorkshop, wire: Wire, database_url: str
    ) -> None:
        workshop = make_workshop(database_url=wire.url, lease=SHORT)
        ran: list[int] = []

        @workshop.actor()
        def note(n: int) -> None:
            ran.append(n)

        workshop.work()
        wire.lose_reply_to(b"claimed_beat = ")
        message = note.send(1)
        workshop.publish(database_url=database_url)
        fate = workshop.await_state(message.message_id, "succeeded")
        assert wire.lost_replies == 1
        assert (ran, fate.failures, fate.crashes) == ([1], 0, 0)

    def test_a_claim_whose_verdict_came_too_late_is_given_up(
        self, make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """I7: what nobody has listed for three beats is rescued, and may run elsewhere by now."""
        workshop = make_workshop(lease=timedelta(seconds=1))
        ran: list[int] = []

        @workshop.actor()
        def note(n: int) -> None:
            ran.append(n)

        message = note.send(1)
        workshop.publish()
        workshop.await_state(message.message_id, "published")
        copy_the_message(workshop)
        verdicts, late = workshop.broker.ledger.verdicts, []

        def slow(conn: Conn, asked: Any, *, worker: UUID) -> Any:
            answer = verdicts(conn, asked, worker=worker)
            if not late:
                late.append(workshop.fate(message.message_id).state)
                await_that(lambda: rescued(workshop, message.message_id))
            return answer

        monkeypatch.setattr(workshop.broker.ledger, "verdicts", slow)
        station = workshop.work(threads=1)
        fate = workshop.await_state(message.message_id, "succeeded")
        await_that(lambda: not station._runs)
        assert late == ["running"]  # claimed, and one more copy to be judged
        assert (ran, fate.failures, fate.crashes) == ([1], 0, 0)


def copy_the_message(workshop: Workshop) -> None:
    """The only message of its queue is there twice."""
    with admin(workshop.settings.rabbitmq_url) as channel:
        channel.confirm_delivery()
        _, _, body = channel.basic_get(workshop.queue(), auto_ack=True)
        for _ in range(2):
            channel.basic_publish("", workshop.queue(), body or b"")


def rescued(workshop: Workshop, id: str) -> bool:
    workshop.broker.ledger.rescue_unlisted(workshop.db)
    return workshop.fate(id).state != "running"


class TestRescue:
    def test_a_worker_that_beat_meanwhile_is_not_declared_dead(self, bench: Bench) -> None:
        worker, (id, fence) = bench.joined(), bench.task()
        bench.ledger.claim(bench.db, [(id, fence, uuid4())], worker=worker, beat=0)
        bench.beat(worker)
        assert bench.ledger.rescue(bench.db, worker=worker, beat=0, max_crashes=3) is None
        assert bench.row(id)["state"] == "running"

    def test_only_a_crash_alone_counts(self, bench: Bench) -> None:
        id, fence = bench.task()
        for crash, alone in enumerate([False, True, True]):
            worker = bench.joined()
            fence = bench.row(id)["fence"]
            assert bench.ledger.claim(bench.db, [(id, fence, uuid4())], worker=worker, beat=0, alone=alone)
            bench.ledger.rescue(bench.db, worker=worker, beat=0, max_crashes=3)
            row = bench.row(id)
            assert (row["state"], row["suspect"], row["crashes"], row["failures"]) == ("pending", True, crash, 0)

    def test_a_suspect_is_claimed_by_nobody_who_has_company(self, bench: Bench) -> None:
        id, fence = bench.task()
        worker = bench.joined()
        bench.ledger.claim(bench.db, [(id, fence, uuid4())], worker=worker, beat=0)
        bench.ledger.rescue(bench.db, worker=worker, beat=0, max_crashes=3)
        other, asked = bench.joined(), [(id, bench.row(id)["fence"], uuid4())]
        assert bench.ledger.claim(bench.db, asked, worker=other, beat=0) == []
        assert [v.why for v in bench.ledger.verdicts(bench.db, asked, worker=other)] == ["suspect"]
        assert len(bench.ledger.claim(bench.db, asked, worker=other, beat=0, alone=True)) == 1

    def test_what_a_living_worker_does_not_list_is_due_again_but_not_before_three_beats(self, bench: Bench) -> None:
        worker, (id, fence) = bench.joined(), bench.task()
        bench.ledger.claim(bench.db, [(id, fence, uuid4())], worker=worker, beat=0)
        for _ in range(2):
            bench.beat(worker)
            assert bench.ledger.rescue_unlisted(bench.db) == []
        bench.beat(worker)
        assert bench.ledger.rescue_unlisted(bench.db) == [id]
        row = bench.row(id)
        assert (row["state"], row["suspect"], row["failures"]) == ("pending", False, 0)
        assert row["fence"] != fence

    def test_what_a_living_worker_lists_is_left_alone(self, bench: Bench) -> None:
        worker, (id, fence), run = bench.joined(), bench.task(), uuid4()
        bench.ledger.claim(bench.db, [(id, fence, run)], worker=worker, beat=0)
        for _ in range(10):
            bench.beat(worker, run)
            assert bench.ledger.rescue_unlisted(bench.db) == []
        assert bench.row(id)["run_id"] == run

    def test_a_row_that_its_living_worker_forgot_runs_again(self, make_workshop: MakeWorkshop) -> None:
        workshop = make_workshop(lease=SHORT)
        ran: list[int] = []

        @workshop.actor()
        def note(n: int) -> None:
            ran.append(n)

        station = workshop.work()
        message = note.send(1)
        (fence,) = workshop.db.execute("select fence from outbox.task").fetchone() or (None,)
        assert station.ledger.claim(  # a claim whose reply never came, as the ledger sees it
            workshop.db, [(UUID(message.message_id), fence, uuid4())], worker=station.lease.id, beat=station.lease.beat
        )
        workshop.publish()
        fate = workshop.await_state(message.message_id, "succeeded")
        assert (ran, fate.failures, fate.crashes) == ([1], 0, 0)


class TestBeats:
    def test_a_report_between_two_beats_is_not_counted(self, bench: Bench, database_url: str) -> None:
        queues: list[str] = []
        lease = Lease(
            bench.ledger, lambda: database.connect(database_url, name="lease"), kind="worker",
            lease=timedelta(seconds=60), report=lambda: Report(queues=tuple(queues)),
        )  # fmt: skip
        lease.start()
        assert lease.wait(10)
        proved = lease._proved
        for n in range(5):
            queues.append(f"q{n}")
            lease.report_now()
            await_that(lambda: bench.db.execute("select queues from outbox.worker").fetchone() == (queues,))
        assert bench.db.execute("select beat from outbox.worker").fetchone() == (1,)
        assert (lease.beat, lease._proved) == (1, proved)
        lease.stop()
        assert bench.db.execute("select count(*) from outbox.worker").fetchone() == (0,)

    @pytest.mark.parametrize("lost", [b"insert into outbox.worker", b"update outbox.worker"], ids=["join", "beat"])
    def test_a_lost_reply_to_the_first_beats_keeps_nobody_out(self, wire: Wire, bench: Bench, lost: bytes) -> None:
        wire.lose_reply_to(lost)
        lease = Lease(
            bench.ledger, lambda: database.connect(wire.url, name="lease"), kind="worker", lease=timedelta(seconds=1)
        )
        lease.start()
        assert lease.wait(10)
        assert wire.lost_replies == 1
        lease.stop()

    def test_a_beat_that_breaks_in_this_process_does_not_end_the_beating(self, bench: Bench, database_url: str) -> None:
        breaks = [RuntimeError("a bug")]

        def report() -> Report:
            if breaks:
                raise breaks.pop()
            return Report()

        lease = Lease(
            bench.ledger, lambda: database.connect(database_url, name="lease"), kind="worker",
            lease=timedelta(seconds=1), report=report,
        )  # fmt: skip
        lease.start()
        assert lease.wait(10)
        lease.stop()

    def test_a_lease_is_not_valid_from_four_fifths_of_it_on(self, wire: Wire, bench: Bench) -> None:
        lease = Lease(bench.ledger, lambda: database.connect(wire.url, name="lease"), kind="worker", lease=SHORT)
        lease.start()
        assert lease.wait(10)
        wire.cut()
        await_that(lambda: not lease.valid, SHORT)  # before anybody else may call it dead
        wire.mend()
        await_that(lambda: lease.valid)
        lease.stop()


def test_a_worker_cut_off_for_a_lease_settles_nothing_starts_nothing_and_comes_back(
    make_workshop: MakeWorkshop, wire: Wire, database_url: str
) -> None:
    cut_off = make_workshop(database_url=wire.url, lease=SHORT)
    other = make_workshop(lease=SHORT)
    ran: list[str] = []
    entered, may_end = threading.Semaphore(0), threading.Event()

    def declare(workshop: Workshop, where: str) -> Any:
        @workshop.actor(max_retries=0)
        def hold(n: int) -> None:
            ran.append(f"{where} {n}")
            entered.release()
            if where == "cut off" and n == 0:
                may_end.wait(30)

        return hold

    hold = declare(cut_off, "cut off")
    declare(other, "other")
    station = cut_off.work(threads=1)
    identity = station.lease.id
    other.publish()
    first = hold.send(0)
    assert entered.acquire(timeout=20)
    held = hold.send(1)
    cut_off.await_state(held.message_id, "running")  # claimed, behind the first
    wire.cut()
    other.work(threads=1)
    await_that(lambda: sorted(ran[1:]) == ["other 0", "other 1"])
    fates = [other.await_state(each.message_id, "succeeded") for each in (first, held)]

    wire.mend()
    may_end.set()
    await_that(lambda: station.lease.valid and station.lease.id != identity)
    await_that(lambda: not station._runs)
    assert [other.fate(each.message_id) for each in (first, held)] == fates
    assert sorted(ran) == ["cut off 0", "other 0", "other 1"]
    assert {(fate.failures, fate.crashes) for fate in fates} == {(0, 0)}

    other.stop_working()
    again = hold.send(2)
    other.await_state(again.message_id, "succeeded")
    assert ran[-1] == "cut off 2"


def test_a_short_outage_of_the_database_kills_no_lease_and_costs_no_attempt(
    make_workshop: MakeWorkshop, wire: Wire, database_url: str
) -> None:
    workshop = make_workshop(database_url=wire.url, lease=timedelta(seconds=10))
    ran: list[int] = []
    may_end = threading.Event()

    @workshop.actor(max_retries=0)
    def hold(n: int) -> None:
        ran.append(n)
        may_end.wait(20)

    station = workshop.work(threads=1)
    identity = station.lease.id
    workshop.publish(database_url=database_url)
    tasks = [hold.send(n) for n in range(4)]
    await_that(lambda: ran == [0] and len(station._runs) > 1)
    wire.cut()
    may_end.set()
    await_that(lambda: station._in_hand == 0)  # what was held ran too: the lease is proved for a while yet
    wire.mend()
    fates = [workshop.await_state(task.message_id, "succeeded") for task in tasks]
    assert sorted(ran) == [0, 1, 2, 3]
    assert {(fate.failures, fate.crashes) for fate in fates} == {(0, 0)}
    assert station.lease.id == identity
