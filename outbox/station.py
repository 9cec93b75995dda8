"""The station of a worker process: what it holds, what runs, how much more it may take, and how it says so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import psycopg
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from outbox.database import PROMPT, PromptConnection
from outbox.lease import Lease, Report
from outbox.ledger import Claimed, Conn, Finished, Ledger
from outbox.logs import get_logger
from outbox.metrics import OUTLAWED, tell_of
from outbox.outcomes import without_outcome
from outbox.run import Run
from outbox.settler import Settler

if TYPE_CHECKING:
    import dramatiq

    from outbox.consumer import OutboxConsumer

__all__ = ["Station"]

log = get_logger("outbox.station")

#: A claimed task that has not started after this long goes back: another process may be idle.
PATIENCE = 2.0
#: A process empties itself for a suspect for this long, at first.
ALONE = 5.0
#: Claim ahead what the threads do in about this many seconds.
AHEAD = 0.05


class Station:
    """Shared by the consumers and threads of one worker process.

    HELD (claimed, not started) stays within a small number: two for slow tasks, more only where tasks take
    milliseconds. A suspect runs alone: nothing else is claimed until the process is empty, and until it ended (I6).
    """

    def __init__(
        self,
        ledger: Ledger,
        connect: Callable[..., Conn],
        engine: Callable[[], Engine],
        *,
        threads: int,
        lease: timedelta,
        wake: Callable[[], None] = lambda: None,
        tend: Callable[[], None] = lambda: None,
    ) -> None:
        self.ledger = ledger
        self.connect = connect
        self.threads = threads
        self._lease = lease
        #: What is not answered in time has missed the lease anyway.
        self.within = max(lease, PROMPT)
        self._engine = engine
        self._tend = tend
        self._wake = wake
        self._lock = threading.Lock()
        self._runs: dict[Run, tuple[Run, OutboxConsumer, int]] = {}
        self._consumers: dict[str, OutboxConsumer] = {}
        self._claimed_through: dict[str, datetime] = {}
        self._mean = 0.05
        self._in_hand = self._claiming = 0
        self._leaving: list[Run] = []
        self._alone: OutboxConsumer | None = None
        self._alone_since = self._alone_after = 0.0
        self._alone_window = ALONE
        self._blocked = False
        self.stopping = False
        self._leave = threading.Event()
        self.settler = Settler(
            ledger,
            lambda: connect(
                "settle",
                idle_in_transaction=lease,
                lock_timeout=timedelta(seconds=3),
                by_index=True,
                within=self.within,
            ),
            settled=self._settled,
        )
        self.lease = Lease(
            ledger, lambda: connect("lease", within=self.within), kind="worker", lease=lease, threads=threads, report=self._report,
            on_cancel=self._request_cancels, on_outlawed=self._drop_everything,
        )  # fmt: skip
        self._keeper = threading.Thread(target=self._keep, name="outbox-station", daemon=True)

    @property
    def alive(self) -> bool:
        return self.settler.alive and self.lease.alive and self._keeper.is_alive()

    def start(self) -> None:
        tell_of(self)
        self.settler.start()
        self.lease.start()
        self._keeper.start()

    def drain(self) -> None:
        """Claim nothing more; what has not started goes to others at once, also what is being claimed at this moment."""
        self.stopping = True
        try:
            self._give_back(older_than=0.0)
        except psycopg.Error as error:
            log.warning("could not give back, leaving will", error=str(error).strip())

    def stop(self, timeout: float) -> None:
        """Record what ended, and leave: what is still claimed is due again."""
        self._leave.set()
        self.settler.stop(timeout)
        self.lease.stop()

    # ------------------------------------------------------------------ capacity

    def opens(self, consumer: OutboxConsumer) -> None:
        with self._lock:
            self._consumers[consumer.queue_name] = consumer
        self.lease.report_now()

    def closes(self, consumer: OutboxConsumer) -> None:
        with self._lock:
            if self._consumers.get(consumer.queue_name) is consumer:
                del self._consumers[consumer.queue_name]
            if self._alone is consumer and not self._runs_alone():
                self._alone = None

    def reserve(self, wanted: int) -> int:
        """So many of these may be claimed now: `release` them when they are, and are held. No two consumers get the

        same room, and a suspect is alone only when none is reserved."""
        with self._lock:
            reserved = min(wanted, self.room())
            self._claiming += reserved
            return reserved

    def release(self, reserved: int) -> None:
        with self._lock:
            self._claiming -= reserved

    def room(self) -> int:
        """How many more may be claimed now; 0 until enough came free to make the claim worth it."""
        if self.stopping or self._alone is not None or not self.lease.valid:
            return 0
        capacity, taken = self.threads + self._slack(), self._in_hand + self._claiming
        free = capacity - taken
        return max(0, free) if free >= min(self.threads, capacity // 2) or taken < self.threads else 0

    def ask_to_be_alone(self, consumer: OutboxConsumer) -> bool:
        """Whether this consumer may claim a suspect now: nothing else is in hand or unrecorded, and nothing will be.

        A process that dies with the suspect takes no other outcome along: nobody else is charged with the crash. Waiting
        for what runs to end, the process takes nothing new: so not for longer than a window, which grows.
        """
        now = time.monotonic()
        with self._lock:
            if self._alone is None and not self.stopping and now >= self._alone_after:
                self._alone, self._alone_since = consumer, now
            if self._alone is not consumer:
                return False
            if not self._runs and self._claiming == 0:
                self._alone_window = ALONE
                return self.lease.valid
            if now - self._alone_since > self._alone_window and not self._runs_alone():
                self._alone, self._alone_after = None, now + 2 * self._alone_window
                self._alone_window = min(2 * self._alone_window, 600.0)
            return False

    def leaves_to_others(self, consumer: OutboxConsumer, since: float) -> bool:
        """Whether a suspect that has waited here since then may go: this process does not empty itself for it now."""
        return self.stopping or (self._alone is not consumer and time.monotonic() - since > ALONE)

    def no_longer_alone(self, consumer: OutboxConsumer) -> None:
        with self._lock:
            if self._alone is consumer:
                self._alone = None
        self._nudge()

    def _runs_alone(self) -> bool:
        return any(run.alone for run, _, _ in self._runs.values())

    def _slack(self) -> int:
        if self._blocked:
            return 0
        return max(2, min(16 * self.threads, int(self.threads * AHEAD / self._mean)))

    def in_hand(self) -> tuple[int, int]:
        """Tasks that are claimed here and have not started, and those that run."""
        with self._lock:
            running = sum(run.started is not None and run.finished is None for run, _, _ in self._runs.values())
            return len(self._runs) - running, running

    @property
    def short_tasks(self) -> bool:
        """Whether tasks are so short that waiting for the next delivery would cost."""
        return self._mean < 0.02

    # ------------------------------------------------------------------ the life of a run here

    def holds(
        self, claimed: Claimed, message: dramatiq.Message[Any], consumer: OutboxConsumer, tag: int, *, alone: bool
    ) -> Run:
        run = Run(
            task_id=claimed.id, run_id=claimed.run_id, attempt=claimed.attempt, failures=claimed.failures,
            max_attempts=claimed.max_attempts, lane=claimed.lane, message=message, station=self, alone=alone,
        )  # fmt: skip
        with self._lock:
            self._runs[run] = (run, consumer, tag)
            self._in_hand += 1
            if claimed.published_at is not None:
                self._claimed_through[consumer.queue_name] = claimed.published_at
        return run

    def starts(self, run: Run) -> bool:
        """Whether the run may start: not given back meanwhile, and the lease still ours to trust (I7)."""
        with self._lock:
            if run.given_back or not self.lease.valid:
                return False
            run.started, run.thread = time.monotonic(), threading.current_thread()
            return True

    def ends(self, run: Run) -> None:
        """The run's outcome is known: hand it to the settler."""
        if run.started is not None and run.finished is not None:
            self._mean += 0.05 * ((run.finished - run.started) - self._mean)
        with self._lock:
            if run.ended or run.given_back or run not in self._runs:
                return
            run.ended = True
            self._in_hand -= 1
        if run.recorded:
            self._settled([run])
        else:
            self.settler.put(run)
            self._nudge_if_room()

    def _settled(self, runs: Sequence[Run]) -> None:
        with self._lock:
            found = [held for run in runs if (held := self._runs.pop(run, None)) is not None]
            if any(run.alone for run in runs) and not self._runs_alone():
                self._alone = None
        for _, consumer, tag in found:
            consumer.acknowledge(tag)
        for consumer in {consumer for _, consumer, _ in found}:
            consumer.flush()
        if any(run.alone for run in runs):
            self._nudge()
        if any(run.lane or run.children or run.after_failure or run.given_back for run in runs):
            self._wake()  # something may be due now that was not before

    def session(self) -> Session:
        return Session(self._engine(), expire_on_commit=False)

    def record(self, run: Run, session: Session) -> bool:
        """Record the run's success through the session's own connection, in its transaction (I9)."""
        now = time.monotonic()
        done = Finished(run.task_id, run.run_id, now - (run.started or now), 0.0)
        conn = _driver(session)
        conn.within = self.within  # from here on, what is said is ours: this, and the COMMIT
        conn.execute(f"set local idle_in_transaction_session_timeout = {int(self._lease.total_seconds() * 1000)}")
        return bool(self.ledger.record_successes(conn, [done]))

    # ------------------------------------------------------------------ housekeeping

    def _keep(self) -> None:
        while not self._leave.wait(PATIENCE / 4):
            try:
                if self.stopping:
                    self._give_back(older_than=0.0)
                    continue
                self._note_whether_blocked()
                self._end_what_died()
                self._tend()
                self._give_back(older_than=PATIENCE)
            except Exception as error:
                log.warning("could not keep the station in order", error=str(error).strip())

    def _end_what_died(self) -> None:
        """A run whose thread is gone has ended, recorded or not: nobody else would ever say so."""
        with self._lock:
            gone = [r for r, _, _ in self._runs.values() if r.thread and not r.thread.is_alive() and not r.ended]
        for run in gone:
            log.error("a worker thread died with its task", task_id=str(run.task_id))
            run.outcome = run.outcome or without_outcome(run.delivery)
            self.ends(run)

    def _note_whether_blocked(self) -> None:
        """Whether every thread has been at its task for a second: then nothing is claimed ahead."""
        before = time.monotonic() - 1.0
        with self._lock:
            running = [run for run, _, _ in self._runs.values() if run.started is not None and run.finished is None]
        self._blocked = sum(run.started < before for run in running if run.started) >= self.threads

    def _give_back(self, *, older_than: float) -> None:
        now = time.monotonic()
        with self._lock:
            self._leaving += self._withdraw(
                [run for run, _, _ in self._runs.values() if now - run.held_since >= older_than]
            )
            leaving = list(self._leaving)
        if leaving:
            with self.connect("give back", by_index=True) as conn:
                self.ledger.give_back(conn, [(run.task_id, run.run_id) for run in leaving])
            log.info("given back, not started", tasks=len(leaving))
            with self._lock:
                self._leaving = [run for run in self._leaving if run not in leaving]
            self._settled(leaving)

    def _withdraw(self, runs: Sequence[Run]) -> list[Run]:
        """Those of these runs that have not started: they will not start here any more. Under the lock."""
        unstarted = [run for run in runs if run.started is None and not run.given_back and run.outcome is None]
        for run in unstarted:
            run.given_back = True
        self._in_hand -= len(unstarted)
        return unstarted

    def _drop_everything(self) -> None:
        OUTLAWED.inc()
        with self._lock:
            dropped = self._withdraw([run for run, _, _ in self._runs.values()])
        self._settled(dropped)

    def _request_cancels(self, runs: Sequence[UUID]) -> None:
        with self._lock:
            asked = set(runs)
            found = [run for run in self._runs if run.run_id in asked]
        for run in found:
            run.request_cancel()

    def _report(self) -> Report:
        with self._lock:
            return Report(
                runs=[run.run_id for run in self._runs],
                tasks=[run.task_id for run in self._runs],
                running=[run.run_id for run in self._runs if run.started is not None],
                queues=sorted(self._consumers),
                unclaimed=sorted(name for name, consumer in self._consumers.items() if consumer.unclaimed),
                claimed_through={name: at.isoformat() for name, at in self._claimed_through.items()},
            )

    def _nudge_if_room(self) -> None:
        if self._in_hand <= self.threads:
            self._nudge()

    def _nudge(self) -> None:
        for consumer in list(self._consumers.values()):
            consumer.nudge()


def _driver(session: Session) -> PromptConnection:
    return cast(PromptConnection, session.connection().connection.driver_connection)
