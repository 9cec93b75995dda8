"""Concurrency keys: never more than the limit under way at once, whoever enqueues, settles, promotes and sweeps."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from awaiting import await_that
from outbox_rows import Outbox, failure, finished
from psycopg import errors as errors_of_psycopg

from outbox.ledger import Conn, Ledger

#: The lanes that have more under way than they may, with how many.
EXCEEDED = """
select lane, count(*)
from outbox.task
where lane like 'limit/%' and state in ('pending', 'published', 'running')
group by lane
having count(*) > max(lane_limit)
"""


def add(outbox: Outbox, *, key: str = "k", limit: int = 1, **options: Any) -> UUID:
    return outbox.add(1, concurrency_key=key, concurrency_limit=limit, **options)


def under_way(outbox: Outbox) -> int:
    return sum(state in ("pending", "published", "running") for state in outbox.states().values())


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_the_first_so_many_go_and_the_others_wait_in_order(outbox: Outbox, limit: int) -> None:
    ids = outbox.add_many(8, concurrency_key="k", concurrency_limit=limit)
    assert set(outbox.states().values()) == {"waiting"}, "an enqueue takes no lock, so it lets nobody go"
    outbox.sweep()
    states = outbox.states()
    assert [states[id] for id in ids] == ["pending"] * limit + ["waiting"] * (8 - limit)


@pytest.mark.parametrize("ending", ["success", "failure", "death", "cancel"])
def test_one_that_ends_lets_exactly_the_next_go(outbox: Outbox, ending: str) -> None:
    worker = outbox.a_worker()
    ids = outbox.add_many(5, concurrency_key="k", concurrency_limit=2)
    outbox.sweep()
    claimed = outbox.must_claim(ids[0], worker)
    if ending == "success":
        outbox.succeed(claimed)
    elif ending == "failure":
        outbox.fail(claimed, wait=timedelta(hours=1))
    elif ending == "death":
        outbox.end_dead(claimed)
    else:
        with outbox.conn.transaction():
            assert outbox.ledger.cancel(outbox.conn, ids[1], reason="x") == "cancelled"
    states = outbox.states()
    assert states[ids[2]] == "pending"
    assert [states[id] for id in ids[3:]] == ["waiting", "waiting"]


def test_cancelling_one_that_waits_lets_nobody_go(outbox: Outbox) -> None:
    ids = outbox.add_many(4, concurrency_key="k", concurrency_limit=1)
    outbox.sweep()
    with outbox.conn.transaction():
        outbox.ledger.cancel(outbox.conn, ids[1], reason="x")
    assert under_way(outbox) == 1


def test_keys_do_not_hold_up_each_other_nor_tasks_without(outbox: Outbox) -> None:
    for key in "abc":
        add(outbox, key=key)
        add(outbox, key=key)
    outbox.add(1)
    outbox.sweep()
    assert under_way(outbox) == 4


def test_a_scheduled_one_takes_no_place_until_it_is_due(outbox: Outbox) -> None:
    later = add(outbox, delay=timedelta(hours=1))
    now = add(outbox)
    outbox.sweep()
    assert (outbox.state(later), outbox.state(now)) == ("scheduled", "pending")
    outbox.conn.execute("update outbox.task set due_at = clock_timestamp() where state = 'scheduled'")
    assert outbox.promote() == 1
    assert outbox.state(later) == "waiting"
    outbox.succeed(outbox.must_claim(now, outbox.a_worker()))
    assert outbox.state(later) == "pending"


def test_a_raised_limit_counts_for_the_tasks_that_carry_it(outbox: Outbox) -> None:
    old = outbox.add_many(3, concurrency_key="k", concurrency_limit=1)
    new = outbox.add_many(3, concurrency_key="k", concurrency_limit=3)
    worker = outbox.a_worker()
    outbox.sweep()
    for id in old:
        outbox.succeed(outbox.must_claim(id, worker))
    outbox.sweep()
    assert [outbox.state(id) for id in new] == ["pending"] * 3


# ---------------------------------------------------------------------- races, one by one


def promote(ledger: Ledger, conn: Conn) -> None:
    _, lanes = ledger.promote_due(conn, limit=1)
    ledger.grant(conn, lanes)


def sweep(ledger: Ledger, conn: Conn) -> None:
    ledger.sweep_lanes(conn)


def expire(ledger: Ledger, conn: Conn) -> None:
    ledger.grant(conn, ledger.expire(conn))


def enqueue_one(ledger: Ledger, conn: Conn) -> None:
    row = '[{"id":"%s","queue":"mail","actor":"a","args":[],"kwargs":{},"options":{},"lane":"limit/k","lane_limit":1}]'
    ledger.enqueue(conn, row % uuid4())


def cancel_a_waiting_one(ledger: Ledger, conn: Conn) -> None:
    ((id,),) = conn.execute("select id from outbox.task where state = 'waiting' order by position limit 1").fetchall()
    ledger.cancel(conn, id, reason="x")


def reschedule_a_scheduled_one(ledger: Ledger, conn: Conn) -> None:
    ((id,),) = conn.execute("select id from outbox.task where state = 'scheduled' limit 1").fetchall()
    ledger.reschedule(conn, id, run_at=None, delay=timedelta(0))


Act = Callable[[Ledger, Conn], None]
ACTS: dict[str, Act] = {
    act.__name__: act for act in (promote, sweep, expire, enqueue_one, cancel_a_waiting_one, reschedule_a_scheduled_one)
}


LANES = ("left waiting", "empty but for due ones")
RACES = [
    pytest.param(lane, first, second, id=f"{lane}: {first}, {second}")
    for lane in LANES
    for first in ACTS
    for second in ACTS
    if lane == "left waiting" or "cancel_a_waiting_one" not in (first, second)
]


@pytest.mark.parametrize(("lane", "first", "second"), RACES)
def test_two_transactions_at_once_do_not_each_take_the_last_place(
    outbox: Outbox, lane: str, first: str, second: str
) -> None:
    """The second acts while the first has acted and not yet committed: neither sees what the other did."""
    for _ in range(3):
        add(outbox, delay=timedelta(hours=1))
    if lane == "left waiting":
        outbox.conn.execute("update outbox.task set state = 'waiting'")
        for _ in range(3):
            add(outbox, delay=timedelta(hours=1))
        outbox.conn.execute(
            "update outbox.task set expires_at = clock_timestamp() where position = (select min(position) from outbox.task)"
        )
    outbox.conn.execute("update outbox.task set due_at = clock_timestamp()")
    one, two = outbox.connect(), outbox.connect()
    two.execute("set lock_timeout = '20s'")
    done = threading.Event()

    def act_second() -> None:
        with two.transaction():
            ACTS[second](outbox.ledger, two)
        done.set()

    thread = threading.Thread(target=act_second)
    with one.transaction():
        ACTS[first](outbox.ledger, one)
        thread.start()
        waits = "select 1 from pg_locks where not granted and pid = %s"
        await_that(lambda: done.is_set() or outbox.conn.execute(waits, [two.info.backend_pid]).fetchall())
    thread.join()
    one.close()
    two.close()
    assert outbox.conn.execute(EXCEEDED).fetchall() == []
    outbox.promote()
    outbox.sweep()
    assert outbox.conn.execute(EXCEEDED).fetchall() == []
    assert under_way(outbox) == 1, "somebody goes in the end"


# ---------------------------------------------------------------------- all at once


def test_the_limit_holds_while_everybody_hammers_the_lanes(outbox: Outbox) -> None:
    """Enqueues, claims, settles, promotions, sweeps, cancels and rescues of five lanes at once; every task ends."""
    total, limits = 240, {f"k{n}": n % 3 + 1 for n in range(5)}
    stop, errors, exceeded = threading.Event(), list[BaseException](), list[object]()

    def hammer(act: Callable[[Conn, random.Random], None], seed: int) -> threading.Thread:
        def run() -> None:
            try:
                conn, dice = outbox.connect(), random.Random(seed)
                while not stop.is_set():
                    act(conn, dice)
                conn.close()
            except BaseException as error:
                errors.append(error)
                stop.set()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def settle(conn: Conn, dice: random.Random) -> None:
        worker = outbox.a_worker()
        rows = conn.execute(
            "select id, fence from outbox.task where state = 'pending' order by random() limit 4"
        ).fetchall()
        asked = [(id, fence, uuid4()) for id, fence in sorted(rows)]
        try:
            claimed = outbox.ledger.claim(conn, asked, worker=worker, beat=0, alone=True)
        except errors_of_psycopg.DeadlockDetected:  # two claims of the same copies: the consumer takes what is free
            claimed = outbox.ledger.claim_unlocked(conn, asked, worker=worker, beat=0, alone=True)
        again = [each for each in claimed if dice.random() < 0.2]
        lost = [each for each in claimed if each not in again and dice.random() < 0.1]
        won = [each for each in claimed if each not in again and each not in lost]
        with conn.transaction():
            outbox.ledger.record_successes(conn, [finished(each) for each in won])
            outbox.ledger.record_again(conn, [failure(each, wait=timedelta(milliseconds=20)) for each in again])
        with conn.transaction():
            outbox.ledger.rescue(conn, worker=worker, beat=0, max_crashes=100)

    def keep(conn: Conn, dice: random.Random) -> None:
        with conn.transaction():
            _, lanes = outbox.ledger.promote_due(conn, limit=10)
            outbox.ledger.grant(conn, lanes)
        with conn.transaction():
            outbox.ledger.sweep_lanes(conn)

    def watch(conn: Conn, dice: random.Random) -> None:
        exceeded.extend(conn.execute(EXCEEDED).fetchall())

    threads = [hammer(act, seed) for seed, act in enumerate((settle, settle, keep, keep, watch))]

    def produce(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(total // 2):
            key = dice.choice(list(limits))
            delay = timedelta(milliseconds=dice.choice([0, 0, 5]))
            add(outbox, key=key, limit=limits[key], delay=delay)

    producers = [threading.Thread(target=produce, args=(seed,)) for seed in (1, 2)]
    for producer in producers:
        producer.start()
    for producer in producers:
        producer.join()
    try:
        await_that(lambda: errors or not outbox.ids(), timedelta(seconds=80))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == []
    assert exceeded == []
    assert len(outbox.ids("history")) == total
