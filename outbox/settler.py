"""Settling: outcome first, acknowledgement afterwards, many at once."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

import psycopg

from outbox import capture
from outbox.enqueue import row_of
from outbox.ledger import Conn, Failure, Finished, Ledger
from outbox.logs import get_logger
from outbox.metrics import LATE_OUTCOMES, count_outcome
from outbox.outcomes import in_doubt, is_interruption
from outbox.run import Outcome, Run

__all__ = ["Settler", "record"]

log = get_logger("outbox.settler")

BATCH = 200
LINGER = 0.003
#: Seconds; a wait without an end would be a loss.
LONGEST = 100 * 365 * 86_400.0


class Settler:
    """One thread, one connection: whatever ended since the last commit is recorded by the next one.

    While the database is away the outcomes wait here, and no message is acknowledged. A batch that PostgreSQL
    refuses is split until the culprit is alone; a success that cannot be recorded becomes a failure with that reason.
    """

    def __init__(
        self, ledger: Ledger, connect: Callable[[], Conn], *, settled: Callable[[Sequence[Run]], None]
    ) -> None:
        self._ledger = ledger
        self._connect = connect
        self._settled = settled
        self._ended: queue.SimpleQueue[Run | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._settle_all, name="outbox-settler", daemon=True)
        self._conn: Conn | None = None
        self._abandon = threading.Event()

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def put(self, run: Run) -> None:
        """Record this run's outcome soon. Returns at once."""
        self._ended.put(run)

    def stop(self, timeout: float) -> bool:
        """Record what has ended, within the time. What is left is rescued elsewhere."""
        self._ended.put(None)
        self._thread.join(timeout)
        self._abandon.set()
        return not self._thread.is_alive()

    def _settle_all(self) -> None:
        last = False
        while not last:
            runs, last = self._gather()
            try:
                self._settle(runs)
            except Exception:
                log.exception("settling broke; what is not recorded is rescued", runs=len(runs))
        self._drop_connection()

    def _gather(self) -> tuple[list[Run], bool]:
        first = self._ended.get()
        if first is None:
            return [], True
        time.sleep(LINGER)  # not woken by each of the others: that would cost them more than all else here
        runs = [first]
        while len(runs) < BATCH:
            try:
                run = self._ended.get_nowait()
            except queue.Empty:
                break
            if run is None:
                return runs, True
            runs.append(run)
        return runs, False

    def _settle(self, runs: list[Run]) -> None:
        while runs and not self._abandon.is_set():
            try:
                self._conn = self._conn or self._connect()
                with self._conn.transaction():
                    became = record(self._conn, self._ledger, runs)
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                if self._conn is not None and not self._conn.closed and not self._conn.broken:
                    self._put_off(runs, error)
                    return
                else:
                    log.warning("outcomes wait: the database does not answer", runs=len(runs), error=str(error).strip())
                    self._drop_connection()
                self._abandon.wait(timeout=0.5)
            except Exception as error:
                if is_interruption(error):
                    log.warning("outcomes wait: the database takes none", runs=len(runs), error=str(error).strip())
                    self._drop_connection()
                    self._abandon.wait(timeout=0.5)
                    continue
                self._split(runs, error)
                return
            else:
                self._settled(runs)
                _count(runs, became)
                return

    def _drop_connection(self) -> None:
        if self._conn is not None:
            self._conn.close()
        self._conn = None

    def _put_off(self, runs: list[Run], error: Exception) -> None:
        """A lock or a deadlock, on a connection that lives: what waits for it must not hold up the others."""
        log.warning("settling again", runs=len(runs), error=str(error).strip())
        if len(runs) > 1:
            self._split(runs, error)
        else:
            self._abandon.wait(timeout=0.05)
            self._ended.put(runs[0])

    def _split(self, runs: list[Run], error: Exception) -> None:
        if len(runs) > 1:
            half = len(runs) // 2
            self._settle(runs[:half])
            self._settle(runs[half:])
            return
        run = runs[0]
        log.error("this outcome cannot be recorded", task_id=str(run.task_id), error=str(error).strip())
        if run.replaced:
            self._settled(runs)  # given up: the rescue of unlisted runs makes it due again
            return
        run.children, run.after_failure, run.replaced = [], [], True
        run.outcome = in_doubt(run, f"the outcome could not be recorded: {error}")
        self._settle(runs)


def record(conn: Conn, ledger: Ledger, runs: Sequence[Run]) -> dict[UUID, str]:
    """Write these outcomes, and the tasks that the runs enqueued, in the caller's transaction.

    Answers what is recorded of each task, by its id. One that is missing there was somebody else's by now.
    """
    ended = [
        (run, _finished(run), run.outcome or Outcome("failed", error="no outcome", wait=15.0, counts=True))
        for run in runs
    ]
    became: dict[UUID, str] = {}
    if wins := [done for _, done, outcome in ended if outcome.name == "succeeded"]:
        became |= dict.fromkeys(ledger.record_successes(conn, wins), "succeeded")
    again = [
        _failure(run, done, outcome)
        for run, done, outcome in ended
        if outcome.name != "succeeded" and outcome.wait is not None
    ]
    over = [_failure(run, done, outcome) for run, done, outcome in ended if outcome.name == "dead"]
    stopped = [_failure(run, done, outcome) for run, done, outcome in ended if outcome.name == "cancelled"]
    if again:
        settled = set(ledger.record_again(conn, again))
        became |= {f.run.id: f.outcome for f in again if f.run.id in settled}
        stopped += [f for f in again if f.run.id not in settled]  # cancel was asked for, or somebody else's by now
    if over:
        became |= dict.fromkeys(ledger.record_dead(conn, over), "dead")
    if stopped:
        became |= dict.fromkeys(ledger.record_cancelled(conn, stopped), "cancelled")
    parents = [(run, outcome) for run, _, outcome in ended if run.children or run.after_failure]
    if children := [child for run, outcome in parents if run.task_id in became for child in _children(run, outcome)]:
        ledger.enqueue(conn, f"[{','.join(map(row_of, children))}]")
    for run, _, outcome in ended if len(became) < len(ended) else ():
        if run.task_id not in became:
            log.warning("late outcome ignored", task_id=str(run.task_id), run=str(run.run_id), outcome=outcome.name)
    return became


def _count(runs: Sequence[Run], became: Mapping[UUID, str]) -> None:
    for run in runs:
        if outcome := became.get(run.task_id):
            count_outcome(run, outcome)
        else:
            LATE_OUTCOMES.inc()


def _children(run: Run, outcome: Outcome) -> list:  # type: ignore[type-arg]
    if outcome.name == "succeeded":
        return run.children + run.after_failure
    return run.after_failure


def _finished(run: Run) -> Finished:
    now = time.monotonic()
    finished = run.finished or now
    return Finished(run.task_id, run.run_id, finished - (run.started or finished), now - finished)


def _failure(run: Run, done: Finished, outcome: Outcome) -> Failure:
    wait = None if outcome.wait is None else min(max(outcome.wait, 0.0), LONGEST)
    logs = capture.told(run) if run.logged and outcome.counts else None
    return Failure(done, outcome.name, outcome.error, outcome.traceback, wait, outcome.counts, logs)
