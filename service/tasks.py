"""Tasks: what became of what was promised, and what an operator can do about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response, status
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

import actors
from outbox import operate, query, why
from outbox.encoding import encode
from outbox.errors import ArgumentError, TaskNotFound, TookTooLong
from outbox.ledger import Conn, Ledger
from outbox.query import PublicState, QueryError
from outbox.reads import Reader
from outbox.redaction import redacted_view, usual
from outbox.search import LOOK_BACK
from outbox.wake import wake
from service.access import Operator
from service.access import Reader as ReaderRole
from service.bodies import StrictRoute
from service.database import Db, driver_connection
from service.fields import Cursor, Form, Instant, Line, OrEmpty, refused
from service.idempotency import AdminOnce
from service.problems import Problem
from service.violations import Violation

__all__ = ["routes"]

routes = APIRouter(prefix="/v1/tasks", tags=["tasks"], route_class=StrictRoute)


EXAMPLE = 'actor:send_mail state:dead error:"timed out" since:2h'
Q = (
    "A query, the same as on the command line: terms beside each other, all of which must hold; `state`, `actor` and `queue` "
    f"given more than once mean either. {'; '.join(f'`{key}`: {means}' for key, means in query.KEYS.items())}. Words without "
    "a key are looked for in actor, queue, arguments and error. A text with spaces stands in double quotes. With any filter "
    f"but an id, tasks that succeeded or were cancelled are looked for within {LOOK_BACK.days} days, unless `since` is given."
)
#: Those that the outbox names, and those of the actors.
CAUSES = (
    "; ".join(f"`{cause}`: {means}" for cause, means in why.CAUSES.items())
    + "; `endpoint_disabled`, `endpoint_failing`, `rate_limited`: of its endpoint; `mail_server_away`"
)


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
    trace_id: Annotated[str | None, Field(description="The trace in which it was enqueued, if that was traced.")]


class TaskAttempt(BaseModel):
    """One run that ended. Of one that failed, `failure` names its kind, and `logs` are the last lines that it logged."""

    model_config = ConfigDict(from_attributes=True, extra="forbid")

    run: UUID | None
    worker: UUID | None
    outcome: str
    error: str | None
    traceback: str | None
    started_at: datetime | None
    finished_at: datetime | None
    failure: str | None
    logs: str | None


class TaskWhy(BaseModel):
    """Why it does not run, or that it does. `until`: when that ends by itself; `mend`: the command or act that ends it."""

    model_config = ConfigDict(from_attributes=True, extra="forbid")

    cause: Annotated[str, Field(description=CAUSES, examples=["queue_paused"])]
    told: str
    since: datetime | None
    until: datetime | None
    mend: str | None


class TaskDetail(TaskItem):
    """A task, why it does not run or that it does, and its attempts, the oldest first."""

    why: TaskWhy
    attempts: list[TaskAttempt]


class TaskPage(BaseModel):
    """A page of tasks, the newest first. `next_cursor` asks for the next page; null at the end."""

    items: list[TaskItem]
    next_cursor: str | None


class TaskFilter(BaseModel):
    """What to list: a query, and parameters that are shorthand for some of its terms. All of them must hold."""

    model_config = ConfigDict(extra="forbid")

    q: Annotated[Annotated[str, Field(max_length=2000, description=Q, examples=[EXAMPLE])] | None, OrEmpty] = None
    state: Annotated[list[PublicState] | None, OrEmpty] = None
    actor: Annotated[Annotated[Line, Field(max_length=255)] | None, OrEmpty] = None
    queue: Annotated[Annotated[Line, Field(max_length=255)] | None, OrEmpty] = None
    since: Annotated[Instant | None, OrEmpty] = None
    cursor: Cursor = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50


class Cancellation(Form):
    """Why, for the audit."""

    reason: Annotated[Line, Field(max_length=500)] | None = None


def _storable(value: Any) -> Any:
    try:
        encode([value], {}, actor="", limit=operate.LONGEST)
    except ArgumentError:
        raise refused("must hold neither NUL nor lone surrogates, nor be nested too deeply") from None
    return value


class OtherCall(Form):
    """What the new task is called with: what is left out stays as it was, and so does a value given as `[redacted]`."""

    args: Annotated[list[Any], AfterValidator(_storable)] | None = None
    kwargs: Annotated[dict[str, Any], AfterValidator(_storable)] | None = None


def _one_of_two(schema: dict[str, Any]) -> None:
    """Exactly one of the two is there, and not null; the other one may be null."""
    run_at, delay = (each["anyOf"][0] for each in schema.pop("properties").values())
    nothing = {"type": "null"}
    schema["oneOf"] = [
        {"required": ["run_at"], "properties": {"run_at": run_at, "delay_seconds": nothing}},
        {"required": ["delay_seconds"], "properties": {"run_at": nothing, "delay_seconds": delay}},
    ]
    for each in schema["oneOf"]:
        each.update(type="object", additionalProperties=schema["additionalProperties"])
    del schema["additionalProperties"]


class NewTime(Form):
    """When the task is to run: exactly one of the two."""

    model_config = ConfigDict(json_schema_extra=_one_of_two)

    run_at: Instant | None = None
    delay_seconds: Annotated[int, Field(ge=0, le=366 * 86_400)] | None = None

    @model_validator(mode="after")
    def _one(self) -> NewTime:
        if (self.run_at is None) == (self.delay_seconds is None):
            raise refused("needs either run_at or delay_seconds")
        return self


@routes.get("")
def list_tasks(
    request: Request, session: Db, _principal: ReaderRole, wanted: Annotated[TaskFilter, Query()]
) -> TaskPage:
    """The newest tasks first, a page at a time."""
    reader, wanted_tasks = Reader(request.app.state.settings.outbox_schema), _query_of(wanted)
    with session.begin(), _search_checked():
        connection = driver_connection(session.connection())
        found, next_cursor = reader.tasks(connection, wanted_tasks, cursor=wanted.cursor, limit=wanted.limit)
    return TaskPage(items=[TaskItem.model_validate(redacted_view(each)) for each in found], next_cursor=next_cursor)


@routes.get("/{task_id}")
def read_task(request: Request, session: Db, _principal: ReaderRole, task_id: UUID) -> TaskDetail:
    """A task, why it does not run or that it does, and its attempts, the oldest first."""
    with session.begin():
        return _detail(driver_connection(session.connection()), _ledger(request), task_id)


@routes.post("/{task_id}/retry")
def retry_task(request: Request, session: Db, principal: Operator, task_id: UUID) -> TaskDetail:
    """A task that is dead, cancelled or waits for its next attempt is due at once: same id, its attempts kept."""
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
    principal: Operator,
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
def reschedule_task(request: Request, session: Db, principal: Operator, task_id: UUID, body: NewTime) -> TaskDetail:
    """A task that has not started runs at another time."""
    ledger = _ledger(request)
    delay = None if body.delay_seconds is None else timedelta(seconds=body.delay_seconds)
    with session.begin():
        connection = driver_connection(session.connection())
        operate.reschedule(connection, ledger, task_id, who=principal.name, run_at=body.run_at, delay=delay)
        answer = _detail(connection, ledger, task_id)
    wake(session)
    return answer


@routes.post("/{task_id}/edit", status_code=201, response_model=TaskDetail)
def edit_task(request: Request, session: Db, once: AdminOnce, task_id: UUID, body: OtherCall) -> Response:
    """A new task with other arguments is otherwise what a dead or cancelled one was. The old one stays as it ended."""
    ledger = _ledger(request)
    with session.begin():
        if (known := once.recall(session)) is not None:
            return known
        connection = driver_connection(session.connection())
        with _call_checked():
            new = operate.edit_and_retry(
                connection, ledger, task_id, who=once.principal.name, args=body.args, kwargs=body.kwargs
            )
        answer = once.keep(session, 201, _detail(connection, ledger, new))
    wake(session)
    return answer


@contextmanager
def _call_checked() -> Iterator[None]:
    try:
        yield
    except ArgumentError:
        told = "cannot be kept or carried: a value left as [redacted] must stand where the task shows it so"
        raise Problem("invalid", "Nothing was changed: see errors.", errors=[Violation("body", told)]) from None


def _ledger(request: Request) -> Ledger:
    return Ledger(request.app.state.settings.outbox_schema)


def _detail(connection: Conn, ledger: Ledger, task_id: UUID) -> TaskDetail:
    found = Reader(ledger.schema).task(connection, task_id)
    if found is None:
        raise TaskNotFound
    told = why.explain(connection, found, schema=ledger.schema, others=[actors.explain])
    told = replace(told, told=usual().text(told.told))
    shown = redacted_view(found)
    return TaskDetail.model_validate(
        {**TaskItem.model_validate(shown).model_dump(), "attempts": shown.attempts, "why": told}
    )


def _query_of(wanted: TaskFilter) -> query.Query:
    shorthand = query.Query(
        states=tuple(wanted.state or ()),
        actors=(wanted.actor,) if wanted.actor else (),
        queues=(wanted.queue,) if wanted.queue else (),
        since=wanted.since,
    )
    try:
        return query.parse(wanted.q or "").also(shorthand)
    except QueryError as error:
        raise _refused("query/q", f"at character {error.position + 1}: {error.why}") from None
    except ArgumentError as error:
        raise _refused("query/q", f"together with the other parameters: {error}") from None


@contextmanager
def _search_checked() -> Iterator[None]:
    try:
        yield
    except TookTooLong as error:
        raise _refused("query/q", str(error)) from None
    except ArgumentError:
        raise _refused("query/cursor", "must be next_cursor of the page before, unchanged") from None


def _refused(pointer: str, detail: str) -> Problem:
    return Problem("invalid", "Nothing was read: see errors.", errors=[Violation(pointer, detail)])
