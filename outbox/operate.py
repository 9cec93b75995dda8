"""What operators do to tasks and queues: each one a transition of the ledger and its line in the audit, together.

All functions take a psycopg connection and leave the transaction to their caller: the act and its audit line
commit together or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from uuid_utils.compat import uuid7

from outbox.encoding import encode
from outbox.errors import ArgumentError, OutboxError, TaskNotFound, WrongState
from outbox.ledger import Conn, Ledger
from outbox.reads import Reader, TaskView
from outbox.redaction import REDACTED, redacted_view

__all__ = [
    "REDACTED",
    "QueueNotFound",
    "cancel",
    "check_time",
    "edit_and_retry",
    "kept",
    "pause_queue",
    "reschedule",
    "resume_queue",
    "retry",
]

#: Bytes of an edited call.
LONGEST = 10_000_000


class QueueNotFound(OutboxError, LookupError):
    """No queue of this name is registered, used or listened to."""


def retry(conn: Conn, ledger: Ledger, id: UUID, *, who: str) -> None:
    """The task is due at once: same id, new fence, its attempts kept. For dead, cancelled and scheduled ones.

    Raises TaskNotFound or WrongState; then nothing changed.
    """
    if not ledger.retry(conn, id):
        raise _no_retry(_look(conn, ledger, id))
    ledger.audit(conn, who=who, action="retry", subject=str(id))


def cancel(
    conn: Conn, ledger: Ledger, id: UUID, *, who: str, reason: str | None = None
) -> Literal["cancelled", "requested"]:
    """`cancelled`: it had not started and never will. `requested`: it runs; it is cancelled unless it succeeds first.

    Raises TaskNotFound or WrongState; then nothing changed.
    """
    outcome = ledger.cancel(conn, id, reason=reason or f"cancelled by {who}")
    if outcome is None:
        state = _look(conn, ledger, id).state
        raise WrongState(f"Task {id}", f"is {state}: only an unfinished task can be cancelled.")
    ledger.audit(conn, who=who, action="cancel", subject=str(id), outcome=outcome, reason=reason)
    return "cancelled" if outcome == "cancelled" else "requested"


def reschedule(
    conn: Conn,
    ledger: Ledger,
    id: UUID,
    *,
    who: str,
    run_at: datetime | None = None,
    delay: timedelta | None = None,
) -> datetime:
    """The task is due at `run_at`, or `delay` from now by the database's clock. Answers when.

    Raises ArgumentError unless exactly one of the two is given and makes sense; TaskNotFound or WrongState.
    """
    check_time(run_at, delay)
    due = ledger.reschedule(conn, id, run_at=run_at, delay=delay)
    if due is None:
        raise _no_reschedule(_look(conn, ledger, id))
    ledger.audit(conn, who=who, action="reschedule", subject=str(id), due_at=due)
    return due


def edit_and_retry(
    conn: Conn,
    ledger: Ledger,
    id: UUID,
    *,
    who: str,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> UUID:
    """A new task carries these arguments and is otherwise what the dead or cancelled one was; its id is answered.

    A new id, because effects are remembered by it: what the old one has done would not be done again. The old one stays as it
    ended, with its attempts, and the audit of each names the other. Values given as REDACTED keep what stands there.

    Raises ArgumentError for what is no JSON, TaskNotFound or WrongState; then nothing changed.
    """
    task = _look(conn, ledger, id)
    if task.state not in ("dead", "cancelled"):
        raise WrongState(f"Task {id}", f"is {task.state}: only a dead or cancelled task can be edited.")
    shown = redacted_view(task)
    new_args = task.args if args is None else kept(list(args), task.args, shown.args)
    new_kwargs = task.kwargs if kwargs is None else kept(dict(kwargs), task.kwargs, shown.kwargs)
    said = encode(new_args, new_kwargs, actor=task.actor, limit=LONGEST)
    new = uuid7()
    options = json.dumps({**task.options, "edited_from": str(id)})
    if not ledger.again_with(conn, id, new=new, args=said[0], kwargs=said[1], options=options):
        raise WrongState(f"Task {id}", "cannot run again now: another task with its unique key is unfinished.")
    same = (new_args, new_kwargs) == (task.args, task.kwargs)
    ledger.audit(conn, who=who, action="edit and retry", subject=str(id), new=new, changed=not same)
    ledger.audit(conn, who=who, action="made by an edit", subject=str(new), old=id)
    return new


def kept(new: Any, old: Any, shown: Any) -> Any:
    """The new value, in which what was shown as redacted, and was left so where it stood, is what it was.

    Raises ArgumentError where nothing was shown so, or more was changed than can be told: no value is guessed.
    """
    if isinstance(new, str) and REDACTED in new:
        if new != shown or new == old:
            raise ArgumentError(f"{new!r} stands for no value that could be kept: give the whole value.")
        return old
    if isinstance(new, dict):
        olds, showns = (each if isinstance(each, dict) else {} for each in (old, shown))
        return {name: kept(each, olds.get(name), showns.get(name)) for name, each in new.items()}
    if isinstance(new, list):
        return [kept(*each) for each in zip(new, *(_beside(new, each) for each in (old, shown)), strict=True)]
    return new


def _beside(new: list[Any], other: Any) -> list[Any]:
    """What stands at the same places; nothing, where the places are not the same any more."""
    return other if isinstance(other, list) and len(other) == len(new) else [None] * len(new)


def pause_queue(conn: Conn, ledger: Ledger, name: str, *, who: str) -> int:
    """Nothing of this queue starts any more until it is resumed; what runs, ends. Answers how many messages went stale.

    Raises QueueNotFound.
    """
    known = [queue.name for queue in Reader(ledger.schema).queues(conn)]
    if name not in known:
        raise QueueNotFound(f"No queue is named {name!r}; known: {', '.join(known) or 'none'}.")
    unpublished = ledger.pause_queue(conn, name, who=who)
    ledger.audit(conn, who=who, action="pause queue", subject=f"queue/{name}")
    return unpublished


def resume_queue(conn: Conn, ledger: Ledger, name: str, *, who: str) -> None:
    """The queue's tasks start again. Raises QueueNotFound, or WrongState when it is not paused."""
    if not ledger.resume_queue(conn, name):
        known = [queue.name for queue in Reader(ledger.schema).queues(conn)]
        if name in known:
            raise WrongState(f"Queue {name}", "is not paused.")
        raise QueueNotFound(f"No queue is named {name!r}; known: {', '.join(known) or 'none'}.")
    ledger.audit(conn, who=who, action="resume queue", subject=f"queue/{name}")


def _look(conn: Conn, ledger: Ledger, id: UUID) -> TaskView:
    task = Reader(ledger.schema).task(conn, id)
    if task is None:
        raise TaskNotFound(f"No task has the id {id}: it never was, or its retention is over.")
    return task


def _no_retry(task: TaskView) -> WrongState:
    if task.state == "succeeded":
        why = "is succeeded: only a dead, cancelled, scheduled or retrying task can be retried."
    else:
        why = f"is {task.state}: it will run without a retry."
    return WrongState(f"Task {task.id}", why)


def _no_reschedule(task: TaskView) -> WrongState:
    if task.finished_at is None:
        why = "has been claimed by a worker: it can be cancelled, not moved."
    else:
        why = f"is {task.state}: only a task that has not started can be moved. Retry it instead."
    return WrongState(f"Task {task.id}", why)


def check_time(run_at: datetime | None, delay: timedelta | None) -> None:
    """Raises ArgumentError unless exactly one of the two is given and makes sense."""
    if (run_at is None) == (delay is None):
        raise ArgumentError("reschedule needs run_at or delay, and not both.")
    if run_at is not None and (run_at.tzinfo is None or not 1970 <= run_at.year < 9000):
        raise ArgumentError("run_at must be a datetime with a time zone, between the years 1970 and 9000.")
    if delay is not None and not timedelta(0) <= delay <= timedelta(days=36500):
        raise ArgumentError("delay must lie between zero and a hundred years.")
