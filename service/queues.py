"""Queues: how much waits where, and for how long; the switch that stops one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from outbox import operate
from outbox.errors import WrongState
from outbox.ledger import Ledger
from outbox.operate import QueueNotFound
from outbox.query import PublicState
from outbox.reads import Reader
from outbox.wake import wake
from service.access import Operator
from service.access import Reader as ReaderRole
from service.bodies import StrictRoute
from service.database import Db, driver_connection
from service.fields import Line
from service.problems import Problem
from service.spans import Seconds

__all__ = ["Counted", "QueueItem", "routes"]

routes = APIRouter(prefix="/v1/queues", tags=["queues"], route_class=StrictRoute)

#: Any name that a queue can have, percent-encoded in the path; a slash may stand as it is.
Name = Annotated[Line, Field(max_length=255)]


class Counted(BaseModel):
    """How many. `at_least`: counting stopped there, there are more."""

    model_config = ConfigDict(from_attributes=True)

    number: int
    at_least: bool


class QueueItem(BaseModel):
    """A queue: its unfinished tasks by state, and for how long the oldest due one has waited for the relay."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    paused: bool
    paused_by: str | None
    paused_at: datetime | None
    epoch: int
    workers: int
    oldest_due: Seconds | None
    counts: dict[PublicState, Counted]


class QueueList(BaseModel):
    """Every queue, by name."""

    items: list[QueueItem]


class QueueSwitched(BaseModel):
    """Whether it stands still now. `taken_back`: published tasks that wait again, of a queue that was just paused."""

    queue: str
    paused: bool
    taken_back: int


@routes.get("")
def list_queues(request: Request, session: Db, _principal: ReaderRole) -> QueueList:
    """Every queue that is registered, has unfinished tasks, or is listened to."""
    with session.begin():
        found = Reader(_ledger(request).schema).queues(driver_connection(session.connection()))
    return QueueList(items=[QueueItem.model_validate(each) for each in found])


@routes.post("/{name:path}/pause")
def pause_queue(request: Request, session: Db, principal: Operator, name: Name) -> QueueSwitched:
    """Nothing of this queue starts any more until it is resumed, across restarts of everything. What runs, ends."""
    with session.begin(), _known():
        connection = driver_connection(session.connection())
        taken_back = operate.pause_queue(connection, _ledger(request), name, who=principal.name)
    return QueueSwitched(queue=name, paused=True, taken_back=taken_back)


@routes.post("/{name:path}/resume")
def resume_queue(request: Request, session: Db, principal: Operator, name: Name) -> QueueSwitched:
    """The queue's tasks start again."""
    with session.begin(), _known():
        operate.resume_queue(driver_connection(session.connection()), _ledger(request), name, who=principal.name)
    wake(session)
    return QueueSwitched(queue=name, paused=False, taken_back=0)


def _ledger(request: Request) -> Ledger:
    return Ledger(request.app.state.settings.outbox_schema)


@contextmanager
def _known() -> Iterator[None]:
    try:
        yield
    except QueueNotFound:
        raise Problem("not-found", "No queue has this name.") from None
    except WrongState as error:
        raise Problem("conflict", f"The queue {error.why}") from None
