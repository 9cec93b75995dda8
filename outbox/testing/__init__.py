"""Test your own code without servers: see what it enqueues, and run that here and now.

    from outbox.testing import captured

    def test_signup_sends_a_welcome_mail(client):
        with captured() as tasks:
            client.post("/signup", json={"email": "ada@example.org"})
            tasks.assert_enqueued(send_welcome_mail, where={"user_id": 1})
            tasks.drain().expect_success()

Between `captured()` and its end nothing is written to an outbox: `enqueue`, `OutboxTasks` and `actor.send()` are
kept in memory, on whatever database the session is bound to (SQLite too). What counts as enqueued is what was
committed: a rollback takes its tasks along, and so does a rolled-back savepoint.

Tasks run as in a worker: arguments have been through JSON, the broker's middleware and each actor's retry options
decide the outcome, `Snooze`, `Permanent` and `current_run()` work. The actors' broker must be an `OutboxBroker`,
which opens no connection for this. What stays out of reach: RabbitMQ, real time, crashes, concurrency.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import dramatiq
from sqlalchemy import event
from sqlalchemy.orm import Session

from outbox.broker import OutboxBroker
from outbox.enqueue import capture
from outbox.testing.recording import Captured
from outbox.testing.tasks import CapturedTask, Ran, Report, Where

__all__ = [
    "Captured", "CapturedTask", "Ran", "Report", "assert_enqueued", "captured", "drain", "refute_enqueued",
    "run_enqueued",
]  # fmt: skip

_active: list[Captured] = []


@contextmanager
def captured(*, sessions: Callable[[], Session] | None = None) -> Iterator[Captured]:
    """Keep what is enqueued, in this process and whatever thread, until the end of the block.

    `sessions` makes the session of `current_run().session()`: a `sessionmaker` of your test database.
    """
    tasks = Captured(sessions)
    before = capture(tasks)
    event.listen(Session, "after_commit", tasks.commits, insert=True)  # before `enqueue` forgets what was written
    _active.append(tasks)
    try:
        with patch.object(OutboxBroker, "_enqueue_now", lambda _broker, task: tasks.add([task])):
            yield tasks
    finally:
        _active.remove(tasks)
        event.remove(Session, "after_commit", tasks.commits)
        capture(before)


def assert_enqueued(
    actor: dramatiq.Actor[Any, Any] | str, *, where: Where | None = None, times: int | None = None
) -> CapturedTask:
    """`Captured.assert_enqueued` of the innermost `captured()`."""
    return _innermost().assert_enqueued(actor, where=where, times=times)


def refute_enqueued(actor: dramatiq.Actor[Any, Any] | str, *, where: Where | None = None) -> None:
    """`Captured.refute_enqueued` of the innermost `captured()`."""
    _innermost().refute_enqueued(actor, where=where)


def run_enqueued(*, include_delayed: bool = False) -> Report:
    """`Captured.run_enqueued` of the innermost `captured()`."""
    return _innermost().run_enqueued(include_delayed=include_delayed)


def drain(*, include_delayed: bool = False, limit: int = 1000) -> Report:
    """`Captured.drain` of the innermost `captured()`."""
    return _innermost().drain(include_delayed=include_delayed, limit=limit)


def _innermost() -> Captured:
    if not _active:
        raise LookupError("nothing is captured here: use it within `with captured():`")
    return _active[-1]
