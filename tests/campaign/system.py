"""The application's processes, two of each kind, behind wires to their servers; a supervisor that starts again what died."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from deploy.local.place import ROOT
from deploy.local.servers import Postgres, RabbitMQ
from outbox import OutboxError, operate
from outbox.ledger import Ledger
from tests.awaiting import await_that
from tests.campaign.checker import Account, Fate, Fault, Promise, Run
from tests.campaign.clock import Clock
from tests.telling import facts_of
from tests.wire import Wire

__all__ = ["LEASE", "System"]

LEASE = timedelta(seconds=2)
#: As a supervisor waits, so that a fault of a moment is no storm of new processes.
AGAIN = timedelta(seconds=0.2)
#: A process listens to signals so soon after its start, with all the others beside it.
STARTING = timedelta(seconds=60)
CLIENTS = ("client-1", "client-2")
WORDS = {
    "relay": ["-m", "outbox.cli", "relay"],
    "worker": ["-m", "outbox.cli", "worker", "--threads", "4", "--queues", "default,heavy"],
    "scheduler": ["-m", "outbox.cli", "scheduler"],
}
TABLES = "create table unit (name text primary key, tasks json); create table tally (label text)"
FATES = """
select id::text, state, failures, crashes from outbox.history
union all
select id::text, state, failures, crashes from outbox.dead
union all
select id::text, state, failures, crashes from outbox.task
"""
FIRES = "select task_id::text from outbox.fire where outcome = 'fired'"
DEAD = "select id from outbox.dead where actor = 'doomed'"
LEFT = "select count(*) from outbox.task"


class _Receiver(ThreadingHTTPServer):
    """Answers every request, and remembers whose it was."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        self.received: Counter[str] = Counter()
        threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True).start()


class _Answering(BaseHTTPRequestHandler):
    server: _Receiver

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.received[self.headers["webhook-id"]] += 1
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads them."""


class System:
    """Of one campaign: `units` are enqueued by each of two clients, with a pause of `pause` seconds after each."""

    def __init__(
        self, directory: Path, *, postgres: Postgres, rabbitmq: RabbitMQ, database_url: str, prefix: str, units: int,
        pause: float,
    ) -> None:  # fmt: skip
        self.postgres, self.rabbitmq = postgres, rabbitmq
        self.database_url, self.prefix = database_url, prefix
        self.database, self.broker = Wire(database_url), Wire(rabbitmq.url)
        self.clock = Clock(directory)
        self.receiver = _Receiver()
        self.faults: list[Fault] = []
        self._directory = directory
        self._ledger = Ledger()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._restart_at: dict[str, float] = {}
        self._started_at: dict[str, float] = {}
        self._done: set[str] = set()
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._words = {name: ["-m", "tests.campaign.client", name, "0", str(units)] for name in CLIENTS}
        self._words |= {f"{kind}-{n}": words for kind, words in WORDS.items() for n in (1, 2)}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("OUTBOX_")}
        self._environment = {
            **inherited,
            **self.clock.environment,
            "DATABASE_URL": self.database.url,
            "RABBITMQ_URL": self.broker.url,
            "OUTBOX_APP": "tests.campaign.app",
            "OUTBOX_QUEUE_PREFIX": prefix,
            "OUTBOX_LEASE": str(LEASE.total_seconds()),
            "OUTBOX_RELAY_POLL": "0.1",
            "OUTBOX_CONFIRM_TIMEOUT": "5",
            "CAMPAIGN_RUNS": str(directory / "runs"),
            "CAMPAIGN_TOLD": str(directory / "told"),
            "CAMPAIGN_RECEIVER": str(self.receiver.server_address[1]),
            "CAMPAIGN_PAUSE": str(pause),
            "PYTHONPATH": str(ROOT),
        }

    def start(self) -> None:
        self.ask(lambda conn: conn.execute(TABLES))
        for name in self._words:
            self._spawn(name)
        threading.Thread(target=self._tend, name="supervisor", daemon=True).start()

    def move_to(self, database_url: str) -> None:
        """The database lives elsewhere now, and so does the address that the processes know."""
        self.database_url = database_url
        self.database.lead_to(database_url)

    # ------------------------------------------------------------------ the processes

    def names(self, kind: str) -> list[str]:
        return [name for name in self._words if name.startswith(kind) and name not in self._done]

    def kill(self, name: str) -> None:
        with self._lock:
            self._processes[name].kill()

    def freeze(self, name: str) -> int:
        with self._lock:
            self._processes[name].send_signal(signal.SIGSTOP)
            return self._processes[name].pid

    def thaw(self, pid: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def _spawn(self, name: str) -> None:
        self._started_at[name] = time.monotonic()
        with (self._directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, *self._words[name]], env=self._environment, cwd=ROOT, stdout=log, stderr=log
            )

    def _tend(self) -> None:
        while not self._ending.wait(0.05):
            with self._lock:
                for name, process in self._processes.items():
                    if name not in self._done and not self._ending.is_set() and process.poll() is not None:
                        self._has_ended(name, process)

    def _has_ended(self, name: str, process: subprocess.Popen[bytes]) -> None:
        now = time.monotonic()
        if name in CLIENTS and process.returncode == 0:
            self._done.add(name)
        elif now >= self._restart_at.setdefault(name, now + AGAIN.total_seconds()):
            del self._restart_at[name]
            self._spawn(name)

    # ------------------------------------------------------------------ how far it is

    @property
    def all_is_told(self) -> bool:
        return self._done.issuperset(CLIENTS)

    def ask(self, what: Callable[[psycopg.Connection[Any]], Any]) -> Any:
        """Beside the wires."""
        with psycopg.connect(self.database_url, autocommit=True, connect_timeout=5) as conn:
            return what(conn)

    def await_recovery(self, within: timedelta) -> float | None:
        """Seconds until a task that is enqueued from now on has ended: infinite when none has within that time, None when
        the clients are at their end and enqueue none."""
        began = time.monotonic()
        told, runs = (self._size(name) for name in ("told", "runs"))

        def recovered() -> bool:
            fresh = {task["id"] for each in self._lines("told", told) for task in each.get("tasks", [])}
            return any(line["what"] == "ended" and line["id"] in fresh for line in self._lines("runs", runs))

        def settled() -> bool:
            return self.all_is_told or recovered() or time.monotonic() - began > within.total_seconds()

        await_that(settled, 2 * within, pace=timedelta(milliseconds=50))
        if recovered():
            return time.monotonic() - began
        return None if self.all_is_told else math.inf

    def retry_the_dead(self) -> None:
        """As an operator does."""
        with psycopg.connect(self.database_url, autocommit=True, connect_timeout=5) as conn:
            for (id,) in conn.execute(DEAD).fetchall():
                with suppress(OutboxError):
                    operate.retry(conn, self._ledger, UUID(str(id)), who="campaign")

    def drain(self, within: timedelta) -> None:
        """No fault any more: everything comes to its end. AssertionError when something does not."""
        await_that(lambda: self.all_is_told, within, pace=timedelta(milliseconds=100))
        for name in self.names("scheduler"):
            self._done.add(name)
            self._processes[name].terminate()
        await_that(self._is_drained, within, pace=timedelta(milliseconds=200))

    def _is_drained(self) -> bool:
        self.retry_the_dead()
        return bool(self.ask(lambda conn: conn.execute(LEFT).fetchone()[0] == len(conn.execute(DEAD).fetchall()) == 0))

    def end(self) -> dict[str, int]:
        """SIGTERM to all that still runs. Answers the exit codes of those that did not end with 0.

        One that has only just been started may not listen yet: Python itself is on its way up.
        """
        self._ending.set()
        with self._lock:
            running = {name: process for name, process in self._processes.items() if process.poll() is None}
            for name in running.keys() - self._done:  # the others were asked before
                self._processes[name].terminate()
            codes = {name: self._exit_code(process) for name, process in running.items()}
        for wire in (self.database, self.broker):
            wire.close()
        self.receiver.shutdown()
        self.receiver.server_close()
        fresh = time.monotonic() - STARTING.total_seconds()
        unclean = {name: code for name, code in codes.items() if code}
        return {
            name: code for name, code in unclean.items() if code != -signal.SIGTERM or self._started_at[name] < fresh
        }

    @staticmethod
    def _exit_code(process: subprocess.Popen[bytes]) -> int:
        try:
            return process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    # ------------------------------------------------------------------ the account

    def account(self) -> Account:
        told = self._lines("told")
        fates: defaultdict[str, list[Fate]] = defaultdict(list)
        for id, state, failures, crashes in self.ask(lambda conn: conn.execute(FATES).fetchall()):
            fates[id].append(Fate(state, failures, crashes))
        tally = self.ask(lambda conn: conn.execute("select label from tally").fetchall())
        return Account(
            promises=[
                Promise(task["id"], task["kind"], task["label"], each["at"])
                for each in told
                if each["what"] == "promised"
                for task in each["tasks"]
            ],
            withdrawn={each["id"]: each["at"] for each in told if each["what"] == "cancelled"},
            runs=_runs(self._lines("runs")),
            received=self.receiver.received,
            tally=Counter(label for (label,) in tally),
            fates=dict(fates),
            fires=[id for (id,) in self.ask(lambda conn: conn.execute(FIRES).fetchall())],
            faults=self.faults,
        )

    @property
    def refused(self) -> int:
        """Requests of the clients that came to no answer; each was asked again."""
        return sum(each["what"] == "refused" for each in self._lines("told"))

    def unfinished(self) -> str:
        rows = self.ask(
            lambda conn: conn.execute("select actor, args, state, reason from outbox.task limit 20").fetchall()
        )
        return f"{rows}; logs in {self._directory}; done {self._done}"

    def _lines(self, name: str, start: int = 0) -> list[dict[str, Any]]:
        return facts_of(self._directory / name, start)

    def _size(self, name: str) -> int:
        file = self._directory / name
        return file.stat().st_size if file.exists() else 0


def _runs(lines: list[dict[str, Any]]) -> list[Run]:
    """A start, and the end that the same process wrote next of the same task."""
    runs: list[Run] = []
    open_runs: dict[tuple[str, int], int] = {}
    for line in lines:
        key = line["id"], line["pid"]
        if line["what"] == "started":
            open_runs[key] = len(runs)
            runs.append(Run(line["id"], line["label"], line["pid"], line["at"], None))
        elif key in open_runs:
            begun = runs[open_runs[key]]
            runs[open_runs.pop(key)] = Run(begun.id, begun.label, begun.pid, begun.started, line["at"])
    return runs
