"""Unique keys: one among those not yet started, one more may wait behind a running one; a conflict never breaks
the caller's transaction."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from awaiting import await_that
from outbox_rows import Outbox, a_message
from psycopg.errors import SerializationFailure
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from outbox import Task, enqueue
from outbox.ledger import Claimed

#: A backend of this database waits for another one's lock.
WAITING = "select count(*) from pg_locks where not granted and pid in (select pid from pg_stat_activity where datname = current_database())"


def add(session: Session, key: str = "k", number: int = 1, **options: Any) -> Task:
    return enqueue(session, a_message(number), unique_key=key, **options)


def in_thread(pool: ThreadPoolExecutor, outbox: Outbox, session: Session, *, keys: str = "k") -> Future[list[Task]]:
    """Flushes one task a key in another thread; answers when it was written or refused."""

    def flush() -> list[Task]:
        tasks = [add(session, key) for key in keys]
        session.flush()
        return tasks

    return pool.submit(flush)


def await_a_wait(outbox: Outbox, future: Future[Any]) -> None:
    await_that(lambda: outbox.conn.execute(WAITING).fetchall()[0][0] or future.done())
    assert not future.done(), future.result()


def test_a_taken_key_answers_with_the_task_that_holds_it(outbox: Outbox) -> None:
    first = outbox.add(1, unique_key="k")
    with outbox.session() as session:
        second = add(session)
        assert (second.enqueued, second.id != first) == (True, True)
        other = add(session, "other")
        session.flush()
        assert (second.enqueued, second.id) == (False, first)
        assert other.enqueued
        session.commit()
    assert set(outbox.ids()) == {first, other.id}


def test_a_key_in_one_flush_makes_one_task(outbox: Outbox) -> None:
    with outbox.session() as session:
        tasks = [add(session, key, number) for number, key in enumerate("aabbab")]
        session.commit()
    assert len({task.id for task in tasks}) == 2
    assert [task.enqueued for task in tasks] == [True, False, True, False, False, False]
    assert [task.id for task in tasks] == [tasks[0 if key == "a" else 2].id for key in "aabbab"]
    assert [row["args"] for row in outbox.all()] == [[0], [2]]


def test_a_key_in_one_transaction_makes_one_task_over_many_flushes(outbox: Outbox) -> None:
    with outbox.session() as session:
        first = add(session)
        session.flush()
        second = add(session)
        session.flush()
        assert (second.enqueued, second.id) == (False, first.id)
        session.commit()
    assert outbox.ids() == [first.id]


def test_a_rolled_back_savepoint_frees_its_key(outbox: Outbox) -> None:
    with outbox.session() as session:
        savepoint = session.begin_nested()
        add(session)
        session.flush()
        savepoint.rollback()
        task = add(session)
        session.commit()
    assert task.enqueued
    assert outbox.ids() == [task.id]


def test_a_concurrent_transaction_waits_and_gives_way_to_the_one_that_commits(outbox: Outbox) -> None:
    with outbox.session() as first, outbox.session() as second, ThreadPoolExecutor() as pool:
        mine = add(first)
        first.flush()
        theirs = in_thread(pool, outbox, second)
        await_a_wait(outbox, theirs)
        first.commit()
        (task,) = theirs.result(timeout=10)
        assert (task.enqueued, task.id) == (False, mine.id)
        second.commit()
    assert outbox.ids() == [mine.id]


def test_a_concurrent_transaction_takes_the_key_of_one_that_rolls_back(outbox: Outbox) -> None:
    with outbox.session() as first, outbox.session() as second, ThreadPoolExecutor() as pool:
        add(first)
        first.flush()
        theirs = in_thread(pool, outbox, second)
        await_a_wait(outbox, theirs)
        first.rollback()
        (task,) = theirs.result(timeout=10)
        assert task.enqueued
        second.commit()
    assert outbox.ids() == [task.id]


def test_a_transaction_that_loses_its_key_goes_on_with_all_else(outbox: Outbox) -> None:
    outbox.add(1, unique_key="k")
    with outbox.session() as session:
        session.execute(text("create temporary table domain (n int) on commit drop"))
        add(session)
        session.flush()
        session.execute(text("insert into domain values (1)"))
        plain = enqueue(session, a_message(2))
        assert session.scalar(text("select count(*) from domain")) == 1
        session.commit()
    assert plain.id in outbox.ids()


def test_transactions_that_add_the_same_keys_in_opposite_order_do_not_deadlock(outbox: Outbox) -> None:
    errors, barrier = list[BaseException](), threading.Barrier(2)

    def add_all(keys: str) -> None:
        try:
            for turn in range(30):
                barrier.wait(10)
                with outbox.session() as session:
                    for key in keys:
                        add(session, f"{key}{turn}")
                    session.commit()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=add_all, args=(keys,)) for keys in ("abcdefgh", "hgfedcba")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(outbox.ids()) == 30 * 8


def test_many_concurrent_transactions_make_exactly_one_task_of_a_key(outbox: Outbox) -> None:
    barrier = threading.Barrier(8)

    def one(_: int) -> tuple[bool, UUID]:
        with outbox.session() as session:
            task = add(session)
            barrier.wait()
            session.commit()
            return task.enqueued, task.id

    for _ in range(5):
        outbox.conn.execute("delete from outbox.task")
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(one, range(8)))
        (id,) = outbox.ids()
        assert {each for _, each in answers} == {id}
        assert sum(enqueued for enqueued, _ in answers) == 1


# ---------------------------------------------------------------------- after the start


def test_one_more_may_wait_behind_a_running_one_and_only_one(outbox: Outbox) -> None:
    worker, first = outbox.a_worker(), outbox.add(1, unique_key="k")
    outbox.must_claim(first, worker)
    with outbox.session() as session:
        second, third = add(session), add(session)
        session.commit()
    assert (second.enqueued, third.enqueued, third.id) == (True, False, second.id)
    assert set(outbox.ids()) == {first, second.id}


def test_a_task_that_failed_and_waits_for_its_retry_does_not_hold_its_key(outbox: Outbox) -> None:
    worker, first = outbox.a_worker(), outbox.add(1, unique_key="k")
    outbox.fail(outbox.must_claim(first, worker))
    second = outbox.add(1, unique_key="k")
    assert set(outbox.ids()) == {first, second}


def test_a_task_that_was_given_back_unstarted_holds_its_key_again(outbox: Outbox) -> None:
    first = outbox.add(1, unique_key="k")
    give_back(outbox, outbox.must_claim(first, outbox.a_worker()))
    with outbox.session() as session:
        second = add(session)
        session.commit()
    assert (second.enqueued, second.id, outbox.ids()) == (False, first, [first])


def test_a_task_that_has_run_before_does_not_hold_its_key_when_it_is_given_back(outbox: Outbox) -> None:
    worker, first = outbox.a_worker(), outbox.add(1, unique_key="k")
    outbox.fail(outbox.must_claim(first, worker))
    outbox.promote()
    give_back(outbox, outbox.must_claim(first, worker))
    second = outbox.add(1, unique_key="k")
    assert set(outbox.ids()) == {first, second}


def test_a_task_given_back_while_another_holds_its_key_does_not_take_it(outbox: Outbox) -> None:
    claimed = outbox.must_claim(outbox.add(1, unique_key="k"), outbox.a_worker())
    second = outbox.add(1, unique_key="k")
    give_back(outbox, claimed)
    assert outbox.add(1, unique_key="k") == second
    assert set(outbox.ids()) == {claimed.id, second}


def test_two_of_a_key_given_back_at_once_are_both_due_and_one_holds_it(outbox: Outbox) -> None:
    """I5: one that is refused would be held, and not run, for as long as its worker lives."""
    worker, claimed = outbox.a_worker(), []
    for number in range(2):
        claimed.append(outbox.must_claim(outbox.add(number, unique_key="k"), worker))
    give_back(outbox, *claimed)
    assert [row["state"] for row in outbox.all()] == ["pending", "pending"]
    assert sorted(row["started"] for row in outbox.all()) == [False, True]


def give_back(outbox: Outbox, *held: Claimed) -> None:
    assert outbox.ledger.give_back(outbox.conn, [(each.id, each.run_id) for each in held]) == len(held)


def test_a_key_is_free_again_after_success_and_after_cancel(outbox: Outbox) -> None:
    worker, first = outbox.a_worker(), outbox.add(1, unique_key="k")
    outbox.succeed(outbox.must_claim(first, worker))
    second = outbox.add(1, unique_key="k")
    outbox.ledger.cancel(outbox.conn, second, reason="no more")
    third = outbox.add(1, unique_key="k")
    assert outbox.ids() == [third]


def test_a_retried_dead_task_stands_beside_the_new_one_of_its_key(outbox: Outbox) -> None:
    worker, first = outbox.a_worker(), outbox.add(1, unique_key="k")
    outbox.end_dead(outbox.must_claim(first, worker))
    second = outbox.add(1, unique_key="k")
    assert outbox.ledger.retry(outbox.conn, first)
    assert set(outbox.ids()) == {first, second}


@pytest.mark.parametrize("ending", ["starts", "is cancelled"])
def test_a_holder_that_ends_between_the_conflict_and_the_look_at_it_does_not_swallow_the_task(
    outbox: Outbox, ending: str
) -> None:
    worker, endings = outbox.a_worker(), list[str]()

    def end_the_holder(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement == outbox.ledger.enqueue_unique_sql and not endings:
            endings.append(ending)
            if ending == "starts":
                outbox.must_claim(holder.id, worker)
            else:
                assert outbox.ledger.cancel(outbox.conn, holder.id, reason="x") == "cancelled"

    with outbox.session() as first, outbox.session() as second, ThreadPoolExecutor() as pool:
        holder = add(first)
        first.flush()
        event.listen(outbox.engine, "after_cursor_execute", end_the_holder)
        try:
            asked = in_thread(pool, outbox, second)  # its INSERT waits, and then meets a holder that it cannot see
            await_a_wait(outbox, asked)
            first.commit()
            (task,) = asked.result(timeout=10)
        finally:
            event.remove(outbox.engine, "after_cursor_execute", end_the_holder)
        second.commit()
    assert endings == [ending]
    assert task.enqueued
    assert task.id != holder.id
    assert task.id in outbox.ids()


def test_no_task_is_ever_reported_that_does_not_exist(outbox: Outbox) -> None:
    """Enqueues and starts of one key, hammered: each answer names a row that is or was there."""
    worker, stop, seen, errors = outbox.a_worker(), threading.Event(), set[UUID](), list[BaseException]()

    def start_all() -> None:
        conn = outbox.connect()
        while not stop.is_set():
            rows = conn.execute("select id, fence from outbox.task where state = 'pending'").fetchall()
            outbox.ledger.claim(conn, [(id, fence, id) for id, fence in rows], worker=worker, beat=0)
        conn.close()

    def add_many() -> None:
        try:
            for _ in range(150):
                with outbox.session() as session:
                    task = add(session)
                    session.commit()
                    seen.add(task.id)
        except BaseException as error:
            errors.append(error)

    starter = threading.Thread(target=start_all)
    adders = [threading.Thread(target=add_many) for _ in range(3)]
    for thread in (starter, *adders):
        thread.start()
    for thread in adders:
        thread.join()
    stop.set()
    starter.join()
    assert errors == []
    assert seen <= set(outbox.ids())


# ---------------------------------------------------------------------- other isolation levels


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_in_stricter_isolation_a_visible_holder_is_answered(outbox: Outbox, level: str) -> None:
    first = outbox.add(1, unique_key="k")
    with Session(outbox.engine.execution_options(isolation_level=level)) as session:
        task, twice = add(session), [add(session, "new"), add(session, "new")]
        session.commit()
    assert (task.enqueued, task.id) == (False, first)
    assert [each.enqueued for each in twice] == [True, False]
    assert twice[0].id == twice[1].id


def test_in_stricter_isolation_an_unseen_holder_is_the_usual_serialization_failure(outbox: Outbox) -> None:
    """PostgreSQL cannot answer with a row that the transaction must not see: whoever asked for that level repeats."""
    with Session(outbox.engine.execution_options(isolation_level="REPEATABLE READ")) as session:
        session.execute(text("select 1 from outbox.task"))
        outbox.add(1, unique_key="k")
        add(session)
        with pytest.raises(DBAPIError) as caught:
            session.commit()
        assert isinstance(caught.value.orig, SerializationFailure)
        session.rollback()
        task = add(session)
        session.commit()
    assert not task.enqueued
