"""Ordering keys: the tasks of a key run one after another, in the order in which their enqueues committed."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from awaiting import await_that
from outbox_rows import Outbox, a_message, finished

from outbox import enqueue

WAITING = """
select 1
from pg_locks l
join pg_database d on d.oid = l.database
where not l.granted and l.locktype = 'advisory' and d.datname = current_database()
"""
CROWDED = """
select lane
from outbox.task
where state in ('scheduled', 'pending', 'published', 'running')
group by lane
having count(*) > 1
"""


def add(outbox: Outbox, number: int = 1, *, key: str = "k", **options: Any) -> UUID:
    return outbox.add(number, ordering_key=key, **options)


def by_position(outbox: Outbox) -> list[UUID]:
    return [row["id"] for row in sorted(outbox.all(), key=lambda row: row["position"])]


def test_the_head_goes_and_the_followers_wait(outbox: Outbox) -> None:
    ids = [add(outbox, n) for n in range(4)]
    assert [outbox.state(id) for id in ids] == ["pending", "waiting", "waiting", "waiting"]
    assert by_position(outbox) == ids


def test_the_order_of_one_flush_is_the_order_of_its_calls_whatever_else_it_writes(outbox: Outbox) -> None:
    """A sort that is not told to be stable is not: hundreds of rows of mixed keys show it."""
    dice = random.Random(7)
    calls: dict[str, list[UUID]] = {}
    with outbox.session() as session:
        for number in range(400):
            key = dice.choice("abcdefg")
            unique = f"{dice.random()}" if dice.random() < 0.5 else None
            task = enqueue(session, a_message(number), ordering_key=key, unique_key=unique)
            calls.setdefault(f"order/{key}", []).append(task.id)
            enqueue(session, a_message(number), unique_key=f"{dice.random()}")
        session.commit()
    rows = sorted((row for row in outbox.all() if row["lane"]), key=lambda row: row["position"])
    assert {lane: [row["id"] for row in rows if row["lane"] == lane] for lane in calls} == calls
    heads = {ids[0] for ids in calls.values()}
    assert {row["id"] for row in rows if row["state"] == "pending"} == heads


def test_positions_follow_commits_not_the_begin_of_transactions(outbox: Outbox) -> None:
    """The second one to write waits for the first one's end; so nobody ever slips in before what already runs."""
    with outbox.session() as first, outbox.session() as second, ThreadPoolExecutor() as pool:
        one = enqueue(first, a_message(1), ordering_key="k")
        first.flush()
        two = enqueue(second, a_message(2), ordering_key="k")
        flushed = pool.submit(second.flush)
        await_that(lambda: outbox.conn.execute(WAITING).fetchall())
        assert not flushed.done()
        first.commit()
        flushed.result(timeout=10)
        second.commit()
    assert by_position(outbox) == [one.id, two.id]
    assert (outbox.state(one.id), outbox.state(two.id)) == ("pending", "waiting")


def test_one_that_rolls_back_leaves_no_gap_that_anybody_waits_for(outbox: Outbox) -> None:
    with outbox.session() as first, outbox.session() as second, ThreadPoolExecutor() as pool:
        enqueue(first, a_message(1), ordering_key="k")
        first.flush()
        two = enqueue(second, a_message(2), ordering_key="k")
        flushed = pool.submit(second.flush)
        await_that(lambda: outbox.conn.execute(WAITING).fetchall())
        first.rollback()
        flushed.result(timeout=10)
        second.commit()
    assert outbox.states() == {two.id: "pending"}


def test_other_keys_wait_for_nobody(outbox: Outbox) -> None:
    with outbox.session() as first, outbox.session() as second:
        enqueue(first, a_message(1), ordering_key="a")
        first.flush()
        enqueue(second, a_message(2), ordering_key="b")
        second.commit()
        first.commit()
    assert list(outbox.states().values()) == ["pending", "pending"]


def test_flushes_of_the_same_keys_in_opposite_order_do_not_deadlock(outbox: Outbox) -> None:
    errors, barrier = list[BaseException](), threading.Barrier(2)

    def add_all(keys: str) -> None:
        try:
            for _ in range(25):
                barrier.wait(10)
                with outbox.session() as session:
                    for key in keys:
                        enqueue(session, a_message(1), ordering_key=key)
                    session.commit()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=add_all, args=(keys,)) for keys in ("abcdefgh", "hgfedcba")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert outbox.count("pending") == 8


# ---------------------------------------------------------------------- the head's fate


def test_a_head_that_succeeds_hands_on_to_the_next_in_the_same_transaction(outbox: Outbox) -> None:
    worker, ids = outbox.a_worker(), [add(outbox, n) for n in range(3)]
    for number, id in enumerate(ids):
        assert [outbox.state(each) for each in ids[number:]] == ["pending"] + ["waiting"] * (2 - number)
        outbox.succeed(outbox.must_claim(id, worker))
    assert outbox.ids() == []


def test_a_head_that_fails_keeps_its_place_through_all_its_retries(outbox: Outbox) -> None:
    worker, (head, follower) = outbox.a_worker(), [add(outbox, n) for n in range(2)]
    for _ in range(3):
        outbox.fail(outbox.must_claim(head, worker), wait=timedelta(hours=1))
        outbox.sweep()
        assert (outbox.state(head), outbox.state(follower)) == ("scheduled", "waiting")
        outbox.conn.execute("update outbox.task set due_at = clock_timestamp() where id = %s", [head])
        outbox.promote()
        assert (outbox.state(head), outbox.state(follower)) == ("pending", "waiting")
    outbox.succeed(outbox.must_claim(head, worker))
    assert outbox.state(follower) == "pending"


def test_a_dead_head_lets_its_followers_pass(outbox: Outbox) -> None:
    worker, (head, follower) = outbox.a_worker(), [add(outbox, n) for n in range(2)]
    outbox.end_dead(outbox.must_claim(head, worker))
    assert (outbox.state(head), outbox.state(follower)) == ("dead", "pending")


def test_a_dead_head_that_holds_keeps_everybody_waiting_until_its_retry_and_then_goes_first(outbox: Outbox) -> None:
    worker = outbox.a_worker()
    head, follower = (add(outbox, n, hold_on_dead=True) for n in range(2))
    outbox.end_dead(outbox.must_claim(head, worker))
    late = add(outbox, 3)
    outbox.sweep()
    assert (outbox.state(follower), outbox.state(late)) == ("waiting", "waiting")
    with outbox.conn.transaction():
        assert outbox.ledger.retry(outbox.conn, head)
    outbox.sweep()
    assert [outbox.state(id) for id in (head, follower, late)] == ["pending", "waiting", "waiting"]
    assert by_position(outbox) == [head, follower, late]
    outbox.succeed(outbox.must_claim(head, worker))
    assert [outbox.state(id) for id in (follower, late)] == ["pending", "waiting"]


def test_an_enqueue_behind_a_dead_head_that_holds_waits_even_when_the_lane_is_empty(outbox: Outbox) -> None:
    head = add(outbox, hold_on_dead=True)
    outbox.end_dead(outbox.must_claim(head, outbox.a_worker()))
    assert outbox.state(add(outbox, 2)) == "waiting"
    assert outbox.state(add(outbox, 3, key="other")) == "pending"


def test_a_purge_does_not_remove_a_dead_task_that_holds_others(outbox: Outbox) -> None:
    """The hold ends by somebody's decision, not by the calendar."""
    worker = outbox.a_worker()
    holding, follower = (add(outbox, n, hold_on_dead=True) for n in range(2))
    outbox.end_dead(outbox.must_claim(holding, worker))
    alone = add(outbox, 1, key="other", hold_on_dead=True)
    outbox.end_dead(outbox.must_claim(alone, worker))
    ((after,),) = outbox.conn.execute("select clock_timestamp() + interval '1 day'").fetchall()
    assert outbox.ledger.purge_dead(outbox.conn, before=after) == 1
    assert outbox.ids("dead") == [holding]
    outbox.sweep()
    assert outbox.state(follower) == "waiting"


@pytest.mark.parametrize("ending", ["dead", "cancelled"])
def test_an_operator_s_retry_joins_the_tail(outbox: Outbox, ending: str) -> None:
    worker, ids = outbox.a_worker(), [add(outbox, n) for n in range(3)]
    if ending == "dead":
        outbox.end_dead(outbox.must_claim(ids[0], worker))
    else:
        with outbox.conn.transaction():
            assert outbox.ledger.cancel(outbox.conn, ids[0], reason="x") == "cancelled"
    assert outbox.state(ids[1]) == "pending"
    with outbox.conn.transaction():
        assert outbox.ledger.retry(outbox.conn, ids[0])
    assert outbox.state(ids[0]) == "waiting"
    assert by_position(outbox) == [ids[1], ids[2], ids[0]]
    for id in (ids[1], ids[2], ids[0]):
        outbox.succeed(outbox.must_claim(id, worker))
    assert outbox.ids() == []


def test_a_retry_into_an_empty_lane_goes_at_once(outbox: Outbox) -> None:
    head = add(outbox)
    outbox.end_dead(outbox.must_claim(head, outbox.a_worker()))
    with outbox.conn.transaction():
        outbox.ledger.retry(outbox.conn, head)
    assert outbox.state(head) == "pending"


def test_a_cancelled_follower_changes_nothing_for_the_others(outbox: Outbox) -> None:
    ids = [add(outbox, n) for n in range(4)]
    with outbox.conn.transaction():
        outbox.ledger.cancel(outbox.conn, ids[1], reason="x")
    assert [outbox.state(id) for id in ids] == ["pending", "cancelled", "waiting", "waiting"]


def test_an_expired_head_hands_on(outbox: Outbox) -> None:
    ids = [add(outbox, n) for n in range(2)]
    outbox.conn.execute("update outbox.task set expires_at = clock_timestamp() where id = %s", [ids[0]])
    with outbox.conn.transaction():
        outbox.ledger.grant(outbox.conn, outbox.ledger.expire(outbox.conn))
    assert (outbox.state(ids[0]), outbox.state(ids[1])) == ("cancelled", "pending")


def test_a_delayed_head_holds_its_place_and_a_delayed_follower_its_time(outbox: Outbox) -> None:
    head = add(outbox, 1, delay=timedelta(hours=1))
    follower = add(outbox, 2, delay=timedelta(hours=2))
    third = add(outbox, 3)
    assert [outbox.state(id) for id in (head, follower, third)] == ["scheduled", "waiting", "waiting"]
    outbox.conn.execute("update outbox.task set due_at = clock_timestamp() where id = %s", [head])
    outbox.promote()
    outbox.succeed(outbox.must_claim(head, outbox.a_worker()))
    assert [outbox.state(id) for id in (follower, third)] == ["scheduled", "waiting"]


def test_a_rescheduled_head_keeps_its_place_and_a_rescheduled_follower_too(outbox: Outbox) -> None:
    head, follower = add(outbox, 1), add(outbox, 2)
    with outbox.conn.transaction():
        outbox.ledger.reschedule(outbox.conn, follower, run_at=None, delay=timedelta(0))
        outbox.ledger.reschedule(outbox.conn, head, run_at=None, delay=timedelta(hours=1))
    outbox.sweep()
    assert [outbox.state(id) for id in (head, follower)] == ["scheduled", "waiting"]
    assert by_position(outbox) == [head, follower]


def test_a_rescued_head_keeps_its_place(outbox: Outbox) -> None:
    worker, (head, follower) = outbox.a_worker(), [add(outbox, n) for n in range(2)]
    outbox.must_claim(head, worker)
    with outbox.conn.transaction():
        assert outbox.ledger.rescue(outbox.conn, worker=worker, beat=0, max_crashes=3) == [(head, "rescued")]
    outbox.sweep()
    assert [outbox.state(id) for id in (head, follower)] == ["pending", "waiting"]


# ---------------------------------------------------------------------- races


def test_an_enqueue_that_saw_the_head_which_then_ended_is_found_by_the_sweep(outbox: Outbox) -> None:
    head = add(outbox, 1)
    claimed = outbox.must_claim(head, outbox.a_worker())
    with outbox.session() as session:
        follower = enqueue(session, a_message(2), ordering_key="k")
        session.flush()
        outbox.succeed(claimed)
        session.commit()
    assert outbox.state(follower.id) == "waiting"
    assert outbox.sweep() == 1
    assert outbox.state(follower.id) == "pending"


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_in_stricter_isolation_the_task_waits_and_the_sweep_decides(outbox: Outbox, level: str) -> None:
    """There the enqueue cannot see what committed meanwhile, so it takes no place by itself."""
    ids = []
    for number in range(2):
        with outbox.session() as session:
            session.connection(execution_options={"isolation_level": level})
            ids.append(enqueue(session, a_message(number), ordering_key="k").id)
            session.commit()
    assert [outbox.state(id) for id in ids] == ["waiting", "waiting"]
    assert outbox.sweep() == 1
    assert [outbox.state(id) for id in ids] == ["pending", "waiting"]


def test_a_sweep_reaches_every_lane_page_by_page(outbox: Outbox) -> None:
    outbox.conn.execute("alter table outbox.task disable trigger take_place")
    outbox.conn.execute(
        "insert into outbox.task (id, state, queue, actor, args, kwargs, options, due_at, lane, position) "
        "select gen_random_uuid(), 'waiting', 'mail', 'a', '[]', '{}', '{}', clock_timestamp(), 'order/' || n % 1203, n "
        "from generate_series(1, 2406) n"
    )
    outbox.conn.execute("alter table outbox.task enable trigger take_place")
    granted, after, pages = 0, "", 0
    while after or not pages:
        with outbox.conn.transaction():
            count, after = outbox.ledger.sweep_lanes(outbox.conn, after=after)
        granted, pages = granted + count, pages + 1
    assert (granted, pages) == (1203, 3)
    heads = {row["position"] for row in outbox.all() if row["state"] == "pending"}
    assert heads == set(range(1, 1204))


def test_a_long_transaction_in_a_lane_holds_up_no_sweep_and_comes_after_what_waited(outbox: Outbox) -> None:
    for key in "ab":
        with outbox.session() as session:
            session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            enqueue(session, a_message(1), ordering_key=key)
            session.commit()
    with outbox.session() as long:
        late = enqueue(long, a_message(2), ordering_key="a")
        long.flush()
        assert outbox.sweep() == 2
        assert [row["state"] for row in outbox.all()] == ["pending", "pending"]
        long.commit()
    assert outbox.sweep() == 0
    assert outbox.state(late.id) == "waiting"


def test_under_concurrent_enqueues_and_settles_each_key_runs_in_commit_order_one_at_a_time(outbox: Outbox) -> None:
    keys, each_key = "abc", 25
    ran: dict[str, list[int]] = {key: [] for key in keys}
    errors, stop = list[BaseException](), threading.Event()

    def guarded(act: Any) -> threading.Thread:
        def run() -> None:
            try:
                act()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def produce() -> None:
        for _ in range(each_key):
            for key in keys:
                add(outbox, 0, key=key)

    def consume() -> None:
        conn, worker = outbox.connect(), outbox.a_worker()
        while not stop.is_set():
            assert conn.execute(CROWDED).fetchall() == []
            rows = conn.execute("select id, fence from outbox.task where state = 'pending' order by id").fetchall()
            claimed = outbox.ledger.claim(conn, [(i, f, uuid4()) for i, f in rows], worker=worker, beat=0)
            for one in claimed:
                ((position,),) = conn.execute("select position from outbox.task where id = %s", [one.id]).fetchall()
                assert one.lane is not None
                ran[one.lane.removeprefix("order/")].append(position)
                with conn.transaction():
                    outbox.ledger.record_successes(conn, [finished(one)])
        conn.close()

    def sweep() -> None:
        conn = outbox.connect()
        while not stop.is_set():
            with conn.transaction():
                outbox.ledger.sweep_lanes(conn)
        conn.close()

    producers = [guarded(produce) for _ in range(3)]
    others = [guarded(act) for act in (consume, consume, sweep)]
    for producer in producers:
        producer.join()
    try:
        await_that(lambda: errors or not outbox.ids())
    finally:
        stop.set()
        for thread in others:
            thread.join()
    assert errors == []
    assert {key: len(positions) for key, positions in ran.items()} == dict.fromkeys(keys, 3 * each_key)
    assert all(positions == sorted(positions) for positions in ran.values())
