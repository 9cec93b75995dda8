"""One task: where it is on its way, why, what each attempt came to, and what can be done about it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple
from uuid import UUID

from outbox import operate, why
from outbox.dashboard.page import Ask, Done, Evidence, NotThere, Page, Refused
from outbox.dashboard.times import moment_of
from outbox.errors import ArgumentError, TaskNotFound
from outbox.reads import TaskView
from outbox.redaction import redacted_view, usual
from outbox.tracing import trace_url

__all__ = ["cancel", "edit", "edit_and_retry", "reschedule", "retry", "show"]

RETRIED = ("dead", "cancelled", "scheduled", "retrying")
ENDED = ("succeeded", "dead", "cancelled")
MOVED = ("scheduled", "retrying", "waiting", "pending", "published")


class Station(NamedTuple):
    """A place on a task's way: when it was reached, and how long that took from the one before."""

    name: str
    at: datetime | None
    took: timedelta | None
    told: str


def show(ask: Ask) -> Page:
    """The task, wherever its row is."""
    task = _task(ask)
    values = {
        "task": redacted_view(task),
        "stations": _stations(task),
        "why": _why(ask, task),
        "evidence": _evidence(ask, task),
        "audit": ask.reader.audit(ask.conn, subject=str(task.id))[0],
        "trace": trace_url(task),
        "can_retry": task.state in RETRIED,
        "can_cancel": task.state not in ENDED and not task.cancel_requested,
        "can_move": task.state in MOVED,
        "can_edit": task.state in ("dead", "cancelled"),
        "now": ask.now(),
    }
    return Page("task.html", f"{task.actor} {str(task.id)[-8:]}", values)


def _task(ask: Ask) -> TaskView:
    try:
        task = ask.reader.task(ask.conn, ask.reader.resolve(ask.conn, ask.path["id"]))
    except ArgumentError as error:
        raise NotThere(str(error)) from None
    except TaskNotFound:
        task = None
    if task is None:
        raise NotThere("No task has this id: it never was, or its retention is over.")
    return task


def _stations(task: TaskView) -> list[Station]:
    """Those of the last run, and the time from each to the next that was reached."""
    due = task.due_at if task.due_at > task.created_at else None
    stops = [
        ("committed", task.created_at, "the transaction that enqueued it"),
        ("due", due or task.created_at, "its time had come"),
        ("confirmed", task.published_at, "RabbitMQ has it on its disks"),
        ("started", task.started_at, "a worker began"),
        (task.state if task.state in ENDED else "finished", task.finished_at, "its outcome is recorded"),
    ]
    reached = [at for _, at, _ in stops if at is not None]
    took = dict(zip(reached[1:], (later - earlier for earlier, later in pairwise(reached)), strict=True))
    return [
        Station(name, at, took.get(at) if at and number else None, told)
        for number, (name, at, told) in enumerate(stops)
    ]


def _why(ask: Ask, task: TaskView) -> why.Why:
    others = [panel.explain for panel in ask.panels if panel.explain]
    found = why.explain(ask.conn, task, schema=ask.schema, others=others)
    return replace(found, told=usual().text(found.told))


def _evidence(ask: Ask, task: TaskView) -> Sequence[Evidence]:
    return [each for panel in ask.panels if panel.evidence for each in panel.evidence(ask.conn, task)]


# ---------------------------------------------------------------------- acts


def retry(ask: Ask) -> Done:
    """Due at once: same id, its attempts kept."""
    operate.retry(ask.conn, ask.ledger, _id(ask), who=ask.visitor.name)
    return Done("It is due now.")


def cancel(ask: Ask) -> Done:
    """It never starts; or, where it runs, it is asked to stop."""
    outcome = operate.cancel(ask.conn, ask.ledger, _id(ask), who=ask.visitor.name, reason=ask.given("reason") or None)
    if outcome == "cancelled":
        return Done("It is cancelled, and never starts.")
    return Done("It runs: it is asked to stop, and is cancelled unless it succeeds first.")


def reschedule(ask: Ask) -> Done:
    """Due at another time, which is given as an instant in UTC, or as a span from now."""
    when = moment_of(ask.given("at"), ask.given("in"))
    due = operate.reschedule(ask.conn, ask.ledger, _id(ask), who=ask.visitor.name, **when)
    return Done(f"It is due at {due:%Y-%m-%d %H:%M:%S %Z}.")


def edit(ask: Ask) -> Page:
    """What it carries, to be changed. Redacted values that are left as they are stay what they were."""
    task = redacted_view(_task(ask))
    given = {
        "args": json.dumps(task.args, indent=2, ensure_ascii=False),
        "kwargs": json.dumps(task.kwargs, indent=2, ensure_ascii=False),
    }
    return Page("edit.html", f"Edit {task.actor}", {"task": task, "given": given, "now": ask.now()})


def edit_and_retry(ask: Ask) -> Done:
    """Run again with what the form says."""
    args, kwargs = _json(ask, "args", list), _json(ask, "kwargs", dict)
    new = operate.edit_and_retry(ask.conn, ask.ledger, _id(ask), who=ask.visitor.name, args=args, kwargs=kwargs)
    return Done("It runs again with what you gave it.", f"/tasks/{new}")


def _json(ask: Ask, name: str, kind: type) -> Any:
    try:
        found = json.loads(ask.given(name))
    except ValueError as error:
        raise Refused(f"{name} is not JSON: {error}. Nothing was changed.") from None
    if not isinstance(found, kind):
        raise Refused(f"{name} must be a JSON {'array' if kind is list else 'object'}. Nothing was changed.")
    return found


def _id(ask: Ask) -> UUID:
    try:
        return UUID(ask.path["id"])
    except ValueError:
        raise NotThere("This is not a task's id.") from None
