"""A task that was kept instead of written, its runs, and what is asserted of them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import dramatiq

from outbox.models import Task
from outbox.testing.bench import broker_of_actors

__all__ = ["CapturedTask", "Ran", "Report", "State", "Where", "captured_task", "in_words"]

State = Literal["pending", "scheduled", "retrying", "succeeded", "dead", "cancelled"]
Where = Callable[["CapturedTask"], bool] | Mapping[str, Any]


@dataclass(eq=False)
class CapturedTask:
    """A task as it was enqueued, and what became of it in this test."""

    id: UUID
    actor: str
    queue: str
    args: list[Any]
    kwargs: dict[str, Any]
    options: dict[str, Any]
    priority: int
    due_at: datetime
    delay: timedelta | None
    expires_at: datetime | None
    ordering_key: str | None
    concurrency_key: str | None
    unique_key: str | None
    max_attempts: int | None
    state: State = "pending"
    started: bool = False
    failures: int = 0
    runs: list[Ran] = field(default_factory=list)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments by the names of the actor's parameters, however they were passed."""
        actor = broker_of_actors().get_actor(self.actor)
        bound = inspect.signature(actor.fn).bind(*self.args, **self.kwargs)
        bound.apply_defaults()
        return dict(bound.arguments)

    @property
    def finished(self) -> bool:
        return self.state in ("succeeded", "dead", "cancelled")

    def fits(self, actor: dramatiq.Actor[Any, Any] | str, where: Where | None) -> bool:
        name = actor if isinstance(actor, str) else actor.actor_name
        if self.actor != name:
            return False
        if where is None or callable(where):
            return where is None or where(self)
        arguments = self.arguments
        return all(key in arguments and arguments[key] == value for key, value in where.items())

    def __str__(self) -> str:
        given = [*map(repr, self.args), *(f"{key}={value!r}" for key, value in self.kwargs.items())]
        return f"{self.actor}({', '.join(given)}) [{self.state}]"


@dataclass(frozen=True)
class Ran:
    """One run of a task: its outcome (succeeded, failed, snoozed, interrupted, dead, cancelled), and why."""

    task: CapturedTask
    attempt: int
    outcome: str
    error: str
    exception: BaseException | None
    wait: timedelta | None


class Report(list[Ran]):
    """The runs of a drain, in their order."""

    def of(self, outcome: str) -> list[Ran]:
        return [ran for ran in self if ran.outcome == outcome]

    def expect_success(self) -> Report:
        """Raise AssertionError, caused by the actor's own exception, unless every run succeeded."""
        for ran in self:
            if ran.outcome != "succeeded":
                raise AssertionError(f"{ran.task}: attempt {ran.attempt} {ran.outcome}: {ran.error}") from ran.exception
        return self


def captured_task(task: Task) -> CapturedTask:
    delay = None if task.wait is None else timedelta(seconds=task.wait)
    now = datetime.now(UTC)
    due_at = task.due_at or now + (delay or timedelta(0))
    kind, _, key = (task.lane or "").partition("/")
    return CapturedTask(
        id=task.id, actor=task.actor, queue=task.queue, args=json.loads(task.args), kwargs=json.loads(task.kwargs),
        options=json.loads(task.options), priority=task.priority, due_at=due_at, delay=delay,
        expires_at=task.expires_at, ordering_key=key if kind == "order" else None,
        concurrency_key=key if kind == "limit" else None, unique_key=task.unique_key, max_attempts=task.max_attempts,
        state="scheduled" if due_at > now else "pending",
    )  # fmt: skip


def in_words(actor: dramatiq.Actor[Any, Any] | str, where: Where | None) -> str:
    name = actor if isinstance(actor, str) else actor.actor_name
    return name if where is None else f"{name} where {where if isinstance(where, Mapping) else 'it fits'}"
