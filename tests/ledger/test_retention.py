"""I2: retention takes what has ended, when its time is over, and nothing else; and no missing day stops an outcome."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import psycopg
import pytest
from awaiting import await_that
from outbox_rows import Outbox, failure
from states import HOUR, UNFINISHED, a_task, cancel, everything

from outbox import purge
from outbox.ledger import Conn

DAY = timedelta(days=1)
MONTH = 30 * DAY
LONG = timedelta(days=180)


@pytest.fixture
def own(database_url: str) -> Iterator[Outbox]:
    """A database of the test's own: these tests make and drop tables."""
    outbox = Outbox(database_url)
    yield outbox
    outbox.close()


def partitions(outbox: Outbox) -> list[str]:
    rows = outbox.conn.execute("""
        select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'outbox.history'::regclass and c.relname <> 'history_default'
        order by 1
    """)
    return [name for (name,) in rows]


def name_of(day: date) -> str:
    return f"history_{day:%Y%m%d}"


def today() -> date:
    return datetime.now(UTC).date()


def forget_all_days(outbox: Outbox) -> None:
    """As after weeks without a relay."""
    for name in partitions(outbox):
        outbox.conn.execute(f"drop table outbox.{name}".encode())


def where(outbox: Outbox, id: UUID) -> str:
    """The partition in which this task lies."""
    ((found,),) = outbox.conn.execute("select tableoid::regclass::text from outbox.history where id = %s", [id])
    return str(found).removeprefix("outbox.")


def waits(outbox: Outbox, conn: Conn) -> bool:
    return bool(
        outbox.conn.execute("select from pg_locks where not granted and pid = %s", [conn.info.backend_pid]).fetchall()
    )


# ---------------------------------------------------------------------- partitions


def test_a_new_database_has_a_week_ahead_and_yesterday(own: Outbox) -> None:
    assert partitions(own) == [name_of(today() + n * DAY) for n in range(-1, 8)]


def test_days_are_kept_ahead_and_made_once(own: Outbox) -> None:
    assert own.ledger.keep_partitions(own.conn, days_ahead=12) == 5
    assert own.ledger.keep_partitions(own.conn, days_ahead=12) == 0
    assert partitions(own) == [name_of(today() + n * DAY) for n in range(-1, 13)]


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/Los_Angeles", "Africa/Cairo"])
def test_days_are_of_utc_wherever_the_session_believes_to_be(own: Outbox, zone: str) -> None:
    forget_all_days(own)
    own.conn.execute("select set_config('timezone', %s, false)", [zone])
    assert own.ledger.keep_partitions(own.conn, days_ahead=50) == 52
    bounds = own.conn.execute("""
        select pg_get_expr(c.relpartbound, c.oid) from pg_class c where c.relname = %s
    """, [name_of(today())]).fetchall()[0][0]  # fmt: skip
    assert partitions(own)[-1] == name_of(today() + 50 * DAY)
    begin, end = (datetime.fromisoformat(part) for part in bounds.split("'")[1::2])
    assert (begin, end - begin) == (datetime.combine(today(), datetime.min.time(), UTC), DAY)


def test_any_number_of_relays_may_keep_them_at_once(own: Outbox) -> None:
    made: list[int] = []
    conns = [own.connect() for _ in range(4)]

    def keep(conn: Conn) -> None:
        made.append(own.ledger.keep_partitions(conn, days_ahead=27))

    threads = [threading.Thread(target=keep, args=(conn,)) for conn in conns]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for conn in conns:
        conn.close()
    assert sorted(made) == [0, 0, 0, 20]


ENDINGS: dict[str, Callable[[Outbox], UUID]] = {
    "succeeded": lambda outbox: a_task(outbox, "succeeded"),
    "cancelled": lambda outbox: a_task(outbox, "cancelled"),
    "expired": lambda outbox: _expired(outbox),
    "stopped": lambda outbox: _stopped(outbox),
}


def _expired(outbox: Outbox) -> UUID:
    id = outbox.add(expires_at=datetime.now(UTC) - HOUR)
    outbox.ledger.expire(outbox.conn)
    return id


def _stopped(outbox: Outbox) -> UUID:
    claimed = outbox.must_claim(outbox.add(), outbox.a_worker())
    cancel(outbox, claimed.id)
    outbox.ledger.record_cancelled(outbox.conn, [failure(claimed)])
    return claimed.id


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_missing_day_stops_an_outcome_from_being_recorded_and_it_moves_when_its_day_is_made(
    own: Outbox, ending: str
) -> None:
    forget_all_days(own)
    id = ENDINGS[ending](own)
    assert where(own, id) == "history_default"
    before = own.row(id)
    own.ledger.keep_partitions(own.conn)
    assert where(own, id) == name_of(today())
    assert own.row(id) == before


def test_a_run_that_ended_long_ago_is_recorded_though_its_day_is_gone(own: Outbox) -> None:
    """A worker without a database keeps its outcomes until there is one."""
    claimed = own.must_claim(own.add(), own.a_worker())
    late = failure(claimed).run._replace(ago=timedelta(days=5).total_seconds())
    assert own.ledger.record_successes(own.conn, [late]) == [claimed.id]
    assert where(own, claimed.id) == "history_default"
    assert own.ledger.keep_partitions(own.conn) == 0


def test_what_ends_while_its_day_is_being_made_neither_stops_that_nor_is_lost(own: Outbox) -> None:
    """The row reaches the DEFAULT partition after the others have moved and before the day is attached."""
    own.conn.execute(f"drop table outbox.{name_of(today())}".encode())
    early, late = a_task(own, "succeeded"), own.must_claim(own.add(), own.a_worker())
    settler, keeper, made = own.connect(), own.connect(), list[int]()
    thread = threading.Thread(target=lambda: made.append(own.ledger.keep_partitions(keeper)))
    with settler.transaction():
        own.ledger.record_successes(settler, [failure(late).run])
        thread.start()
        await_that(lambda: waits(own, keeper))
    thread.join()
    settler.close()
    keeper.close()
    assert made == [1]
    assert {where(own, early), where(own, late.id)} == {name_of(today())}


def test_a_long_reader_makes_the_keeper_try_later_and_holds_up_no_outcome(own: Outbox) -> None:
    reader, keeper = own.connect(), own.connect()
    before = partitions(own)
    with reader.transaction():
        reader.execute("select count(*) from outbox.history")
        with pytest.raises(psycopg.errors.LockNotAvailable), keeper.transaction():
            keeper.execute("set local lock_timeout = '200ms'")
            own.ledger.keep_partitions(keeper, days_ahead=9)
        began = time.monotonic()
        a_task(own, "succeeded")
        assert time.monotonic() - began < 2
    reader.close()
    keeper.close()
    assert partitions(own) == before
    assert own.ledger.keep_partitions(own.conn, days_ahead=9) == 2


# ---------------------------------------------------------------------- purge


def a_day_ago(outbox: Outbox, days: int) -> str:
    """The partition of that day, with one task in it."""
    day = today() - days * DAY
    outbox.conn.execute(
        f"create table outbox.{name_of(day)} partition of outbox.history"
        f" for values from ('{day}T00:00:00Z') to ('{day + DAY}T00:00:00Z')".encode()
    )
    finished(outbox, "history", "succeeded", days)
    return name_of(day)


def finished(outbox: Outbox, table: str, state: str, days: float, count: int = 1) -> None:
    outbox.conn.execute(
        f"""
        insert into outbox.{table} (id, state, queue, actor, args, kwargs, options, priority, created_at, due_at,
            finished_at, lane_holds, failures, crashes, losses, attempts)
        select gen_random_uuid(), %s, 'mail', 'send_mail', '[]', '{{}}', '{{}}', 0, t, t, t, false, 0, 0, 0, '[]'
        from (select now() - %s * interval '1 day' as t) d, generate_series(1, %s)
        """.encode(),
        [state, days, count],
    )


def purge_now(outbox: Outbox) -> list[purge.Step]:
    plan = purge.look(outbox.conn, outbox.ledger, history=MONTH, dead=LONG)
    return list(purge.purge(outbox.conn, outbox.ledger, plan, pause=lambda _: None))


def test_no_unfinished_task_is_purged_however_old(own: Outbox) -> None:
    for state in UNFINISHED:
        a_task(own, state)
    own.conn.execute("""
        update outbox.task
        set created_at = created_at - interval '10 years', due_at = due_at - interval '10 years',
            published_at = published_at - interval '10 years', claimed_at = claimed_at - interval '10 years'
    """)
    before = everything(own)
    a_day_ago(own, 31)
    finished(own, "dead", "dead", 181)
    assert [step.outcome for step in purge_now(own)] == ["dropped", "deleted"]
    assert everything(own) == before


def test_a_day_goes_when_all_of_it_is_over(own: Outbox) -> None:
    over, partly, _ = a_day_ago(own, 31), a_day_ago(own, 30), a_day_ago(own, 29)
    assert [step.name for step in purge_now(own)] == [over]
    assert own.ledger.old_partitions(own.conn, before=datetime.now(UTC) - 29 * DAY) == [partly]


def test_dead_tasks_stay_for_their_own_time_to_the_hour(own: Outbox) -> None:
    finished(own, "dead", "dead", 179.9, count=3)
    finished(own, "dead", "dead", 180.1, count=2)
    (step,) = purge_now(own)
    assert (step.what, step.rows, len(own.ids("dead"))) == ("dead", 2, 3)


def test_what_has_no_day_is_purged_in_batches(own: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(own, "history", "succeeded", 40, count=25)
    finished(own, "history", "succeeded", 20)
    monkeypatch.setattr(purge, "BATCH", 10)
    assert [(step.name, step.rows) for step in purge_now(own)] == [("history_default", n) for n in (10, 10, 5)]
    assert len(own.ids("history")) == 1


def test_two_purges_at_once_are_one_and_neither_fails(own: Outbox) -> None:
    name = a_day_ago(own, 50)
    plan = purge.look(own.conn, own.ledger, history=MONTH, dead=LONG)
    conns, errors = [own.connect(), own.connect()], list[BaseException]()

    def remove(conn: Conn) -> None:
        try:
            assert [step.outcome for step in purge.purge(conn, own.ledger, plan)] == ["dropped"]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=remove, args=(conn,)) for conn in conns]
    reader = own.connect()
    with reader.transaction():
        reader.execute("select count(*) from outbox.history")
        for thread in threads:
            thread.start()
        await_that(lambda: all(waits(own, conn) for conn in conns))
    for thread in threads:
        thread.join()
    for conn in (*conns, reader):
        conn.close()
    assert errors == []
    assert name not in partitions(own)
