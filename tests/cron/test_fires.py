"""Fires on a real PostgreSQL: which ones run, which are missed, and that each is enqueued once."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any
from uuid import UUID

import psycopg
import pytest

from outbox import database
from outbox.calendar import Calendar
from outbox.cron import (
    GRACE,
    Fired,
    Schedule,
    ScheduleNotFound,
    declare,
    divide,
    fire_due,
    pause,
    prune,
    resume,
    retire,
    run_now,
    states,
)
from outbox.errors import WrongState
from outbox.ledger import Conn, Ledger

HOUR = timedelta(hours=1)
HOURLY = Schedule(name="hourly", queue="default", cron="0 * * * *")
MINUTELY = Schedule(name="minutely", queue="default", cron="* * * * *")


def fire(conn: Conn, ledger: Ledger, schedule: Schedule) -> Fired:
    with conn.transaction():
        return fire_due(conn, ledger, schedule.name)


def introduce(conn: Conn, ledger: Ledger, schedule: Schedule, *, ago: timedelta = timedelta(0)) -> None:
    """Declare a schedule as if nobody had fired it for so long."""
    with conn.transaction():
        declare(conn, ledger, schedule)
    set_back(conn, schedule, ago)


def set_back(conn: Conn, schedule: Schedule, ago: timedelta) -> None:
    conn.execute(
        "update outbox.schedule set fired_through = clock_timestamp() - %s where name = %s", [ago, schedule.name]
    )


def through(conn: Conn, schedule: Schedule) -> datetime:
    return one(conn, "select fired_through from outbox.schedule where name = %s", schedule.name)


def one(conn: Conn, sql: str, *params: Any) -> Any:
    row = conn.execute(sql, params).fetchone()
    assert row is not None
    return row[0]


def outcomes(conn: Conn, schedule: Schedule) -> dict[datetime, str]:
    rows = conn.execute("select fire_at, outcome from outbox.fire where schedule = %s order by 1", [schedule.name])
    return dict(rows.fetchall())


def expected(schedule: Schedule, start: datetime, end: datetime) -> list[datetime]:
    return list(takewhile(lambda at: at <= end, Calendar(schedule.cron, schedule.zone).after(start)))


def assert_each_fire_has_its_one_task(conn: Conn) -> None:
    fired = conn.execute("select task_id, fire_at from outbox.fire where task_id is not null").fetchall()
    tasks = conn.execute("select id, options::jsonb ->> 'scheduled_at' from outbox.task").fetchall()
    assert sorted(fired) == sorted((id, datetime.fromisoformat(at)) for id, at in tasks)


def an_hour_that_is_not_now(conn: Conn) -> str:
    """Hourly, at a minute at least a quarter of an hour from now: every fire of the past is a missed one."""
    minute = one(conn, "select extract(minute from clock_timestamp())::int")
    return f"{(minute + 30) % 60} * * * *"


# ---------------------------------------------------------------------- declaring


def test_a_new_schedule_never_fires_for_the_past(conn: Conn, ledger: Ledger) -> None:
    introduce(conn, ledger, replace(MINUTELY, missed="all"))
    assert fire(conn, ledger, MINUTELY) == Fired()
    assert one(conn, "select count(*) from outbox.task") == 0


def test_declaring_again_changes_nothing_that_is_due(conn: Conn, ledger: Ledger) -> None:
    introduce(conn, ledger, HOURLY, ago=3 * HOUR)
    before = through(conn, HOURLY)
    declare(conn, ledger, replace(HOURLY, missed="all", missed_limit=2, queue="slow"))
    assert through(conn, HOURLY) == before
    assert states(conn, ledger, ["hourly"])["hourly"][2:7] == ("slow", "0 * * * *", "UTC", "all", 2)


@pytest.mark.parametrize("change", [{"cron": "30 3 * * *"}, {"zone": "Asia/Kolkata"}])
def test_a_changed_calendar_counts_from_now_and_what_was_due_by_the_old_one_has_fired(
    conn: Conn, ledger: Ledger, change: dict[str, str]
) -> None:
    before = replace(HOURLY, cron=an_hour_that_is_not_now(conn))
    introduce(conn, ledger, before, ago=3 * HOUR)
    start = through(conn, HOURLY)
    with conn.transaction():
        fired = declare(conn, ledger, replace(before, **change))  # type: ignore[arg-type]
    now = one(conn, "select clock_timestamp()")
    assert now - through(conn, HOURLY) < timedelta(seconds=5)
    assert (len(fired.late), fired.missed) == (1, 2)
    assert list(outcomes(conn, HOURLY)) == expected(before, start, through(conn, HOURLY))
    assert fire(conn, ledger, HOURLY) == Fired()
    assert_each_fire_has_its_one_task(conn)


def test_the_zone_decides_when_a_schedule_fires(conn: Conn, ledger: Ledger) -> None:
    paris = replace(HOURLY, cron="30 2 * * *", zone="Europe/Paris", missed="all")
    introduce(conn, ledger, paris, ago=timedelta(days=300))
    start = through(conn, paris)
    fire(conn, ledger, paris)
    assert list(outcomes(conn, paris)) == expected(paris, start, through(conn, paris))
    local = conn.execute(
        "select distinct to_char(fire_at at time zone 'Europe/Paris', 'HH24:MI') from outbox.fire"
    ).fetchall()
    assert ("02:30",) in local
    assert set(local) <= {("02:30",), ("03:00",)}


def test_what_nobody_declares_any_more_is_retired_and_kept(conn: Conn, ledger: Ledger) -> None:
    introduce(conn, ledger, HOURLY, ago=3 * HOUR)
    introduce(conn, ledger, MINUTELY)
    assert retire(conn, ledger, ["minutely"]) == [], "its scheduler may only be restarting"
    conn.execute("update outbox.schedule set declared_at = declared_at - interval '4 minutes'")
    assert retire(conn, ledger, ["minutely"]) == ["hourly"]
    assert states(conn, ledger, ["hourly"])["hourly"].retired
    assert not states(conn, ledger, ["minutely"])["minutely"].retired
    assert fire(conn, ledger, HOURLY) == Fired()


def test_two_applications_that_share_the_tables_do_not_retire_each_other(conn: Conn, ledger: Ledger) -> None:
    introduce(conn, ledger, HOURLY)
    introduce(conn, ledger, MINUTELY)
    for _ in range(5):
        conn.execute("update outbox.schedule set declared_at = declared_at - interval '1 minute'")
        assert retire(conn, ledger, ["hourly"]) == retire(conn, ledger, ["minutely"]) == []


@pytest.mark.parametrize(("away", "tasks"), [(timedelta(hours=20), 1), (timedelta(days=2), 0)])
def test_a_schedule_that_comes_back_catches_up_after_hours_and_begins_anew_after_days(
    conn: Conn, ledger: Ledger, away: timedelta, tasks: int
) -> None:
    schedule = replace(HOURLY, cron=an_hour_that_is_not_now(conn))
    introduce(conn, ledger, schedule, ago=away)
    conn.execute("update outbox.schedule set retired = true, declared_at = clock_timestamp() - %s", [away])
    declare(conn, ledger, schedule)
    assert len(fire(conn, ledger, schedule).late) == tasks
    assert not states(conn, ledger, ["hourly"])["hourly"].retired


# ---------------------------------------------------------------------- missed fires

NOW = datetime(2026, 1, 1, 12, 0, 30, tzinfo=UTC)
LATE = [NOW - GRACE - n * HOUR for n in (5, 4, 3, 2, 1)]


@pytest.mark.parametrize(
    ("missed", "limit", "runs"),
    [("all", 100, LATE), ("all", 2, LATE[-2:]), ("last", 100, LATE[-1:]), ("none", 100, [])],
)
def test_the_policy_chooses_among_the_missed_and_never_touches_what_is_on_time(
    missed: Any, limit: int, runs: list[datetime]
) -> None:
    punctual = [NOW - GRACE, NOW]
    passed, run = divide([*LATE, *punctual], now=NOW, missed=missed, limit=limit)
    assert run == [*runs, *punctual]
    assert passed == LATE[: len(LATE) - len(runs)]


@pytest.mark.parametrize(("missed", "tasks"), [("all", 4), ("last", 1), ("none", 0)])
def test_after_an_outage_the_missed_fires_run_as_declared_and_the_rest_is_recorded(
    conn: Conn, ledger: Ledger, missed: Any, tasks: int
) -> None:
    schedule = replace(HOURLY, cron=an_hour_that_is_not_now(conn), missed=missed, missed_limit=4)
    introduce(conn, ledger, schedule, ago=10 * HOUR)
    start = through(conn, schedule)
    fired = fire(conn, ledger, schedule)
    found = outcomes(conn, schedule)
    assert list(found) == expected(schedule, start, through(conn, schedule))
    assert list(found.values()) == ["missed"] * (len(found) - tasks) + ["fired"] * tasks
    assert (len(fired.late), fired.missed) == (tasks, len(found) - tasks)
    assert_each_fire_has_its_one_task(conn)


def test_a_fire_within_the_grace_is_not_missed(conn: Conn, ledger: Ledger) -> None:
    schedule = replace(MINUTELY, missed="none")
    introduce(conn, ledger, schedule, ago=timedelta(seconds=59.5))
    assert wait_for_one_fire(conn, ledger, schedule) == "fired"


def wait_for_one_fire(conn: Conn, ledger: Ledger, schedule: Schedule) -> str:
    while not outcomes(conn, schedule):
        fire(conn, ledger, schedule)
    return next(iter(outcomes(conn, schedule).values()))


def test_of_a_long_outage_only_what_is_kept_anyway_is_written_down(conn: Conn, ledger: Ledger) -> None:
    introduce(conn, ledger, MINUTELY, ago=timedelta(days=3650))
    conn.execute("update outbox.schedule set cron = '*/10 * * * *'")
    fire(conn, ledger, MINUTELY)
    assert len(outcomes(conn, MINUTELY)) == 90 * 24 * 6
    assert one(conn, "select count(*) from outbox.task") in (1, 2)


def test_a_rare_schedule_catches_up_however_long_the_outage_was(conn: Conn, ledger: Ledger) -> None:
    month = one(conn, "select extract(month from clock_timestamp())::int")
    schedule = replace(HOURLY, cron=f"0 0 1 {(month + 5) % 12 + 1} *")
    introduce(conn, ledger, schedule, ago=timedelta(days=3 * 365))
    assert len(fire(conn, ledger, schedule).late) == 1
    assert list(outcomes(conn, schedule).values()) == ["missed", "missed", "fired"]


# ---------------------------------------------------------------------- the task of a fire


def test_the_task_goes_to_the_actors_queue_and_knows_when_it_was_due(conn: Conn, ledger: Ledger) -> None:
    introduce(conn, ledger, replace(HOURLY, queue="reports"), ago=HOUR)
    fire(conn, ledger, HOURLY)
    rows = conn.execute("select queue, actor, state, args::text, kwargs::text, options::jsonb from outbox.task")
    ((queue, actor, state, args, kwargs, options),) = rows.fetchall()
    assert (queue, actor, state, args, kwargs) == ("reports", "hourly", "pending", "[]", "{}")
    (at,) = outcomes(conn, HOURLY)
    assert options == {"scheduled_at": at.astimezone(UTC).isoformat()}


def test_a_fire_that_was_enqueued_is_not_enqueued_again_even_if_the_clock_runs_over_it_twice(
    conn: Conn, ledger: Ledger
) -> None:
    schedule = replace(HOURLY, missed="all")
    introduce(conn, ledger, schedule, ago=5 * HOUR)
    fire(conn, ledger, schedule)
    tasks = one(conn, "select count(*) from outbox.task")
    set_back(conn, schedule, 7 * HOUR)
    fire(conn, ledger, schedule)
    assert one(conn, "select count(*) from outbox.task") == tasks + 2
    assert_each_fire_has_its_one_task(conn)


def test_a_fire_without_its_task_or_a_task_without_its_fire_cannot_be(conn: Conn, ledger: Ledger) -> None:
    introduce(conn, ledger, replace(HOURLY, missed="all"), ago=5 * HOUR)
    before = through(conn, HOURLY)
    with pytest.raises(psycopg.errors.CheckViolation), conn.transaction():
        fire_due(conn, ledger, HOURLY.name)
        conn.execute("insert into outbox.fire (schedule, fire_at, outcome) values ('hourly', now(), 'fired')")
    assert (outcomes(conn, HOURLY), through(conn, HOURLY)) == ({}, before)
    assert one(conn, "select count(*) from outbox.task") == 0


def test_a_schedule_that_somebody_fires_is_left_to_them_at_once(conn: Conn, ledger: Ledger, database_url: str) -> None:
    introduce(conn, ledger, HOURLY, ago=HOUR)
    with database.connect(database_url, name="other") as other:
        with other.transaction():
            assert len(fire_due(other, ledger, "hourly").late) == 1
            assert fire(conn, ledger, HOURLY) == Fired()
        assert fire(conn, ledger, HOURLY) == Fired()
    assert_each_fire_has_its_one_task(conn)


def test_a_clock_that_was_wrong_for_a_while_does_not_silence_a_schedule(conn: Conn, ledger: Ledger) -> None:
    schedule = replace(HOURLY, missed="all")
    introduce(conn, ledger, schedule, ago=-48 * HOUR)
    conn.execute(
        "insert into outbox.fire (schedule, fire_at, outcome) "
        "select 'hourly', date_trunc('hour', now()) + n * interval '1 hour', 'missed' from generate_series(1, 47) n"
    )
    assert fire(conn, ledger, schedule) == Fired()
    assert one(conn, "select clock_timestamp()") - through(conn, schedule) < timedelta(seconds=5)
    assert outcomes(conn, schedule) == {}, "what was written down as missed has yet to come"
    set_back(conn, schedule, HOUR)
    assert len(fire(conn, ledger, schedule).late) == 1


def test_another_schema_has_its_own_schedules(conn: Conn) -> None:
    conn.execute("alter schema outbox rename to elsewhere")
    ledger = Ledger("elsewhere")
    with conn.transaction():
        declare(conn, ledger, HOURLY)
    conn.execute("update elsewhere.schedule set fired_through = clock_timestamp() - interval '1 hour'")
    assert len(fire(conn, ledger, HOURLY).late) == 1
    assert one(conn, "select count(*) from elsewhere.task") == 1


# ---------------------------------------------------------------------- operators


def audit(conn: Conn) -> list[tuple[str, str, str]]:
    return conn.execute("select who, action, subject from outbox.audit order by id").fetchall()


def test_run_now_enqueues_a_task_beside_the_calendar(conn: Conn, ledger: Ledger) -> None:
    introduce(conn, ledger, HOURLY)
    before = through(conn, HOURLY)
    with conn.transaction():
        ids = {run_now(conn, ledger, "hourly", who="ada") for _ in range(2)}
    assert set(outcomes(conn, HOURLY).values()) == {"by hand"}
    assert {id for (id,) in conn.execute("select id from outbox.task")} == ids
    assert all(isinstance(id, UUID) for id in ids)
    assert through(conn, HOURLY) == before
    assert audit(conn) == [("ada", "run schedule", "schedule/hourly")] * 2
    assert_each_fire_has_its_one_task(conn)


def test_a_paused_schedule_fires_only_by_hand(conn: Conn, ledger: Ledger) -> None:
    introduce(conn, ledger, HOURLY, ago=5 * HOUR)
    pause(conn, ledger, "hourly", who="ada")
    assert fire(conn, ledger, HOURLY) == Fired()
    run_now(conn, ledger, "hourly", who="ada")
    assert list(outcomes(conn, HOURLY).values()) == ["by hand"]


def test_a_resumed_schedule_does_not_catch_up_on_its_pause(conn: Conn, ledger: Ledger) -> None:
    introduce(conn, ledger, replace(HOURLY, missed="all"), ago=5 * HOUR)
    pause(conn, ledger, "hourly", who="ada")
    resume(conn, ledger, "hourly", who="bob")
    assert fire(conn, ledger, HOURLY) == Fired()
    assert outcomes(conn, HOURLY) == {}
    set_back(conn, HOURLY, HOUR)
    assert len(fire(conn, ledger, HOURLY).late) == 1
    assert audit(conn) == [("ada", "pause schedule", "schedule/hourly"), ("bob", "resume schedule", "schedule/hourly")]


def test_pausing_twice_is_written_down_once(conn: Conn, ledger: Ledger) -> None:
    introduce(conn, ledger, HOURLY)
    pause(conn, ledger, "hourly", who="ada")
    pause(conn, ledger, "hourly", who="bob")
    assert [who for who, _, _ in audit(conn)] == ["ada"]


def test_what_cannot_be_done_to_a_schedule_says_why_and_changes_nothing(conn: Conn, ledger: Ledger) -> None:
    introduce(conn, ledger, HOURLY)
    for act in (run_now, pause, resume):
        with pytest.raises(ScheduleNotFound, match="No schedule is named 'weekly'"):
            act(conn, ledger, "weekly", who="ada")
    with pytest.raises(WrongState, match="hourly is not paused"):
        resume(conn, ledger, "hourly", who="ada")
    conn.execute("update outbox.schedule set retired = true")
    with pytest.raises(WrongState, match="hourly is retired"):
        run_now(conn, ledger, "hourly", who="ada")
    assert audit(conn) == []
    assert one(conn, "select count(*) from outbox.task") == 0


# ---------------------------------------------------------------------- retention


def test_old_fires_are_pruned_in_bounded_steps_but_never_the_last_of_a_schedule(conn: Conn, ledger: Ledger) -> None:
    introduce(conn, ledger, HOURLY)
    introduce(conn, ledger, MINUTELY)
    for name, ages in (("hourly", range(85, 100)), ("minutely", range(95, 105))):
        conn.execute(
            "insert into outbox.fire (schedule, fire_at, outcome) "
            "select %s, clock_timestamp() - age * interval '1 day', 'missed' from unnest(%s::int[]) age",
            [name, list(ages)],
        )
    assert list(steps(conn, ledger, limit=4)) == [4, 4, 4, 4, 3]
    left = conn.execute(
        "select schedule, round(extract(epoch from clock_timestamp() - fire_at) / 86400)::int from outbox.fire"
    ).fetchall()
    assert sorted(left) == [*(("hourly", age) for age in range(85, 90)), ("minutely", 95)]


def steps(conn: Conn, ledger: Ledger, *, limit: int) -> Iterable[int]:
    while count := prune(conn, ledger, limit=limit):
        yield count


def test_two_who_prune_at_once_do_not_wait_for_each_other(conn: Conn, ledger: Ledger, database_url: str) -> None:
    introduce(conn, ledger, HOURLY)
    conn.execute(
        "insert into outbox.fire (schedule, fire_at, outcome) "
        "select 'hourly', clock_timestamp() - interval '91 days' - n * interval '1 hour', 'missed' "
        "from generate_series(0, 99) n"
    )
    with ExitStack() as stack:
        other = stack.enter_context(database.connect(database_url, name="other"))
        stack.enter_context(other.transaction())
        other.execute("set local lock_timeout = '1s'")
        with conn.transaction():
            assert (prune(conn, ledger, limit=30), prune(other, ledger, limit=30)) == (30, 30)
