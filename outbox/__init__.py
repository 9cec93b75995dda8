"""Background tasks that cannot be lost.

    from outbox import OutboxBroker, enqueue          # a Dramatiq broker; tasks in your own transaction
    from outbox.fastapi import outbox_tasks           # `tasks.add_task(...)` for FastAPI
    from outbox import Snooze, Permanent, current_run # what an actor may say about itself

Importing this package imports nothing else: each name is fetched when it is first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from outbox.broker import OutboxBroker
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
    from outbox.lanes import free_lane, hold_lane
    from outbox.models import Task, metadata
    from outbox.run import Run, current_run
    from outbox.settings import Settings

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
    "free_lane",
    "hold_lane",
    "metadata",
]

_HOMES = {
    "OutboxBroker": "broker", "enqueue": "enqueue", "Task": "models", "metadata": "models", "Run": "run",
    "current_run": "run", "Settings": "settings", "hold_lane": "lanes", "free_lane": "lanes",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"outbox.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """Keeps `outbox.enqueue` the function: importing the module of that name would put itself in its place."""

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value.enqueue if name == "enqueue" and isinstance(value, ModuleType) else value)


sys.modules[__name__].__class__ = _Package
