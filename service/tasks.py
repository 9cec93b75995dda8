"""Tasks: what became of what was promised, and what an operator can do about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response, status
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from outbox import operate
from outbox.errors import ArgumentError, TaskNotFound
from outbox.ledger import Conn, Ledger
from outbox.reads import PublicState, Reader
from outbox.wake import wake
from service.access import Admin
from service.access import Reader as ReaderRole
from service.bodies import StrictRoute
from service.database import Db, driver_connection
from service.fields import Form, Instant, Line, refused
from service.problems import Problem
from service.violations import Violation

__all__ = ["routes"]

routes = APIRouter(prefix="/v1/tasks", tags=["tasks"], route_class=StrictRoute)


class TaskItem(BaseModel):
    """A task, wherever it is on its way."""

    model_config = ConfigDict(from_attributes=True, extra="forbid")

    id: UUID
    state: PublicState
    actor: str
    queue: str
    args: list[Any]
    kwargs: dict[str, Any]
    priority: int
    created_at: datetime
    due_at: datetime
    published_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    failures: int
    crashes: int
    max_attempts: int | None
    ordering_key: str | None
    concurrency_key: str | None
    unique_key: str | None
    cancel_requested: bool
    reason: str | None


class Attempt(BaseModel):
    """One run that ended."""

    model_config = ConfigDict(from_attributes=True, extra="forbid")

    run: UUID | None
    worker: UUID | None
    outcome: str
    error: str | None
    traceback: str | None
    started_at: datetime | None
    finished_at: datetime | None


class TaskDetail(TaskItem):
    """A task with its attempts, the oldest first."""

    attempts: list[Attempt]


class TaskPage(BaseModel):
    """A page of tasks, the newest first. `next_cursor` asks for the next page; null at the end."""

    items: list[TaskItem]
    next_cursor: str | None


def _unless_empty(value: Any) -> Any:
    return None if value in ("", [""]) else value


_OrEmpty = BeforeValidator(_unless_empty)


class TaskFilter(BaseModel):
    """What to list. `state` may be given several times; `since` is about the time of creation."""

    model_config = ConfigDict(extra="forbid")

    state: Annotated[list[PublicState] | None, _OrEmpty] = None
    actor: Annotated[Annotated[Line, Field(max_length=255)] | None, _OrEmpty] = None
    queue: Annotated[Annotated[Line, Field(max_length=255)] | None, _OrEmpty] = None
    since: Annotated[Instant | None, _OrEmpty] = None
    cursor: Annotated[Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,64}$")] | None, _OrEmpty] = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50


class Cancellation(Form):
    """Why, for the audit."""

    reason: Annotated[Line, Field(max_length=500)] | None = None


class NewTime(Form):
    """When the task is to run: exactly one of the two."""

    run_at: Instant | None = None
    delay_seconds: Annotated[int, Field(ge=0, le=366 * 86_400)] | None = None

    @model_validator(mode="after")
    def _one(self) -> NewTime:
        if (self.run_at is None) == (self.delay_seconds is None):
            raise refused("needs either run_at or delay_seconds")
        if self.run_at is not None and not 1970 <= self.run_at.year < 9000:
            raise refused("run_at must lie between the years 1970 and 9000")
        return self


@routes.get("")
def list_tasks(
    request: Request, session: Db, _principal: ReaderRole, wanted: Annotated[TaskFilter, Query()]
) -> TaskPage:
    """The newest tasks first, a page at a time."""
    reader = Reader(request.app.state.settings.outbox_schema)
    with session.begin(), _cursor_checked():
        found, next_cursor = reader.tasks(
            driver_connection(session.connection()),
            states=wanted.state,
            actor=wanted.actor,
            queue=wanted.queue,
            since=wanted.since,
            cursor=wanted.cursor,
            limit=wanted.limit,
        )
    return TaskPage(items=[TaskItem.model_validate(each) for each in found], next_cursor=next_cursor)


@routes.get("/{task_id}")
def read_task(request: Request, session: Db, _principal: ReaderRole, task_id: UUID) -> TaskDetail:
    """A task with its attempts."""
    with session.begin():
        return _detail(driver_connection(session.connection()), _ledger(request), task_id)


@routes.post("/{task_id}/retry")
def retry_task(request: Request, session: Db, principal: Admin, task_id: UUID) -> TaskDetail:
    """A dead, cancelled or waiting-for-retry task is due at once: same id, its attempts kept."""
    ledger = _ledger(request)
    with session.begin():
        connection = driver_connection(session.connection())
        operate.retry(connection, ledger, task_id, who=principal.name)
        answer = _detail(connection, ledger, task_id)
    wake(session)
    return answer


@routes.post("/{task_id}/cancel", responses={202: {"model": TaskDetail, "description": "Requested: it runs."}})
def cancel_task(
    request: Request,
    response: Response,
    session: Db,
    principal: Admin,
    task_id: UUID,
    body: Cancellation | None = None,
) -> TaskDetail:
    """200: it had not started and never will. 202: it runs; it is cancelled unless it succeeds first."""
    ledger = _ledger(request)
    with session.begin():
        connection = driver_connection(session.connection())
        reason = body.reason if body else None
        outcome = operate.cancel(connection, ledger, task_id, who=principal.name, reason=reason)
        answer = _detail(connection, ledger, task_id)
    response.status_code = status.HTTP_200_OK if outcome == "cancelled" else status.HTTP_202_ACCEPTED
    return answer


@routes.post("/{task_id}/reschedule")
def reschedule_task(request: Request, session: Db, principal: Admin, task_id: UUID, body: NewTime) -> TaskDetail:
    """A task that has not started runs at another time."""
    ledger = _ledger(request)
    delay = None if body.delay_seconds is None else timedelta(seconds=body.delay_seconds)
    with session.begin():
        connection = driver_connection(session.connection())
        operate.reschedule(connection, ledger, task_id, who=principal.name, run_at=body.run_at, delay=delay)
        answer = _detail(connection, ledger, task_id)
    wake(session)
    return answer


def _ledger(request: Request) -> Ledger:
    return Ledger(request.app.state.settings.outbox_schema)


def _detail(connection: Conn, ledger: Ledger, task_id: UUID) -> TaskDetail:
    found = Reader(ledger.schema).task(connection, task_id)
    if found is None:
        raise TaskNotFound
    return TaskDetail.model_validate(found)


@contextmanager
def _cursor_checked() -> Iterator[None]:
    try:
        yield
    except ArgumentError:
        wrong = Violation("query/cursor", "must be next_cursor of the page before, unchanged")
        raise Problem("invalid", "Nothing was read: see errors.", errors=[wrong]) from None
