"""Deliver again what an endpoint missed: a walk over the bodies of all events, a page a task.

A page commits its deliveries, how far the walk is, and the next page's task together: whatever dies on the way, no
event is left out and none goes twice. Only ids are read here, never a body.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, cast
from uuid import UUID

import dramatiq
from sqlalchemy import Row, Select, func, select, text, tuple_
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from actors import outside
from actors.tables import Endpoint, Payload, Replay
from actors.webhooks.event_types import matching_patterns
from actors.webhooks.lanes import key_of
from actors.webhooks.outbound import TEST_EVENT
from actors.webhooks.resend import Which, resend
from outbox import Snooze, Task, current_run, enqueue
from outbox.enqueue import ledger_of

__all__ = ["Started", "abort_replay", "replay_page", "start_replay"]

#: Events that a page looks at.
_PAGE = 100
#: With so many deliveries to the endpoint unfinished, a replay waits: what happens now is not buried under the past.
_ENOUGH = 1000


class Started(NamedTuple):
    """A replay, and the task of its first page."""

    replay: Replay
    task: Task


def start_replay(
    session: Session,
    endpoint: Endpoint,
    *,
    since: datetime,
    until: datetime | None = None,
    event_types: Sequence[str] | None = None,
    which: Which = "missed",
    who: str,
) -> Started:
    """Replay, once the session's transaction commits, what was published from `since` on and before `until`: now, at
    the latest. `event_types` narrows what the endpoint subscribed to. What is past its retention is not replayed."""
    now = session.scalars(select(func.clock_timestamp())).one()
    replay = Replay(
        id=uuid7(),
        endpoint_id=endpoint.id,
        since=max(since, now - _retention()),
        until=min(until or now, now),
        event_types=None if event_types is None else list(event_types),
        which=which,
        status="running",
        seen=0,
        enqueued=0,
        who=who,
        created_at=now,
    )
    session.add(replay)
    return Started(replay, enqueue(session, replay_page.message(str(replay.id))))


def abort_replay(replay: Replay, *, reason: str) -> None:
    """No further page. What has been enqueued goes on."""
    _end(replay, "aborted")
    replay.reason = reason


@dramatiq.actor(queue_name="default", max_retries=20, min_backoff=1_000, max_backoff=3_600_000, time_limit=5 * 60_000)
def replay_page(replay_id: str) -> None:
    """One page; the next one is a task of its own, which exists if and only if this one is done."""
    session = current_run().session()
    total = _counted(session, UUID(replay_id))
    endpoint = session.scalars(_locked_endpoint(UUID(replay_id))).one_or_none()
    replay = session.get(Replay, UUID(replay_id), with_for_update=True)
    if endpoint is None or replay is None or replay.status != "running":
        return
    if not endpoint.enabled or endpoint.deleted_at is not None:
        abort_replay(replay, reason="the endpoint was disabled")
        return
    _wait_for_room(session, endpoint)
    if replay.total is None:
        _check_settled(session, replay)
        replay.total = total
    page = session.execute(_page_of(replay)).all()
    replay.seen += len(page)
    replay.enqueued += len(resend(session, endpoint, _matching(page, endpoint, replay), which=_which(replay)))
    if len(page) == _PAGE:
        replay.after_at, replay.after_id = page[-1].created_at, page[-1].event_id
        enqueue(session, replay_page.message(replay_id))
    else:
        _end(replay, "done")
        _forgive(endpoint, replay)


def _locked_endpoint(replay_id: UUID) -> Select[Endpoint]:
    """One page at a time of all replays of an endpoint; events go on being delivered to it meanwhile."""
    of_it = select(Replay.endpoint_id).where(Replay.id == replay_id).scalar_subquery()
    return select(Endpoint).where(Endpoint.id == of_it).with_for_update(key_share=True)


def _wait_for_room(session: Session, endpoint: Endpoint) -> None:
    options = {"schema_translate_map": {"outbox": ledger_of(session).schema}}
    lanes = [f"{kind}/{key_of(endpoint.id)}" for kind in ("limit", "order")]
    unfinished = sum(
        session.scalars(
            select(func.count()).select_from(
                select(Task.id).where(Task.lane.in_(lanes)).where(waiting).limit(_ENOUGH).subquery()
            ),
            execution_options=options,
        ).one()
        for waiting in (Task.state == "waiting", Task.state != "waiting")  # an index each
    )
    if unfinished >= _ENOUGH:
        raise _not_now("many deliveries to the endpoint are unfinished")


def _counted(session: Session, replay_id: UUID) -> int | None:
    """How many events it will see, for its first page. Nobody waits meanwhile: nothing is locked yet."""
    replay = session.get(Replay, replay_id)
    if replay is None or replay.total is not None:
        return None
    return session.scalars(select(func.count()).select_from(_walk(replay).subquery())).one()


def _check_settled(session: Session, replay: Replay) -> None:
    """Every event that was being published when the replay was made must be seen, or known to be rolled back."""
    settled = text(
        "select age(xmin) > age(pg_snapshot_xmin(pg_current_snapshot())::xid) from app.replay where id = :id"
    )
    if not session.execute(settled, {"id": replay.id}).scalar_one():
        raise _not_now("a transaction older than the replay is open")


def _not_now(why: str) -> Snooze:
    """Looks again in a second, then in two, four … about a minute."""
    return Snooze(timedelta(seconds=2 ** min(current_run().attempt - 1, 6)), why)


def _walk(replay: Replay) -> Select[UUID, str, datetime]:
    """All of its events; none whose deliveries may be past their retention: what arrived then is no longer known."""
    return (
        select(Payload.event_id, Payload.event_type, Payload.created_at)
        .where(Payload.created_at >= replay.since)
        .where(Payload.created_at < replay.until)
        .where(Payload.created_at > func.clock_timestamp() - _retention())
    )


def _page_of(replay: Replay) -> Select[UUID, str, datetime]:
    page = _walk(replay).order_by(Payload.created_at, Payload.event_id).limit(_PAGE)
    if replay.after_at is None:
        return page
    return page.where(tuple_(Payload.created_at, Payload.event_id) > tuple_(replay.after_at, replay.after_id))


def _matching(page: Sequence[Row[UUID, str, datetime]], endpoint: Endpoint, replay: Replay) -> dict[UUID, str]:
    """Those that the endpoint subscribed to, and the replay is about. Test events are nobody else's."""
    subscribed = set(endpoint.event_types)
    wanted = subscribed if replay.event_types is None else set(replay.event_types)
    return {
        event_id: event_type
        for event_id, event_type, _ in page
        if event_type != TEST_EVENT
        and not subscribed.isdisjoint(fitting := matching_patterns(event_type))
        and not wanted.isdisjoint(fitting)
    }


def _which(replay: Replay) -> Which:
    return cast(Which, replay.which)


def _end(replay: Replay, status: str) -> None:
    replay.status, replay.ended_at = status, func.clock_timestamp()


def _forgive(endpoint: Endpoint, replay: Replay) -> None:
    """What the endpoint missed begins where this ended, or is nothing, if this was about all of it."""
    if endpoint.missed_since is None or replay.event_types is not None or replay.which == "failed":
        return
    if endpoint.updated_at > replay.created_at:
        # It may have been disabled and enabled again: then what this enqueued, however old, ended as missed.
        return
    if (
        replay.since <= max(endpoint.missed_since, replay.created_at - _retention())
        and endpoint.missed_since < replay.until
    ):
        endpoint.missed_since = None if replay.until == replay.created_at else replay.until


def _retention() -> timedelta:
    return timedelta(days=outside.settings().webhook_days)
