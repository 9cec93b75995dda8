"""What was enqueued between `captured()` and its end: asserted on, and run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import dramatiq
from sqlalchemy.orm import Session

from outbox.consumer import Delivery
from outbox.ledger import Ledger
from outbox.models import Task
from outbox.outcomes import without_outcome
from outbox.run import Run
from outbox.testing.bench import Bench, broker_of_actors, carry_out, event_loop
from outbox.testing.tasks import CapturedTask, Ran, Report, State, Where, captured_task, in_words

__all__ = ["Captured"]


class Captured:
    """What was enqueued, in the order of the commits."""

    def __init__(self, sessions: Callable[[], Session] | None = None) -> None:
        self.tasks: list[CapturedTask] = []
        self.ledger = Ledger()
        self.max_payload = 1_048_576
        self._sessions = sessions
        self._lock = threading.RLock()

    # ------------------------------------------------------------------ looking

    def enqueued(self, actor: dramatiq.Actor[Any, Any] | str, *, where: Where | None = None) -> list[CapturedTask]:
        """The tasks of this actor that fit, finished ones too."""
        return [task for task in self.tasks if task.fits(actor, where)]

    def assert_enqueued(
        self, actor: dramatiq.Actor[Any, Any] | str, *, where: Where | None = None, times: int | None = None
    ) -> CapturedTask:
        """At least one such task was enqueued and committed (or exactly `times`). Answers the latest.

        `where` is a mapping of argument names to values, or a function of the task.
        """
        found = self.enqueued(actor, where=where)
        if not found or (times is not None and len(found) != times):
            wanted = "at least 1" if times is None else str(times)
            raise AssertionError(f"expected {wanted} of {in_words(actor, where)}, found {len(found)}. {self._told()}")
        return found[-1]

    def refute_enqueued(self, actor: dramatiq.Actor[Any, Any] | str, *, where: Where | None = None) -> None:
        """No such task was enqueued and committed."""
        found = self.enqueued(actor, where=where)
        if found:
            raise AssertionError(f"expected none of {in_words(actor, where)}, found {len(found)}. {self._told()}")

    def _told(self) -> str:
        if not self.tasks:
            return "Nothing was enqueued. (Was the session committed?)"
        return "Enqueued: " + "; ".join(map(str, self.tasks))

    # ------------------------------------------------------------------ running

    def run_enqueued(self, *, include_delayed: bool = False) -> Report:
        """Run once each task that is due now (delayed ones only with `include_delayed`), and not what they enqueue."""
        report, waiting = Report(), [task for task in self.tasks if not task.finished]
        with event_loop(broker_of_actors()):
            while ready := [task for task in self._ready(include_delayed) if task in waiting]:
                waiting.remove(ready[0])
                report.append(self._run(ready[0]))
        return report

    def drain(self, *, include_delayed: bool = False, limit: int = 1000) -> Report:
        """Run what is due, and what that enqueues, until nothing due is left.

        A failed task is not due again before its backoff: it stays `retrying`. With `include_delayed` delays,
        backoffs and snoozes pass at once, and every task ends; more than `limit` runs raise AssertionError.
        """
        report = Report()
        with event_loop(broker_of_actors()):
            while ready := self._ready(include_delayed):
                if len(report) >= limit:
                    raise AssertionError(f"still not done after {limit} runs: {ready[0]}")
                report.append(self._run(ready[0]))
        return report

    def _ready(self, include_delayed: bool) -> list[CapturedTask]:
        """Those that may run, the most urgent first; of an ordering key only the first unfinished."""
        now, heads, ready = datetime.now(UTC), set[str](), []
        for task in self.tasks:
            if task.finished:
                continue
            if task.ordering_key is not None:
                if task.ordering_key in heads:
                    continue
                heads.add(task.ordering_key)
            if include_delayed or task.due_at <= now:
                ready.append(task)
        return sorted(ready, key=lambda task: (task.priority, task.due_at))

    def _run(self, task: CapturedTask) -> Ran:
        if task.expires_at is not None and task.expires_at <= datetime.now(UTC):
            task.state = "cancelled"
            return self._ended(Ran(task, len(task.runs) + 1, "cancelled", "expired before it could run", None, None))
        run = Run(
            task_id=task.id, run_id=uuid4(), attempt=len(task.runs) + 1, failures=task.failures,
            max_attempts=task.max_attempts, lane=None, message=_message(task), station=Bench(self._sessions),
        )  # fmt: skip
        task.started = True
        error = carry_out(broker_of_actors(), Delivery(run.message, run))
        return self._settle(task, run, error)

    def _settle(self, task: CapturedTask, run: Run, error: BaseException | None) -> Ran:
        outcome = run.outcome or without_outcome(run.delivery)
        task.failures += int(outcome.counts)
        wait = None if outcome.wait is None else timedelta(seconds=outcome.wait)
        if wait is None:
            task.state = cast(State, outcome.name)
        else:
            task.state = "retrying" if task.failures else "scheduled"
            task.due_at = datetime.now(UTC) + wait
        if not run.recorded:
            self.add((run.children if outcome.name == "succeeded" else []) + run.after_failure)
        return self._ended(Ran(task, run.attempt, outcome.name, outcome.error, error, wait))

    def _ended(self, ran: Ran) -> Ran:
        ran.task.runs.append(ran)
        return ran

    # ------------------------------------------------------------------ the outbox's side

    def keep(self, session: Session, tasks: Sequence[Task]) -> dict[UUID, UUID]:
        """In place of the INSERT: id asked for to id that exists."""
        open_keys = {task.unique_key: task.id for task in _written(session)}
        answer = {}
        for task in tasks:
            holder = None
            if task.unique_key is not None:
                holder = self._holder(task.unique_key) or open_keys.setdefault(task.unique_key, task.id)
            answer[task.id] = holder or task.id
        return answer

    def commits(self, session: Session) -> None:
        """A session commits: what survived its savepoints is enqueued."""
        if not session.in_nested_transaction():
            self.add(_written(session))

    def committed(self, session: Session) -> None:
        """There is no relay to wake."""

    def add(self, tasks: Sequence[Task]) -> None:
        """These are enqueued, unless their unique key is taken."""
        with self._lock:
            for task in tasks:
                if task.unique_key is None or self._holder(task.unique_key) is None:
                    self.tasks.append(captured_task(task))

    def _holder(self, key: str) -> UUID | None:
        return next((t.id for t in self.tasks if t.unique_key == key and not t.started and not t.finished), None)


def _written(session: Session) -> list[Task]:
    """What this session has flushed and not rolled back, without those whose unique key was taken."""
    tasks = session.info.get("outbox_tasks")
    return [task for task, _ in tasks.written if task.enqueued] if tasks else []


def _message(task: CapturedTask) -> dramatiq.Message[Any]:
    return dramatiq.Message(
        queue_name=task.queue,
        actor_name=task.actor,
        args=tuple(task.args),
        kwargs=task.kwargs,
        options=dict(task.options),
        message_id=str(task.id),
        message_timestamp=int(time.time() * 1000),
    )
