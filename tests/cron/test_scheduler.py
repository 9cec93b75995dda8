"""Schedulers that run: in threads and as processes, killed, cut off, and told to stop."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from awaiting import await_that
from prometheus_client import REGISTRY

from deploy.local.postgres import Postgres
from outbox import database
from outbox.calendar import Calendar
from outbox.cron import Schedule
from outbox.ledger import Conn, Ledger
from outbox.scheduler import Scheduler

HERE = Path(__file__).parent
NAMES = [f"tick_{number:02}" for number in range(40)]
SCHEDULES = [Schedule(name, "default", "* * * * *", missed="all", missed_limit=10_000) for name in NAMES]
PROGRAM = "import sys; from outbox.cron import main; from outbox.settings import Settings; sys.exit(main(Settings()))"
#: Two seconds on a machine of one's own; the interpreter's end alone takes one where the tests of others run.
AT_ONCE = 4
OUR_BACKENDS = "pg_stat_activity where application_name = 'outbox scheduler' and datname = current_database()"


def one(conn: Conn, sql: str, *params: Any) -> Any:
    row = conn.execute(sql, params).fetchone()
    assert row is not None
    return row[0]


#: Whole processes start in between.
eventually = partial(await_that, timeout=timedelta(seconds=30))


def set_back(conn: Conn, ago: timedelta) -> datetime:
    """As if nobody had fired for so long. Answers the database's time before."""
    now = one(conn, "select clock_timestamp()")
    conn.execute("update outbox.schedule set fired_through = clock_timestamp() - %s", [ago])
    return datetime.fromisoformat(now.isoformat())


def caught_up(conn: Conn, since: datetime) -> bool:
    return bool(one(conn, "select count(*) > 0 and bool_and(fired_through > %s) from outbox.schedule", since))


def backends(conn: Conn) -> int:
    return int(one(conn, f"select count(*) from {OUR_BACKENDS}"))


def held_up(conn: Conn) -> bool:
    return bool(one(conn, f"select count(*) > 0 from {OUR_BACKENDS} and wait_event_type = 'Lock'"))


def declared(conn: Conn) -> bool:
    return bool(one(conn, "select count(*) = %s from outbox.schedule", len(NAMES)))


def assert_each_fire_happened_once(conn: Conn, *, start: datetime) -> None:
    """Every minute of every schedule since `start` is one fire and one task, and there are no others."""
    with conn.transaction():
        conn.execute("set transaction isolation level repeatable read")  # a minute may begin while this reads
        fires = conn.execute("select schedule, fire_at, task_id, outcome from outbox.fire").fetchall()
        ends = dict(conn.execute("select name, fired_through from outbox.schedule").fetchall())
        tasks = conn.execute("select id, actor, options::jsonb ->> 'scheduled_at' from outbox.task").fetchall()
    minutes = Calendar("* * * * *")
    expected = {
        (name, at) for name, end in ends.items() for at in takewhile(lambda at, e=end: at <= e, minutes.after(start))
    }
    assert {(name, at.astimezone(UTC)) for name, at, _, _ in fires} == expected
    assert {outcome for *_, outcome in fires} == {"fired"}
    assert sorted((id, actor, datetime.fromisoformat(at)) for id, actor, at in tasks) == sorted(
        (task, name, at) for name, at, task, _ in fires
    )


@contextmanager
def running(database_url: str, *schedules: Schedule, **options: Any) -> Iterator[Scheduler]:
    scheduler = Scheduler(schedules, Ledger(), database_url, **options)
    scheduler.start()
    try:
        yield scheduler
    finally:
        scheduler.stop()


class Program:
    """`outbox scheduler` as its own process."""

    def __init__(self, database_url: str, **variables: str) -> None:
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={
                **os.environ,
                "DATABASE_URL": database_url,
                "OUTBOX_APP": "app_with_schedules",
                "PYTHONPATH": str(HERE),
                **variables,
            },
            cwd=HERE.parent.parent,
            stderr=self.log,
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def said(self) -> str:
        """What it has logged until now."""
        return os.pread(self.log.fileno(), 1_000_000, 0).decode()

    def tell(self) -> tuple[int, float, str]:
        """SIGTERM. Answers the exit code, the seconds that it took, and what was logged."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=20)
        seconds = time.monotonic() - began
        return code, seconds, self.said()


@pytest.fixture
def start() -> Iterator[Callable[..., Program]]:
    programs: list[Program] = []

    def begin(database_url: str, **variables: str) -> Program:
        programs.append(Program(database_url, **variables))
        return programs[-1]

    yield begin
    for program in programs:
        program.kill()
        program.log.close()


# ---------------------------------------------------------------------- the loop


def test_a_schedule_that_becomes_due_fires_within_about_a_second_and_wakes_the_relay(
    conn: Conn, database_url: str
) -> None:
    conn.execute("listen outbox")
    with running(database_url, Schedule("tick", "default", "*/5 * * * *")) as scheduler:
        eventually(lambda: scheduler.ready)
        assert one(conn, "select count(*) from outbox.task") == 0
        list(conn.notifies(timeout=0))
        began = time.monotonic()
        set_back(conn, timedelta(minutes=7))
        assert list(conn.notifies(timeout=10, stop_after=1)), "the relay is told"
        assert time.monotonic() - began < 2.5
        assert one(conn, "select count(*) from outbox.task") in (1, 2)


@pytest.mark.long
def test_a_fire_comes_at_its_second(conn: Conn, database_url: str) -> None:
    late = REGISTRY.get_sample_value("outbox_fire_late_seconds_sum") or 0.0
    with running(database_url, Schedule("tick", "default", "* * * * *", missed="none")) as scheduler:
        eventually(lambda: scheduler.ready)
        eventually(lambda: one(conn, "select count(*) from outbox.task"), timeout=timedelta(seconds=75))
        fired_late = one(conn, "select extract(epoch from fired_at - fire_at)::float from outbox.fire")
        assert 0 <= fired_late < 0.5
        eventually(lambda: REGISTRY.get_sample_value("outbox_fire_late_seconds_sum") > late)


def test_fires_are_counted_by_outcome(conn: Conn, database_url: str) -> None:
    def count(outcome: str) -> float:
        return REGISTRY.get_sample_value("outbox_fires_total", {"outcome": outcome}) or 0.0

    before = count("fired"), count("missed")
    far = (one(conn, "select extract(minute from clock_timestamp())::int") + 30) % 60  # from now: no fire comes on top
    with running(
        database_url, Schedule("tick", "default", f"{far} * * * *", missed="all", missed_limit=3)
    ) as scheduler:
        eventually(lambda: scheduler.ready)
        conn.execute("update outbox.schedule set fired_through = clock_timestamp() - interval '10 h'")
        eventually(lambda: count("missed") - before[1] >= 6)
        assert count("fired") - before[0] + count("missed") - before[1] == 10


def test_operators_see_the_scheduler_while_it_lives(conn: Conn, database_url: str) -> None:
    with running(database_url, lease=timedelta(seconds=1)):
        eventually(lambda: one(conn, "select count(*) from outbox.worker where kind = 'scheduler' and beat > 3"))
    assert one(conn, "select count(*) from outbox.worker") == 0


def test_a_scheduler_that_was_declared_dead_joins_again_and_fires_on(conn: Conn, database_url: str) -> None:
    with running(database_url, Schedule("tick", "default", "* * * * *"), lease=timedelta(seconds=1)) as scheduler:
        eventually(lambda: scheduler.ready)
        (old,) = conn.execute("delete from outbox.worker returning id").fetchone() or (None,)
        eventually(lambda: one(conn, "select count(*) from outbox.worker where id <> %s", old))
        set_back(conn, timedelta(minutes=3))
        eventually(lambda: one(conn, "select count(*) from outbox.task"))


def test_a_schedule_that_cannot_be_understood_holds_up_no_other(conn: Conn, database_url: str) -> None:
    good, bad = (Schedule(name, "default", "* * * * *") for name in ("good", "bad"))
    with running(database_url, good, bad) as scheduler:
        eventually(lambda: scheduler.ready)
        conn.execute("update outbox.schedule set cron = 'whenever' where name = 'bad'")
        set_back(conn, timedelta(minutes=3))
        eventually(lambda: one(conn, "select count(*) from outbox.task where actor = 'good'"))
        assert one(conn, "select count(*) from outbox.task where actor = 'bad'") == 0
        assert scheduler.alive


def test_a_paused_schedule_is_left_alone_until_it_is_resumed(conn: Conn, database_url: str) -> None:
    paused, other = (Schedule(name, "default", "* * * * *") for name in ("paused", "other"))
    with running(database_url, paused, other) as scheduler:
        eventually(lambda: scheduler.ready)
        conn.execute("update outbox.schedule set paused = true where name = 'paused'")
        set_back(conn, timedelta(minutes=3))
        eventually(lambda: one(conn, "select count(*) from outbox.task where actor = 'other'"))
        assert one(conn, "select count(*) from outbox.fire where schedule = 'paused'") == 0


def test_a_schedule_whose_row_vanished_or_was_retired_by_mistake_is_declared_again(
    conn: Conn, database_url: str
) -> None:
    with running(database_url, *SCHEDULES) as scheduler:
        eventually(lambda: scheduler.ready)
        conn.execute("delete from outbox.schedule where name < 'tick_20'")
        conn.execute("update outbox.schedule set retired = true")
        eventually(lambda: one(conn, "select count(*) = 40 and not bool_or(retired) from outbox.schedule"))


def test_a_scheduler_without_schedules_is_content(database_url: str) -> None:
    with running(database_url) as scheduler:
        eventually(lambda: scheduler.ready)


# ---------------------------------------------------------------------- several, killed


def test_of_several_schedulers_each_fire_is_enqueued_by_one(conn: Conn, database_url: str) -> None:
    with (
        running(database_url, *SCHEDULES) as first,
        running(database_url, *SCHEDULES) as second,
        running(database_url, *reversed(SCHEDULES)) as third,
    ):
        eventually(lambda: first.ready and second.ready and third.ready)
        earliest = one(conn, "select clock_timestamp()")
        for minutes in (20, 90, 45, 180):
            before = set_back(conn, timedelta(minutes=minutes))
            earliest = min(earliest, before - timedelta(minutes=minutes))
            eventually(lambda since=before: caught_up(conn, since))
    assert_each_fire_happened_once(conn, start=earliest)


@pytest.mark.system
def test_schedulers_killed_at_any_moment_neither_lose_nor_repeat_a_fire(
    conn: Conn, database_url: str, start: Callable[..., Program]
) -> None:
    living = [start(database_url) for _ in range(3)]
    eventually(lambda: declared(conn))
    eventually(lambda: one(conn, "select count(*) from outbox.worker") == 3)
    chance, earliest = random.Random(), one(conn, "select clock_timestamp()")
    for wave in range(1, 9):
        before = set_back(conn, timedelta(minutes=wave * 60))
        earliest = min(earliest, before - timedelta(minutes=wave * 60))
        time.sleep(chance.uniform(0, 1.2))  # any moment of its work
        victim = chance.randrange(3)
        living[victim].kill()
        living[victim] = start(database_url)
        eventually(lambda since=before: caught_up(conn, since))
    for program in living:
        program.kill()
    assert_each_fire_happened_once(conn, start=earliest)


@pytest.mark.system
def test_a_scheduler_killed_between_a_fire_and_its_task_leaves_neither(
    conn: Conn, database_url: str, start: Callable[..., Program]
) -> None:
    victim = start(database_url)
    eventually(lambda: declared(conn))
    with database.connect(database_url, name="blocker") as blocker, blocker.transaction():
        blocker.execute("lock table outbox.task in exclusive mode")
        before = set_back(conn, timedelta(minutes=30))
        eventually(lambda: held_up(conn))
        victim.kill()
    eventually(lambda: not backends(conn))
    assert one(conn, "select count(*) from outbox.fire") == one(conn, "select count(*) from outbox.task") == 0
    start(database_url)
    eventually(lambda: caught_up(conn, before))
    assert_each_fire_happened_once(conn, start=before - timedelta(minutes=30))


@pytest.mark.system
def test_a_frozen_scheduler_gives_its_schedule_up_to_the_others(
    conn: Conn, database_url: str, start: Callable[..., Program]
) -> None:
    frozen = start(database_url)
    eventually(lambda: declared(conn))
    with database.connect(database_url, name="blocker") as blocker, blocker.transaction():
        blocker.execute("lock table outbox.task in exclusive mode")
        before = set_back(conn, timedelta(minutes=30))
        eventually(lambda: held_up(conn))
        frozen.process.send_signal(signal.SIGSTOP)
    start(database_url)
    eventually(lambda: caught_up(conn, before), timeout=timedelta(seconds=40))
    frozen.process.send_signal(signal.SIGCONT)
    assert_each_fire_happened_once(conn, start=before - timedelta(minutes=30))
    again = set_back(conn, timedelta(minutes=40))
    eventually(lambda: caught_up(conn, again))
    assert_each_fire_happened_once(conn, start=again - timedelta(minutes=40))
    assert frozen.process.poll() is None


def test_a_database_that_is_killed_and_comes_back_has_lost_no_fire(own_postgres: Postgres, database_url: str) -> None:
    with running(database_url, *SCHEDULES) as scheduler:
        eventually(lambda: scheduler.ready)
        with database.connect(database_url, name="test") as conn:
            before = set_back(conn, timedelta(minutes=60))
        own_postgres.kill()
        eventually(lambda: not scheduler.ready)
        own_postgres.start()
        with database.connect(database_url, name="test") as conn:
            eventually(lambda: caught_up(conn, before))
            eventually(lambda: scheduler.ready)
            assert_each_fire_happened_once(conn, start=before - timedelta(minutes=60))


# ---------------------------------------------------------------------- the process


def test_sigterm_ends_a_scheduler_at_once_and_in_order(
    conn: Conn, database_url: str, start: Callable[..., Program]
) -> None:
    program = start(database_url, OUTBOX_HEALTH_PORT="0", LOG_FORMAT="json")
    eventually(lambda: one(conn, "select count(*) from outbox.worker where beat > 0"))
    code, seconds, logged = program.tell()
    assert (code, seconds < AT_ONCE) == (0, True)
    assert "health is served" in logged
    assert "scheduler stopped" in logged
    assert one(conn, "select count(*) from outbox.worker") == 0


def test_sigterm_ends_a_scheduler_whose_database_does_not_answer(start: Callable[..., Program]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(20)
        program = start(f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/none")
        caller, _ = silent.accept()
        with caller:
            code, seconds, _ = program.tell()
    assert (code, seconds < AT_ONCE) == (0, True)


def test_a_scheduler_waits_for_a_database_that_is_not_there_yet(
    database_url: str, conn: Conn, start: Callable[..., Program]
) -> None:
    conn.execute("alter schema outbox rename to not_yet")
    program = start(database_url)
    eventually(lambda: "the database does not answer" in program.said())
    conn.execute("alter schema not_yet rename to outbox")
    eventually(lambda: declared(conn))
    assert program.process.poll() is None


def test_nothing_is_lost_when_the_server_ends_the_connection(conn: Conn, database_url: str) -> None:
    with running(database_url, *SCHEDULES) as scheduler:
        eventually(lambda: scheduler.ready)
        before = set_back(conn, timedelta(minutes=60))
        for _ in range(5):
            eventually(lambda: one(conn, f"select count(pg_terminate_backend(pid)) from {OUR_BACKENDS}"))
        eventually(lambda: caught_up(conn, before))
    assert_each_fire_happened_once(conn, start=before - timedelta(minutes=60))
