"""The lease: a heartbeat that says what this process runs, and the knowledge of when it must stop trusting itself."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg

from outbox.ledger import Conn, Ledger
from outbox.logs import get_logger

__all__ = ["Lease", "Report"]

log = get_logger("outbox.lease")


@dataclass(frozen=True, slots=True)
class Report:
    """What a heartbeat tells the world."""

    runs: Sequence[UUID] = ()
    tasks: Sequence[UUID] = ()
    running: Sequence[UUID] = ()
    queues: Sequence[str] = ()
    unclaimed: Sequence[str] = ()
    claimed_through: dict[str, str] = field(default_factory=dict)


class Lease:
    """One identity, beating every fifth of the lease, in a thread of its own.

    Observers call this process dead when its counter stood still for a lease of *their* monotonic time. `valid`
    turns false earlier, by our own clock, so that nothing is started that somebody else may already be starting
    (I7). Declared dead while alive, it takes a new identity and `on_outlawed` drops what was held.
    """

    def __init__(
        self,
        ledger: Ledger,
        connect: Callable[[], Conn],
        *,
        kind: str,
        lease: timedelta,
        threads: int = 0,
        report: Callable[[], Report] = Report,
        on_cancel: Callable[[Sequence[UUID]], None] = lambda _runs: None,
        on_outlawed: Callable[[], None] = lambda: None,
    ) -> None:
        self._ledger = ledger
        self._connect = connect
        self._kind = kind
        self._lease = lease
        self._threads = threads
        self._report = report
        self._on_cancel = on_cancel
        self._on_outlawed = on_outlawed
        self._stopping = threading.Event()
        self._now = threading.Event()
        self._thread = threading.Thread(target=self._live, name=f"outbox-lease-{kind}", daemon=True)
        self._joined = threading.Event()
        self._proved = 0.0
        self.id = uuid4()
        self.beat = 0

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def wait(self, timeout: float) -> bool:
        """Whether this process has joined."""
        return self._joined.wait(timeout)

    @property
    def valid(self) -> bool:
        """Whether the last proof of life is younger than four fifths of the lease, by this process's clock."""
        return self._joined.is_set() and time.monotonic() - self._proved < self._lease.total_seconds() * 0.8

    def stop(self) -> None:
        """Leave in order: what is still claimed is due again at once."""
        self._stopping.set()
        self._now.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def report_now(self) -> None:
        """Something changed that others should know before the next beat."""
        self._now.set()

    def _live(self) -> None:
        pause = self._lease.total_seconds() / 5
        connection: Conn | None = None
        due = 0.0
        while not self._stopping.is_set():
            try:
                connection = connection or self._connect()
                asked = time.monotonic()
                self._prove(connection, asked, counts=asked >= due or not self._joined.is_set())
                due = asked + pause if asked >= due else due
                self._now.wait(timeout=max(0.0, due - time.monotonic()))
                self._now.clear()
            except Exception as error:
                log.warning("no heartbeat", kind=self._kind, error=str(error).strip() or repr(error))
                _close(connection)
                connection = None
                self._stopping.wait(timeout=min(pause, 1.0))
        self._leave(connection)

    def _prove(self, connection: Conn, asked: float, *, counts: bool) -> None:
        """One beat. What comes between two of them only reports: observers and claims take beats for time."""
        if not self._joined.is_set():
            self._ledger.join(
                connection, worker=self.id, kind=self._kind, host=socket.gethostname(), pid=os.getpid(),
                queues=list(self._report().queues), threads=self._threads, lease=self._lease,
            )  # fmt: skip
            self.beat = 0
        report = self._report()
        answer = self._ledger.beat(
            connection, worker=self.id, runs=report.runs, running=report.running, queues=report.queues,
            unclaimed=report.unclaimed, claimed_through=report.claimed_through, tasks=report.tasks, step=int(counts),
        )  # fmt: skip
        if answer is None:
            log.error("declared dead while alive: what was held is somebody else's now", worker=str(self.id))
            self._joined.clear()
            self._on_outlawed()
            self.id = uuid4()
            self._now.set()
            return
        self.beat, cancelled = answer
        if counts:
            self._proved = asked
        self._joined.set()
        if cancelled:
            self._on_cancel(cancelled)

    def _leave(self, connection: Conn | None) -> None:
        try:
            connection = connection or self._connect()
            self._ledger.leave(connection, self.id)
        except psycopg.Error as error:
            log.warning("could not leave in order, the rescue will notice", error=str(error).strip())
        _close(connection)


def _close(connection: Any) -> None:
    if connection is not None:
        connection.close()
