"""Failures by their kind: how many tasks, of which actors, since when, and one of them to look at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from outbox.errors import ArgumentError, TookTooLong
from outbox.failures import FailureGroup, Failures
from service.access import Reader
from service.bodies import StrictRoute
from service.database import Db, driver_connection
from service.fields import Instant, OrEmpty
from service.problems import Problem
from service.violations import Violation

__all__ = ["routes"]

routes = APIRouter(prefix="/v1/failures", tags=["tasks"], route_class=StrictRoute)


class FailureItem(BaseModel):
    """Dead and retrying tasks whose last attempt failed in the same way: the same exception, place and words, whatever the values.
    `query`: its tasks. `hours`: how many in each of the last 24 hours, the latest last. `example`: the task that failed last."""

    failure: str
    error: str
    actors: list[str]
    count: Annotated[int, Field(description="Exact up to 10,000 tasks looked at.")]
    at_least: bool
    dead: int
    retrying: int
    first_at: datetime
    last_at: datetime
    hours: list[int]
    example: UUID
    query: str


class FailureDetail(FailureItem):
    """A kind of failure with the traceback of its example, and what that logged last."""

    traceback: str | None
    logs: str | None


class FailureList(BaseModel):
    """Kinds of failure, the largest first."""

    items: list[FailureItem]


class FailureFilter(BaseModel):
    """What to list. `since`: what failed since then; without it, all that is there."""

    model_config = ConfigDict(extra="forbid")

    since: Annotated[Instant | None, OrEmpty] = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50


@routes.get("")
def list_failures(
    request: Request, session: Db, _principal: Reader, wanted: Annotated[FailureFilter, Query()]
) -> FailureList:
    """What fails, by its kind, the largest first."""
    with session.begin(), _quick("query/since"):
        connection = driver_connection(session.connection())
        found = _failures(request).groups(connection, since=wanted.since, limit=wanted.limit)
    return FailureList(items=[FailureItem(**_shown(each)) for each in found])


@routes.get("/{failure}")
def read_failure(request: Request, session: Db, _principal: Reader, failure: str) -> FailureDetail:
    """One kind, with the traceback of an example."""
    with session.begin(), _quick("path/failure"):
        try:
            found = _failures(request).group(driver_connection(session.connection()), failure)
        except ArgumentError:
            found = None
    if found is None:
        raise Problem("not-found", "No dead or retrying task has failed like this.")
    return FailureDetail(**_shown(found), traceback=found.traceback, logs=found.logs)


def _failures(request: Request) -> Failures:
    return Failures(request.app.state.settings.outbox_schema)


def _shown(group: FailureGroup) -> dict[str, Any]:
    given = ("failure", "error", "actors", "dead", "retrying", "first_at", "last_at", "hours", "example", "query")
    return {name: getattr(group, name) for name in given} | {
        "count": group.count.number,
        "at_least": group.count.at_least,
    }


@contextmanager
def _quick(pointer: str) -> Iterator[None]:
    try:
        yield
    except TookTooLong as error:
        raise Problem("invalid", "Nothing was read: see errors.", errors=[Violation(pointer, str(error))]) from None
