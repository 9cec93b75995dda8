"""Acts on many tasks: begun here, carried out by a relay, looked at and aborted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from outbox import bulk, query
from outbox.bulk import FASTEST, Action, Bulk, BulkNotFound, Bulks
from outbox.errors import ArgumentError, TookTooLong, WrongState
from outbox.ledger import Ledger
from outbox.query import PublicState, QueryError
from outbox.redaction import redacted_view
from service.access import Operator
from service.bodies import StrictRoute
from service.database import Db, driver_connection
from service.endpoints import PageWanted
from service.fields import Form, Instant, Line, refused
from service.idempotency import OperatorOnce
from service.problems import Problem
from service.tasks import EXAMPLE, Q, TaskItem
from service.violations import Violation

__all__ = ["routes"]

routes = APIRouter(prefix="/v1/bulk-actions", tags=["tasks"], route_class=StrictRoute)


def _when(schema: dict[str, Any]) -> None:
    """A reschedule says when, in one of two ways; the other acts do not."""
    fields, nothing = schema.pop("properties"), {"type": "null"}
    run_at, delay = (fields[name]["anyOf"][0] for name in ("run_at", "delay_seconds"))
    move = {"action": {"const": "reschedule"}}
    told: list[tuple[dict[str, Any], list[str]]] = [
        ({"action": {"enum": ["retry", "cancel"]}, "run_at": nothing, "delay_seconds": nothing}, []),
        ({**move, "run_at": run_at, "delay_seconds": nothing}, ["run_at"]),
        ({**move, "run_at": nothing, "delay_seconds": delay}, ["delay_seconds"]),
    ]
    required, more = schema.pop("required"), schema.pop("additionalProperties")
    schema["oneOf"] = [
        {
            "type": "object",
            "required": [*required, *needed],
            "properties": {**fields, **own},
            "additionalProperties": more,
        }
        for own, needed in told
    ]


class NewBulkAction(Form):
    """What is done to all tasks that the query fits now. Unless it names states, `retry` is meant for the dead, `cancel` for the
    unfinished, `reschedule` (to `run_at`, or `delay_seconds` from now) for the scheduled and retrying ones. `rate`: tasks a second.
    `dry_run`: say what it would meet, and do nothing. A query that leaves nothing out needs `everything`."""

    model_config = ConfigDict(json_schema_extra=_when)

    action: Action
    query: Annotated[str, Field(max_length=2000, description=Q, examples=[EXAMPLE])]
    reason: Annotated[Line, Field(max_length=500)] | None = None
    run_at: Instant | None = None
    delay_seconds: Annotated[int, Field(ge=0, le=366 * 86_400)] | None = None
    rate: Annotated[int, Field(ge=1, le=FASTEST)] | None = None
    dry_run: bool = False
    everything: bool = False

    @model_validator(mode="after")
    def _one_time(self) -> NewBulkAction:
        times = (self.run_at is not None) + (self.delay_seconds is not None)
        if times != (self.action == "reschedule"):
            raise refused("reschedule needs either run_at or delay_seconds, the other acts take neither")
        return self


class BulkActionView(BaseModel):
    """An act and how far it is: of about `matched` tasks it has met `done` and `refused`, those to which nothing could be done.
    `query` is the line that was frozen when it began; `error` says why it failed."""

    bulk_id: UUID
    action: Action
    query: str
    state: Literal["running", "done", "aborted", "failed"]
    matched: int
    matched_at_least: Annotated[bool, Field(description="Counting stopped there: there are more.")]
    done: int
    refused: int
    error: str | None
    who: str
    reason: str | None
    due_at: datetime | None
    rate: int | None
    created_at: datetime
    finished_at: datetime | None


class BulkPreview(BaseModel):
    """What it would meet now: how many tasks, in which states, and the newest of them."""

    query: str
    states: list[PublicState]
    matched: int
    matched_at_least: bool
    sample: list[TaskItem]


class BulkActionPage(BaseModel):
    """A page of acts, the newest first. `next_cursor` asks for the next page; null at the end."""

    items: list[BulkActionView]
    next_cursor: UUID | None


@routes.post(
    "",
    status_code=202,
    response_model=BulkActionView,
    responses={200: {"model": BulkPreview, "description": "A dry run: what it would meet. Nothing was done."}},
)
def begin_bulk_action(request: Request, session: Db, once: OperatorOnce, body: NewBulkAction) -> Response:
    """Do it to all tasks that the query fits, in the background: each is met once, with its own line in the audit, whatever dies
    meanwhile. Tasks that are made later are not touched."""
    ledger, wanted = _ledger(request), _query_of(body)
    with session.begin(), _search_checked():
        connection = driver_connection(session.connection())
        if body.dry_run:
            seen = bulk.preview(connection, body.action, wanted, schema=ledger.schema)
            return Response(_preview(seen).model_dump_json(), media_type="application/json")
        if (known := once.recall(session)) is not None:
            return _located(known)
        begun = bulk.begin(
            connection, ledger, action=body.action, query=wanted, who=once.principal.name, reason=body.reason,
            run_at=body.run_at, delay=_span(body.delay_seconds), rate=body.rate, everything=body.everything,
        )  # fmt: skip
        return _located(once.keep(session, 202, _view(begun)))


@routes.get("")
def list_bulk_actions(
    request: Request, session: Db, _principal: Operator, wanted: Annotated[PageWanted, Query()]
) -> BulkActionPage:
    """Acts on many tasks: the newest first, a page at a time."""
    with session.begin():
        connection = driver_connection(session.connection())
        found = Bulks(_ledger(request).schema).all(connection, before=wanted.cursor, limit=wanted.limit + 1)
    page = found[: wanted.limit]
    return BulkActionPage(
        items=[_view(each) for each in page], next_cursor=page[-1].id if len(found) > wanted.limit else None
    )


@routes.get("/{bulk_id}")
def read_bulk_action(request: Request, session: Db, _principal: Operator, bulk_id: UUID) -> BulkActionView:
    """An act on many tasks, and how far it is."""
    with session.begin(), _known():
        return _view(Bulks(_ledger(request).schema).one(driver_connection(session.connection()), bulk_id))


@routes.post("/{bulk_id}/abort")
def abort_bulk_action(request: Request, session: Db, principal: Operator, bulk_id: UUID) -> BulkActionView:
    """Do nothing more of it. What was done stays done."""
    with session.begin(), _known():
        connection = driver_connection(session.connection())
        return _view(bulk.abort(connection, _ledger(request), bulk_id, who=principal.name))


def _ledger(request: Request) -> Ledger:
    return Ledger(request.app.state.settings.outbox_schema)


def _span(seconds: int | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


def _query_of(body: NewBulkAction) -> query.Query:
    try:
        wanted = query.parse(body.query)
    except QueryError as error:
        raise _refused(f"at character {error.position + 1}: {error.why}") from None
    if not wanted and not body.everything:
        raise _refused("leaves nothing out; with everything it means all")
    return wanted


@contextmanager
def _search_checked() -> Iterator[None]:
    try:
        yield
    except QueryError as error:
        raise _refused(error.why) from None
    except (TookTooLong, ArgumentError) as error:
        raise _refused(str(error)) from None


@contextmanager
def _known() -> Iterator[None]:
    try:
        yield
    except BulkNotFound:
        raise Problem("not-found", "No act on many tasks has this id.") from None
    except WrongState as error:
        raise Problem("conflict", f"The act {error.why}") from None


def _refused(detail: str) -> Problem:
    return Problem("invalid", "Nothing was changed: see errors.", errors=[Violation("/query", detail)])


def _located(answer: Response) -> Response:
    answer.headers["Location"] = f"/v1/bulk-actions/{json.loads(bytes(answer.body))['bulk_id']}"
    return answer


def _view(act: Bulk) -> BulkActionView:
    told = {name: getattr(act, name) for name in BulkActionView.model_fields if name in Bulk.__slots__}
    counted = {"matched": act.matched.number, "matched_at_least": act.matched.at_least}
    return BulkActionView(**{**told, **counted, "bulk_id": act.id})


def _preview(seen: bulk.Preview) -> BulkPreview:
    return BulkPreview(
        query=seen.query,
        states=list(seen.states),
        matched=seen.count.number,
        matched_at_least=seen.count.at_least,
        sample=[TaskItem.model_validate(redacted_view(each)) for each in seen.sample],
    )
