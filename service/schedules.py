"""Schedules: what became of their fires and when the next ones are; run one now, pause, resume."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from outbox import cron
from outbox.cron import ScheduleNotFound, next_fires
from outbox.errors import WrongState
from outbox.ledger import Conn, Ledger
from outbox.reads import Reader, ScheduleView
from outbox.wake import wake
from service.access import Operator
from service.access import Reader as ReaderRole
from service.bodies import StrictRoute
from service.database import Db, driver_connection
from service.fields import Line
from service.idempotency import OperatorOnce
from service.problems import Problem

__all__ = ["FireItem", "ScheduleDetail", "ScheduleItem", "routes"]

routes = APIRouter(prefix="/v1/schedules", tags=["schedules"], route_class=StrictRoute)

#: Any name that a schedule can have, percent-encoded in the path; a slash may stand as it is.
Name = Annotated[Line, Field(max_length=255)]


class ScheduleItem(BaseModel):
    """A cron schedule, its last fire and its next; none while it is paused or retired."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    actor: str
    queue: str
    cron: str
    zone: str
    missed: Literal["all", "last", "none"]
    missed_limit: int
    paused: bool
    retired: bool
    declared_at: datetime
    fired_through: datetime
    last_fire_at: datetime | None
    last_outcome: str | None
    last_task_id: UUID | None
    next_fire_at: datetime | None


class FireItem(BaseModel):
    """A fire: for when, what became of it, and the task that it made."""

    model_config = ConfigDict(from_attributes=True)

    fire_at: datetime
    outcome: str
    fired_at: datetime
    task_id: UUID | None


class ScheduleDetail(ScheduleItem):
    """A schedule, its next fires, and its last, the newest first."""

    next_fires: list[datetime]
    fires: list[FireItem]


class ScheduleList(BaseModel):
    """Every schedule, by name; those that nobody declares any more at the end."""

    items: list[ScheduleItem]


class ScheduleRun(BaseModel):
    """The task that it made."""

    schedule: str
    task_id: UUID


@routes.get("")
def list_schedules(request: Request, session: Db, _principal: ReaderRole) -> ScheduleList:
    """Every schedule with its last fire and its next."""
    reader = Reader(_ledger(request).schema)
    with session.begin():
        connection = driver_connection(session.connection())
        found, now = reader.schedules(connection), reader.now(connection)
    return ScheduleList(items=[_item(each, now) for each in found])


@routes.get("/{name:path}")
def read_schedule(request: Request, session: Db, _principal: ReaderRole, name: Name) -> ScheduleDetail:
    """A schedule, its next five fires, and its last sixty."""
    with session.begin(), _known():
        return _detail(driver_connection(session.connection()), Reader(_ledger(request).schema), name)


@routes.post("/{name:path}/run", status_code=202, response_model=ScheduleRun)
def run_schedule(request: Request, session: Db, once: OperatorOnce, name: Name) -> Response:
    """Enqueue the schedule's task now, beside its calendar, paused or not."""
    with session.begin(), _known():
        if (known := once.recall(session)) is not None:
            return known
        connection = driver_connection(session.connection())
        task_id = cron.run_now(connection, _ledger(request), name, who=once.principal.name)
        answer = once.keep(session, 202, ScheduleRun(schedule=name, task_id=task_id))
    wake(session)
    return answer


@routes.post("/{name:path}/pause")
def pause_schedule(request: Request, session: Db, principal: Operator, name: Name) -> ScheduleDetail:
    """It fires no more, until it is resumed. What it has enqueued is not touched."""
    ledger = _ledger(request)
    with session.begin(), _known():
        connection = driver_connection(session.connection())
        cron.pause(connection, ledger, name, who=principal.name)
        return _detail(connection, Reader(ledger.schema), name)


@routes.post("/{name:path}/resume")
def resume_schedule(request: Request, session: Db, principal: Operator, name: Name) -> ScheduleDetail:
    """It fires again, from now on: what was due while it was paused does not count as missed."""
    ledger = _ledger(request)
    with session.begin(), _known():
        connection = driver_connection(session.connection())
        cron.resume(connection, ledger, name, who=principal.name)
        return _detail(connection, Reader(ledger.schema), name)


def _ledger(request: Request) -> Ledger:
    return Ledger(request.app.state.settings.outbox_schema)


def _detail(connection: Conn, reader: Reader, name: str) -> ScheduleDetail:
    found = next((each for each in reader.schedules(connection) if each.name == name), None)
    if found is None:
        raise ScheduleNotFound
    now, fires = reader.now(connection), reader.fires(connection, name)
    item = _item(found, now).model_dump()
    following = next_fires(found, now)
    return ScheduleDetail(**item, next_fires=following, fires=[FireItem.model_validate(each) for each in fires])


def _item(schedule: ScheduleView, now: datetime) -> ScheduleItem:
    told = {name: getattr(schedule, name) for name in schedule.__slots__}
    return ScheduleItem(**told, next_fire_at=next(iter(next_fires(schedule, now, count=1)), None))


@contextmanager
def _known() -> Iterator[None]:
    try:
        yield
    except ScheduleNotFound:
        raise Problem("not-found", "No schedule of this name was ever declared.") from None
    except WrongState as error:
        raise Problem("conflict", f"The schedule {error.why}") from None
