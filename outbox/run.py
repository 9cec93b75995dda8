"""The run: what an actor can know and do about the attempt that it is."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

if TYPE_CHECKING:
    from threading import Thread

    import dramatiq
    from sqlalchemy.orm import Session

    from outbox.models import Task
    from outbox.tracing import Attempt

__all__ = ["Outcome", "Run", "current_run"]


class Post(Protocol):
    """Where a run runs: the worker's station, or a test's."""

    def session(self) -> Session:
        """Open the session in which a run's success is recorded."""

    def starts(self, run: Run) -> bool:
        """Whether the run may start now."""

    def record(self, run: Run, session: Session) -> bool:
        """Record the run's success in this session; False when the run is no longer the task's."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run: succeeded, failed, snoozed, interrupted, dead, cancelled."""

    name: str
    error: str = ""
    traceback: str | None = None
    wait: float | None = None
    counts: bool = False


@dataclass(eq=False)
class Run:
    """One attempt of a task, between its claim and its recorded outcome.

    `task_id` is the id of the task everywhere (I8), `attempt` counts from 1, `failures` are those before.
    """

    task_id: UUID
    run_id: UUID
    attempt: int
    failures: int
    max_attempts: int | None
    lane: str | None
    message: dramatiq.Message[Any]
    station: Post
    alone: bool = False
    held_since: float = field(default_factory=time.monotonic)
    started: float | None = None
    finished: float | None = None
    outcome: Outcome | None = None
    children: list[Task] = field(default_factory=list)
    after_failure: list[Task] = field(default_factory=list)
    given_back: bool = False
    ended: bool = False
    #: The thread that runs it: when that dies, the run has ended.
    thread: Thread | None = None
    #: Why a hook could not send what comes after this task.
    unsent: BaseException | None = None
    #: Its own outcome could not be recorded, and was replaced.
    replaced: bool = False
    recorded: bool = False
    delivery: Any = None
    #: Its span, where it is traced.
    traced: Attempt | None = None
    #: What it logged last, as records.
    logged: deque[logging.LogRecord] | None = None
    _session: Session | None = None
    _cancel: bool = False

    def session(self) -> Session:
        """The session in which this run's success is recorded: what it writes commits with the outcome, or not at all (I9).

        Opened at first use; do not commit it. If the actor raises, it is rolled back.
        """
        if self._session is None:
            self._session = self.station.session()
        return self._session

    @property
    def failing(self) -> bool:
        """Whether the actor has raised: what is enqueued now belongs to the failure, not to the success."""
        return self.delivery is not None and self.delivery._exception is not None

    @property
    def has_session(self) -> bool:
        return self._session is not None

    def starts(self) -> bool:
        return self.station.starts(self)

    def record(self, session: Session) -> bool:
        return self.station.record(self, session)

    def cancel_requested(self) -> bool:
        """Whether an operator asked for this task to be cancelled. Known within a heartbeat; raise or return then."""
        return self._cancel

    def request_cancel(self) -> None:
        self._cancel = True


class BoundSession:
    """The session of the request that is being answered: `actor.send()` joins its transaction.

    Only until the request ends: what it started and did not wait for inherits its context, but not its session,
    which nobody would commit any more.
    """

    def __init__(self) -> None:
        self._bound: ContextVar[list[Any] | None] = ContextVar("outbox_session", default=None)

    def get(self) -> Any:
        bound = self._bound.get()
        return bound[0] if bound else None

    @contextmanager
    def bind(self, session: Any) -> Iterator[None]:
        bound = [session]
        token = self._bound.set(bound)
        try:
            yield
        finally:
            bound.clear()
            self._bound.reset(token)


bound_session = BoundSession()
_current: ContextVar[Run | None] = ContextVar("outbox_run", default=None)


def current_run() -> Run:
    """The run that the calling actor is. Raises LookupError outside of one."""
    run = _current.get()
    if run is None:
        raise LookupError("no outbox task is running here: current_run() is for actors")
    return run
