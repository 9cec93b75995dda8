"""Replays: what an endpoint missed since a time is delivered to it again, a page after the other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import select
from sqlalchemy.orm import Session

from actors import webhooks
from actors.tables import Replay
from actors.webhooks import Which
from outbox.ledger import Ledger
from service.access import Admin, Reader
from service.bodies import StrictRoute
from service.database import Db, Tasks, driver_connection
from service.endpoints import PageWanted, Patterns, find
from service.fields import Form, Instant, refused
from service.idempotency import AdminOnce
from service.problems import Problem

__all__ = ["routes"]

routes = APIRouter(prefix="/v1", tags=["endpoints"], route_class=StrictRoute)

#: A caller's clock may be ahead of ours.
_AHEAD = timedelta(minutes=5)


class NewReplay(Form):
    """What was published from `since` on and before `until` (now, if not given), of the types that the endpoint
    subscribed to or, with `event_types`, of those among them. `which`: `missed` is whatever did not arrive, `failed` only
    what was tried, `all` also what did arrive."""

    since: Instant
    until: Instant | None = None
    event_types: Patterns | None = None
    which: Which = "missed"

    @model_validator(mode="after")
    def _makes_sense(self) -> NewReplay:
        if self.since > datetime.now(UTC) + _AHEAD:
            raise refused("since must not lie in the future")
        if self.until is not None and self.until <= self.since:
            raise refused("until must lie after since")
        return self


class ReplayView(BaseModel):
    """A replay and how far it is: of `total` events of its period it has `seen` so many, and `enqueued` a delivery for
    those that were wanted. `since` is not before the retention of events; `reason` says why it was aborted."""

    model_config = ConfigDict(from_attributes=True, populate_by_name=True)

    replay_id: Annotated[UUID, Field(validation_alias="id")]
    endpoint_id: UUID
    status: Literal["running", "done", "aborted"]
    which: Which
    event_types: list[str] | None
    since: datetime
    until: datetime
    seen: int
    enqueued: int
    total: int | None
    reason: str | None
    who: str
    created_at: datetime
    ended_at: datetime | None


class ReplayStarted(ReplayView):
    """The replay, and the task of its first page."""

    task_ids: list[UUID]


class ReplayPage(BaseModel):
    """A page of replays, the newest first. `next_cursor` asks for the next page; null at the end."""

    items: list[ReplayView]
    next_cursor: UUID | None


@routes.post("/endpoints/{endpoint_id}/replay", status_code=202, response_model=ReplayStarted)
def replay_missed(
    request: Request, session: Db, _tasks: Tasks, once: AdminOnce, endpoint_id: UUID, body: NewReplay
) -> Response:
    """Deliver again what did not arrive here: what died, under its id of that time, and what was never sent here. What is
    under way is left alone. It goes on by itself, at the pace of the endpoint, however much there is."""
    with session.begin():
        if (known := once.recall(session)) is not None:
            return known
        endpoint = find(session, endpoint_id, locked=True)
        if not endpoint.enabled:
            raise Problem("conflict", "The endpoint is disabled.")
        replay, task = webhooks.start_replay(
            session, endpoint, since=body.since, until=body.until, event_types=body.event_types, which=body.which,
            who=once.principal.name,
        )  # fmt: skip
        _audit(request, session, "replay", replay, who=once.principal.name)
        started = ReplayStarted(**_view(session, replay).model_dump(), task_ids=[task.id])
        return once.keep(session, 202, started)


@routes.get("/endpoints/{endpoint_id}/replays")
def list_replays(
    session: Db, _principal: Reader, endpoint_id: UUID, wanted: Annotated[PageWanted, Query()]
) -> ReplayPage:
    """The replays of this endpoint: the newest first, a page at a time."""
    query = select(Replay).where(Replay.endpoint_id == endpoint_id).order_by(Replay.id.desc())
    if wanted.cursor is not None:
        query = query.where(Replay.id < wanted.cursor)
    with session.begin():
        find(session, endpoint_id)
        found = [ReplayView.model_validate(each) for each in session.scalars(query.limit(wanted.limit + 1))]
    page = found[: wanted.limit]
    return ReplayPage(items=page, next_cursor=page[-1].replay_id if len(found) > wanted.limit else None)


@routes.get("/replays/{replay_id}")
def read_replay(session: Db, _principal: Reader, replay_id: UUID) -> ReplayView:
    """A replay and how far it is."""
    with session.begin():
        return ReplayView.model_validate(_found(session, replay_id))


@routes.post("/replays/{replay_id}/abort")
def abort_replay(request: Request, session: Db, principal: Admin, replay_id: UUID) -> ReplayView:
    """Enqueue nothing more for it. What it has enqueued goes on; each can be cancelled by its task."""
    with session.begin():
        replay = _found(session, replay_id, locked=True)
        if replay.status != "running":
            raise Problem("conflict", f"The replay is {replay.status}.")
        webhooks.abort_replay(replay, reason=f"aborted by {principal.name}")
        _audit(request, session, "abort replay", replay, who=principal.name)
        return _view(session, replay)


def _found(session: Session, replay_id: UUID, *, locked: bool = False) -> Replay:
    replay = session.get(Replay, replay_id, with_for_update=locked or None)
    if replay is None:
        raise Problem("not-found", "No replay has this id: it never was, or its retention is over.")
    return replay


def _audit(request: Request, session: Session, action: str, replay: Replay, *, who: str) -> None:
    ledger, connection = Ledger(request.app.state.settings.outbox_schema), driver_connection(session.connection())
    ledger.audit(connection, who=who, action=action, subject=f"endpoint/{replay.endpoint_id}", replay=replay.id)


def _view(session: Session, replay: Replay) -> ReplayView:
    session.flush()
    session.refresh(replay)
    return ReplayView.model_validate(replay)
