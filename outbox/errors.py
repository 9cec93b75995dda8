"""What can go wrong, and what an actor may say about its own outcome."""

from __future__ import annotations

from datetime import timedelta

from dramatiq.errors import Retry

__all__ = [
    "ArgumentError",
    "CommitMissing",
    "ConfigurationError",
    "NoTransaction",
    "OutboxError",
    "Permanent",
    "ScopeError",
    "Snooze",
    "TaskNotFound",
    "TookTooLong",
    "WrongState",
]


class OutboxError(Exception):
    """Base of every error that this library raises on purpose."""


class ArgumentError(OutboxError, TypeError):
    """A task cannot be enqueued as asked; the message names the argument or option. Nothing was written."""


class NoTransaction(OutboxError, RuntimeError):
    """Enqueueing needs a session with a transaction; without one a task could exist without its domain row."""


class CommitMissing(OutboxError, RuntimeError):
    """A request ended well while its tasks were not committed: answering 2xx would be a lie (I1)."""


class ScopeError(OutboxError, RuntimeError):
    """A route's session dependency commits only after the response was sent."""


class ConfigurationError(OutboxError, ValueError):
    """A setting is missing or makes no sense; the message names it."""


class TaskNotFound(OutboxError, LookupError):
    """No task with this id is known: neither unfinished, nor in the history, nor dead."""


class TookTooLong(OutboxError):
    """A search was given up: it would have read too much. The message says how to narrow it."""

    def __init__(self, within: timedelta) -> None:
        super().__init__(
            f"The search was given up after {within.total_seconds():g} s: narrow it, by since:2h, id:… or state:… for example."
        )


class WrongState(OutboxError):
    """The state of a task, queue or schedule does not allow this. `why` names the state and what is allowed.

    The message is `subject` and `why`; where the subject is the caller's own word, `why` can be told alone.
    """

    def __init__(self, subject: str, why: str) -> None:
        super().__init__(f"{subject} {why}")
        self.why = why


class Permanent(OutboxError, Retry):
    """Raised by an actor: trying again is pointless. The task ends dead at once, with this reason.

    A `Retry`, and `Snooze` too, for that is what Dramatiq logs no traceback of: both are said on purpose.
    """


class Snooze(OutboxError, Retry):
    """Raised by an actor: not now. The task runs again after `wait`; no failure is counted.

    For trouble that is not the task's own: a transport that is down, a throttle, an uncertain reply.
    """

    def __init__(self, wait: timedelta, reason: str = "snoozed") -> None:
        if wait < timedelta(0):
            raise ValueError("Snooze: wait must not be negative")
        super().__init__(reason)
        self.wait = wait
        self.reason = reason
