"""`tasks.add_task(...)`: as FastAPI's BackgroundTasks has it, in the session's transaction."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, TypedDict, TypeVar, Unpack, cast
from uuid import UUID

import dramatiq

from outbox.enqueue import enqueue
from outbox.errors import ArgumentError
from outbox.models import Task

if TYPE_CHECKING:
    from outbox.enqueue import AnySession

__all__ = ["OutboxTasks", "TaskOptions"]

P = ParamSpec("P")
R = TypeVar("R")


class TaskOptions(TypedDict, total=False):
    """The options of `enqueue`, where they are explained."""

    delay: timedelta | None
    run_at: datetime | None
    expires_at: datetime | None
    priority: int | None
    ordering_key: str | None
    hold_on_dead: bool
    concurrency_key: str | None
    concurrency_limit: int | None
    unique_key: str | None
    max_attempts: int | None
    task_id: UUID | None


class OutboxTasks:
    """The tasks of one unit of work: they exist if, and only if, the session's transaction commits."""

    def __init__(self, session: AnySession, **options: Unpack[TaskOptions]) -> None:
        self.session = session
        self._options = options

    def add_task(self, actor: dramatiq.Actor[P, R], *args: P.args, **kwargs: P.kwargs) -> Task:
        """Run `actor(*args, **kwargs)` in a worker after the commit. No I/O here; see `enqueue` for what can be raised."""
        if not isinstance(actor, dramatiq.Actor):
            name = getattr(actor, "__qualname__", repr(actor))
            raise ArgumentError(f"add_task needs a Dramatiq actor; decorate {name} with @dramatiq.actor")
        message: dramatiq.Message[Any] = actor.message_with_options(args=args, kwargs=kwargs)
        return enqueue(self.session, message, **self._options)

    def options(self, **options: Unpack[TaskOptions]) -> OutboxTasks:
        """The same unit of work with options: `tasks.options(delay=timedelta(hours=1)).add_task(remind, order.id)`."""
        merged = cast(TaskOptions, {**self._options, **options})
        return OutboxTasks(self.session, **merged)
