"""One life of an application, from its first unit to SIGTERM, with a kill at one point; and what must be true after it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from deploy.local.place import ROOT
from tests.awaiting import await_that
from tests.crashpoints.life import UNITS
from tests.crashpoints.tap import Point, Tap, Target

__all__ = ["PROCESSES", "Account", "Life"]

PROCESSES = {
    "client": ["-m", "tests.crashpoints.life"],
    "relay": ["-m", "outbox.cli", "relay"],
    "worker": ["-m", "outbox.cli", "worker", "--threads", "4"],
    "scheduler": ["-m", "outbox.cli", "scheduler"],
}
LONG = timedelta(seconds=60)
FIRES = 3

TABLES = """
create table unit (name text primary key, ids text[]);
create table tally (label text)
"""
FATES = """
select id::text, state, actor, failures, crashes, attempts from outbox.history
union all
select id::text, state, actor, failures, crashes, attempts from outbox.dead
"""
LABELS = """
select id::text, args::text from outbox.history union all select id::text, args::text from outbox.dead
"""


@dataclass
class Account:
    """What a life came to. `repeats` are runs beyond those that the actors ask for, `seconds` the whole life."""

    points: list[Point]
    struck: bool
    seconds: float
    repeats: int = 0
    wrong: list[str] = field(default_factory=list)


class Life:
    """The processes of one application on a database and queues of its own; the one under test goes through a tap."""

    def __init__(
        self, directory: Path, *, database_url: str, rabbitmq_url: str, prefix: str, subject: str, target: Target | None
    ) -> None:
        self._directory = directory
        self._subject = subject
        self._database_url = database_url
        self._tap = Tap(database_url, rabbitmq_url, target)
        self._trace = directory / "trace"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("OUTBOX_")} | {
            "DATABASE_URL": database_url,
            "RABBITMQ_URL": rabbitmq_url,
            "LIFE_RABBITMQ_URL": rabbitmq_url,
            "LIFE_TRACE": str(self._trace),
            "OUTBOX_QUEUE_PREFIX": prefix,
            "OUTBOX_LEASE": "1",
            "OUTBOX_RELAY_POLL": "0.05",
            "OUTBOX_SHUTDOWN_GRACE": "5",
            "OUTBOX_APP": "tests.crashpoints.life",
            "PYTHONPATH": str(ROOT),
        }

    def live(self) -> Account:
        """Everything from the first process to the last; raises AssertionError only for what the test itself gets wrong."""
        began = time.monotonic()
        with psycopg.connect(self._database_url, autocommit=True, row_factory=dict_row) as conn:
            conn.execute(TABLES)
            wrong: list[str] = []
            try:
                for name in PROCESSES:
                    self._spawn(name)
                self._await(lambda: self._fires_are_due(conn))
                self._await(lambda: self._is_over(conn))
                self._end_in_order()
            except AssertionError as error:
                wrong.append(f"stuck: {error}: {self._unfinished(conn)}")
            finally:
                self._kill()
                self._tap.close()
            account = Account(self._tap.points, self._tap.struck.is_set(), time.monotonic() - began, wrong=wrong)
            if not wrong:
                account.repeats = self._judge(conn, account.wrong)
        return account

    # ------------------------------------------------------------------ the processes

    def _spawn(self, name: str) -> None:
        more = {}
        tapped = name == self._subject and not self._tap.struck.is_set()
        if tapped:
            more = {"DATABASE_URL": self._tap.database_url, "RABBITMQ_URL": self._tap.rabbitmq_url}
        with (self._directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *PROCESSES[name]], env=self._environment | more, cwd=ROOT, stdout=log, stderr=log
            )
        if tapped:
            self._tap.pid = process.pid
        self._processes[name] = process

    def _tend(self) -> None:
        """Start again what has died, as a supervisor does; the client is done when it ends well."""
        for name, process in self._processes.items():
            ended = process.poll()
            if ended is not None and (name, ended) != ("client", 0):
                self._spawn(name)

    def _await(self, condition: Callable[[], bool]) -> None:
        def tended() -> bool:
            self._tend()
            return condition()

        await_that(tended, LONG, pace=timedelta(milliseconds=20))

    def _end_in_order(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        killed = -signal.SIGKILL
        ends = {name: process.wait(LONG.total_seconds()) for name, process in self._processes.items()}
        unclean = {name: end for name, end in ends.items() if end and not (name == self._subject and end == killed)}
        assert not unclean, f"SIGTERM ended with {unclean}"

    def _kill(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()

    # ------------------------------------------------------------------ how far it is

    def _fires_are_due(self, conn: psycopg.Connection[Any]) -> bool:
        return bool(
            conn.execute(
                "update outbox.schedule set fired_through = clock_timestamp() - interval '1 minute' * %s", [FIRES]
            ).rowcount
        )

    def _is_over(self, conn: psycopg.Connection[Any]) -> bool:
        return (
            self._processes["client"].poll() == 0
            and _one(conn, "select count(*) from outbox.fire") >= FIRES
            and _one(conn, "select count(*) from outbox.task") == 0
        )

    def _unfinished(self, conn: psycopg.Connection[Any]) -> str:
        rows = conn.execute("select actor, args::text, state, reason, attempts::text from outbox.task").fetchall()
        units = [row["name"] for row in conn.execute("select name from unit").fetchall()]
        return f"{rows}, client {self._processes['client'].poll()} after {units}"

    # ------------------------------------------------------------------ what must be true

    def _judge(self, conn: psycopg.Connection[Any], wrong: list[str]) -> int:
        """Notes every broken promise, by its invariant. Answers the repeats."""
        units = {row["name"]: row["ids"] for row in conn.execute("select * from unit").fetchall()}
        rows = conn.execute(FATES).fetchall()
        fates = {row["id"]: row for row in rows}
        traces = _read(self._trace)

        def must(condition: object, broken: str) -> None:
            if not condition:
                wrong.append(broken)

        must(units.keys() == UNITS.keys(), f"I1: units {units.keys()}")
        must(len(rows) == len(fates), "I2: an id with two outcomes")
        for name, ids in units.items():
            must(set(ids) <= fates.keys(), f"I2: {name} lost {set(ids) - fates.keys()}")
        must(units["unique"][0] == units["unique"][1], "a second task of a unique key")
        for fate in rows:
            self._judge_fate(fate, units, must)
        started, ended = _times(traces, "started"), _times(traces, "ended")
        for label in _labels(conn):
            must(label == "never" or started[label], f"I2: {label} never ran")
        must(not started["never"], "what was cancelled before its time ran")
        tally = Counter(row["label"] for row in conn.execute("select label from tally").fetchall())
        wanted = ["one/counted", "order/2", *(f"limit/{n}" for n in range(3)), *(f"lost/{n}" for n in range(3))]
        must(tally == Counter(wanted), f"I9: {tally}")
        for n in (1, 2):
            must(max(ended[f"order/{n - 1}"]) <= min(started[f"order/{n}"]), f"order/{n} began too early")
        spans = sorted((min(started[f"limit/{n}"]), max(ended[f"limit/{n}"])) for n in range(3))
        must(all(one[1] <= next[0] for one, next in pairwise(spans)), f"the limit of one: {spans}")
        fires = conn.execute("select task_id::text, outcome from outbox.fire").fetchall()
        ticks = [row["id"] for row in rows if row["actor"] == "tick"]
        must(sorted(fire["task_id"] for fire in fires) == sorted(ticks), "a fire without its one task")
        return self._repeats(started, len(ticks))

    def _judge_fate(
        self, fate: dict[str, Any], units: dict[str, list[str]], must: Callable[[object, str], None]
    ) -> None:
        state = {"doomed": "dead", "held": "cancelled"}.get(fate["actor"], "succeeded")
        if fate["id"] in units["never"]:
            state = "cancelled"
        must(fate["state"] == state, f"I2: {fate['actor']} is {fate['state']}: {fate['attempts']}")
        must(fate["failures"] <= (fate["actor"] in ("flaky", "doomed")), f"I5: failures of {fate}")
        must(fate["crashes"] <= 1, f"I6: crashes of {fate}")

    def _repeats(self, started: dict[str, list[float]], ticks: int) -> int:
        twice = {"one/flaky", "one/snoozed", "order/0", "crash"}
        wanted = {label: 1 + (label in twice) for label in started} | {"tick": ticks}
        return sum(max(0, len(times) - wanted[label]) for label, times in started.items())


def _one(conn: psycopg.Connection[Any], sql: str) -> int:
    row = conn.execute(sql).fetchone()  # type: ignore[arg-type]
    assert row is not None
    return int(row["count"])


def _read(trace: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in trace.read_text().splitlines()]


def _times(traces: list[dict[str, Any]], what: str) -> defaultdict[str, list[float]]:
    times: defaultdict[str, list[float]] = defaultdict(list)
    for line in traces:
        if line["what"] == what:
            times[line["label"]].append(line["at"])
    return times


def _labels(conn: psycopg.Connection[Any]) -> set[str]:
    args = [json.loads(row["args"]) for row in conn.execute(LABELS).fetchall()]
    return {values[0] for values in args if values}
