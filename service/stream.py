"""`GET /v1/tasks/{id}/stream`: a task's way, told as it goes, as Server-Sent Events."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from time import monotonic
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent

from outbox.reads import Standing
from outbox.redaction import redacted_view
from service.access import Reader as ReaderRole
from service.bodies import StrictRoute
from service.problems import Problem
from service.tasks import TaskItem
from service.watch import Watch, has_ended

__all__ = ["TaskNow", "routes"]

COMMENT = timedelta(seconds=5)
LONGEST = timedelta(seconds=60)
RETRY_MILLISECONDS = 1000

routes = APIRouter(prefix="/v1/tasks", tags=["tasks"], route_class=StrictRoute)


class TaskNow(TaskItem):
    """A task as it stands, and how many of its attempts have ended."""

    attempts: int


async def _followed(request: Request, _principal: ReaderRole, task_id: UUID) -> AsyncIterator[Watch]:
    """Before the stream begins, while the answer can still be a problem."""
    watch: Watch = request.app.state.watch
    if watch.full:
        raise Problem("too-many", "As many tasks are followed as may be at once.", headers={"Retry-After": "5"})
    with watch.follow(task_id):
        await watch.first(task_id)
        yield watch


LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID", max_length=64, description="The `id` of the last frame that arrived; it is not repeated."
    ),
]


@routes.get(
    "/{task_id}/stream",
    response_class=EventSourceResponse,
    responses={200: {"description": "The task as it stands, and then whatever becomes of it."}},
)
async def stream_task(
    watch: Annotated[Watch, Depends(_followed)], task_id: UUID, last_event_id: LastEventId = None
) -> AsyncIterator[ServerSentEvent]:
    """Follow a task. A frame `task` whenever something has changed, looked for twice a second, and a comment every five
    seconds. When the task has ended a frame `end`, and the stream closes; it closes after a minute too: send the `id` of
    the last frame as `Last-Event-ID`, as an EventSource does by itself, and it goes on without repeating."""
    told, began, spoke = last_event_id, monotonic(), monotonic()
    while not watch.closed and monotonic() - began < LONGEST.total_seconds():
        standing = watch.standing(task_id)
        frame = _frame(standing)
        if frame.id != told:
            yield frame
            told = frame.id
        if has_ended(standing):
            yield ServerSentEvent(event="end", data={"state": standing.task.state}, id=told)
            return
        if monotonic() - spoke >= COMMENT.total_seconds():
            yield ServerSentEvent(comment=_comment(watch))
            spoke = monotonic()
        await watch.news(COMMENT)
    yield ServerSentEvent(retry=RETRY_MILLISECONDS)


def _frame(standing: Standing) -> ServerSentEvent:
    item = TaskItem.model_validate(redacted_view(standing.task))
    content = TaskNow(**item.model_dump(), attempts=standing.attempts).model_dump_json()
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    return ServerSentEvent(event="task", raw_data=content, id=digest)


def _comment(watch: Watch) -> str:
    return "the database cannot be reached just now" if watch.away else "nothing new"
