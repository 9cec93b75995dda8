"""One life of an application, from its first unit to SIGTERM, with kills at points that are told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from deploy.local.place import ROOT
from tests.awaiting import await_that
from tests.crashpoints.tap import Point, Tap, Target
from tests.crashpoints.verdict import judge

__all__ = ["PROCESSES", "Account", "Life"]

PROCESSES = {
    "client": ["-m", "tests.crashpoints.life"],
    "relay": ["-m", "outbox.cli", "relay"],
    "worker": ["-m", "outbox.cli", "worker", "--threads", "4"],
    "scheduler": ["-m", "outbox.cli", "scheduler"],
}
#: What is stuck is stuck for ever; a busy machine may take its time.
LONG = timedelta(seconds=180)
FIRES = 3

#: The tables of the client, and a day of history that the relay has to make.
BEFOREHAND = """
create table unit (name text primary key, ids text[]);
create table tally (label text);
do $$ begin
    execute 'drop table if exists outbox.history_' || to_char((clock_timestamp() at time zone 'utc')::date + 7, 'YYYYMMDD');
end $$
"""
MISSED = "update outbox.schedule set fired_through = clock_timestamp() - interval '1 minute' * %s"


@dataclass
class Account:
    """What a life came to: the points of each process that had a tap, which of them were killed, what was wrong.

    `repeats` are runs beyond those that the actors ask for, `seconds` the whole life.
    """

    points: dict[str, list[Point]]
    struck: set[str]
    seconds: float
    repeats: int = 0
    wrong: list[str] = field(default_factory=list)


class Life:
    """The processes of one application on a database and queues of its own.

    Each process of `targets` goes through a tap of its own, and is killed where its target says; None: only listened to.
    """

    def __init__(
        self,
        directory: Path,
        *,
        database_url: str,
        rabbitmq_url: str,
        prefix: str,
        targets: Mapping[str, Target | None],
    ) -> None:
        self._directory = directory
        self._database_url = database_url
        self._taps = {name: Tap(database_url, rabbitmq_url, target) for name, target in targets.items()}
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
        """Everything from the first process to the last. What is wrong stands in the account."""
        began, wrong, repeats = time.monotonic(), [], 0
        with psycopg.connect(self._database_url, autocommit=True, row_factory=dict_row) as conn:
            conn.execute(BEFOREHAND)
            try:
                for name in PROCESSES:
                    self._spawn(name)
                self._await(lambda: conn.execute(MISSED, [FIRES]).rowcount)
                self._await(lambda: self._is_over(conn))
                self._end_in_order()
            except AssertionError as error:
                wrong = [f"stuck ({self._directory}): {error}: {self._unfinished(conn)}"]
            finally:
                self._kill()
            if not wrong:
                repeats, wrong = judge(conn, self._trace)
        return Account(
            points={name: tap.points for name, tap in self._taps.items()},
            struck={name for name, tap in self._taps.items() if tap.struck.is_set()},
            seconds=time.monotonic() - began,
            repeats=repeats,
            wrong=wrong,
        )

    # ------------------------------------------------------------------ the processes

    def _spawn(self, name: str) -> None:
        more, tap = {}, self._taps.get(name)
        if tap is not None and not tap.struck.is_set():
            more = {"DATABASE_URL": tap.database_url, "RABBITMQ_URL": tap.rabbitmq_url}
        with (self._directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *PROCESSES[name]], env=self._environment | more, cwd=ROOT, stdout=log, stderr=log
            )
        if more and tap is not None:
            tap.pid = process.pid
        self._processes[name] = process

    def _tend(self) -> None:
        """Start again what has died, as a supervisor does; the client is done when it ends well."""
        for name, process in self._processes.items():
            ended = process.poll()
            if ended is not None and (name, ended) != ("client", 0):
                self._spawn(name)

    def _await(self, condition: Callable[[], object]) -> None:
        def tended() -> object:
            self._tend()
            return condition()

        await_that(tended, LONG, pace=timedelta(milliseconds=20))

    def _end_in_order(self) -> None:
        """SIGTERM to all. Only one with a tap may end otherwise: killed at its target."""
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        ends = {name: process.wait(LONG.total_seconds()) for name, process in self._processes.items()}
        unclean = {
            name: end for name, end in ends.items() if end and (end != -signal.SIGKILL or name not in self._taps)
        }
        assert not unclean, f"SIGTERM ended with {unclean}"

    def _kill(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
        for tap in self._taps.values():
            tap.close()

    # ------------------------------------------------------------------ how far it is

    def _is_over(self, conn: psycopg.Connection[Any]) -> bool:
        """Everything has its outcome, and each process would hear SIGTERM: it has joined."""
        alive = {name: process.pid for name, process in self._processes.items() if process.poll() is None}
        return (
            self._processes["client"].poll() == 0
            and _one(conn, "select count(*) from outbox.fire") >= FIRES
            and _one(conn, "select count(*) from outbox.task") == 0
            and _one(conn, "select count(distinct pid) from outbox.worker where pid = any(%s)", [*alive.values()])
            == len(alive)
            == 3
        )

    def _unfinished(self, conn: psycopg.Connection[Any]) -> str:
        rows = conn.execute("select actor, args::text, state, reason, attempts::text from outbox.task").fetchall()
        units = [row["name"] for row in conn.execute("select name from unit").fetchall()]
        ends = {name: process.poll() for name, process in self._processes.items()}
        return f"{rows}, units {units}, processes {ends}"


def _one(conn: psycopg.Connection[Any], sql: str, *values: object) -> int:
    row = conn.execute(sql, values).fetchone()
    assert row is not None
    return int(row["count"])
