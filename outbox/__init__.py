"""Background tasks that cannot be lost.

    from outbox import OutboxBroker, enqueue          # a Dramatiq broker; tasks in your own transaction
    from outbox.fastapi import outbox_tasks           # `tasks.add_task(...)` for FastAPI
    from outbox import Snooze, Permanent, current_run # what an actor may say about itself

Importing this package opens no connection and imports neither pika nor FastAPI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from outbox.enqueue import enqueue
from outbox.errors import (
    ArgumentError,
    CommitMissing,
    ConfigurationError,
    NoTransaction,
    OutboxError,
    Permanent,
    ScopeError,
    Snooze,
    TaskNotFound,
    WrongState,
)
from outbox.models import Task, metadata
from outbox.run import Run, current_run
from outbox.settings import Settings

if TYPE_CHECKING:
    from outbox.broker import OutboxBroker

__all__ = [
    "ArgumentError",
    "CommitMissing",
    "ConfigurationError",
    "NoTransaction",
    "OutboxBroker",
    "OutboxError",
    "Permanent",
    "Run",
    "ScopeError",
    "Settings",
    "Snooze",
    "Task",
    "TaskNotFound",
    "WrongState",
    "current_run",
    "enqueue",
    "metadata",
]


def __getattr__(name: str) -> Any:
    if name == "OutboxBroker":
        from outbox.broker import OutboxBroker

        return OutboxBroker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
