"""What there is to know beside the tasks: who lives, what was done, what people did, and what needs attention."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from outbox.attention import Severity, attention
from outbox.reads import AuditLine, Reader
from outbox.redaction import usual
from service.access import Reader as ReaderRole
from service.bodies import StrictRoute
from service.database import Db, driver_connection
from service.fields import Instant, Line, OrEmpty
from service.panels.concerns import concerns
from service.spans import Seconds

__all__ = ["AuditItem", "ConcernItem", "ProcessItem", "StatsView", "routes"]

routes = APIRouter(prefix="/v1", tags=["insight"], route_class=StrictRoute)

HOUR = timedelta(hours=1)


class ProcessItem(BaseModel):
    """A process with a row: worker, relay or scheduler. `silent`: since its last heartbeat; `running`: tasks that it runs."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    kind: str
    host: str
    pid: int
    queues: list[str]
    threads: int
    started_at: datetime
    beat_at: datetime
    silent: Seconds
    lease: Seconds
    alive: bool
    held: int
    running: list[UUID]


class ProcessList(BaseModel):
    """Every process, by kind, the longest living first."""

    items: list[ProcessItem]


class AuditItem(BaseModel):
    """What somebody did, to what. `subject`: a task's id, `queue/NAME`, `schedule/NAME`, `bulk/ID`."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    at: datetime
    who: str
    action: str
    subject: str
    detail: dict[str, Any]


class AuditPage(BaseModel):
    """A page of the audit, the newest first. `next_cursor` asks for the next page; null at the end."""

    items: list[AuditItem]
    next_cursor: str | None


class AuditFilter(BaseModel):
    """What to list: all that is given must hold, each as a whole."""

    model_config = ConfigDict(extra="forbid")

    who: Annotated[Annotated[Line, Field(max_length=255)] | None, OrEmpty] = None
    action: Annotated[Annotated[Line, Field(max_length=255, examples=["retry"])] | None, OrEmpty] = None
    subject: Annotated[Annotated[Line, Field(max_length=512, examples=["queue/mail"])] | None, OrEmpty] = None
    cursor: Annotated[Annotated[str, Field(pattern="^[0-9]{1,18}$")] | None, OrEmpty] = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50


class ActorStats(BaseModel):
    """What ended. Durations are of runs that succeeded, from start to end; null without any. The total's actor is empty."""

    model_config = ConfigDict(from_attributes=True)

    actor: str
    succeeded: int
    dead: int
    cancelled: int
    failures: int
    p50: Seconds | None
    p95: Seconds | None


class StatsView(BaseModel):
    """Figures from `since` to `until`; `per_minute`: tasks that ended."""

    model_config = ConfigDict(from_attributes=True)

    since: datetime
    until: datetime
    per_minute: float
    total: ActorStats
    actors: list[ActorStats]


class Since(BaseModel):
    """From when on; without it, the last hour."""

    model_config = ConfigDict(extra="forbid")

    since: Instant | None = None


class ConcernItem(BaseModel):
    """Something that is not as it should be. `mend`: the command or act that ends it; `runbook`: the section of the runbooks;
    `query`: the tasks that it is about; `subject`: the queue, schedule, process or endpoint."""

    model_config = ConfigDict(from_attributes=True)

    cause: str
    told: str
    severity: Severity
    runbook: str
    since: datetime | None
    mend: str | None
    query: str | None
    subject: str | None


class Attention(BaseModel):
    """Every concern, the serious ones first. None: all is clear."""

    items: list[ConcernItem]


@routes.get("/processes")
def list_processes(request: Request, session: Db, _principal: ReaderRole) -> ProcessList:
    """Workers, relays and schedulers, their heartbeats, and what they run."""
    with session.begin():
        found = _reader(request).workers(driver_connection(session.connection()))
    return ProcessList(items=[ProcessItem.model_validate(each) for each in found])


@routes.get("/audit")
def list_audit(
    request: Request, session: Db, _principal: ReaderRole, wanted: Annotated[AuditFilter, Query()]
) -> AuditPage:
    """What people did, the newest first, a page at a time."""
    with session.begin():
        connection = driver_connection(session.connection())
        found, next_cursor = _reader(request).audit(connection, **wanted.model_dump())
    return AuditPage(items=[_line(each) for each in found], next_cursor=next_cursor)


@routes.get("/stats")
def read_stats(request: Request, session: Db, _principal: ReaderRole, wanted: Annotated[Since, Query()]) -> StatsView:
    """What ended since then, in all and by actor."""
    reader = _reader(request)
    with session.begin():
        connection = driver_connection(session.connection())
        since = wanted.since or reader.now(connection) - HOUR
        return StatsView.model_validate(reader.stats(connection, since))


@routes.get("/attention")
def read_attention(request: Request, session: Db, _principal: ReaderRole) -> Attention:
    """What needs attention now, each with what mends it."""
    schema = request.app.state.settings.outbox_schema
    with session.begin():
        found = attention(driver_connection(session.connection()), schema=schema, others=[concerns])
    return Attention(items=[ConcernItem.model_validate(each) for each in found])


def _reader(request: Request) -> Reader:
    return Reader(request.app.state.settings.outbox_schema)


def _line(line: AuditLine) -> AuditItem:
    item = AuditItem.model_validate(line)
    return item.model_copy(update={"detail": usual().value(item.detail)})
