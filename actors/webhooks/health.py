"""How endpoints fare, and the circuit: what would fail anyway waits in PostgreSQL, and one delivery at a time tries.

It is written in the transaction that records an attempt, and locked in one order: endpoint, health, delivery. An
endpoint that is well pays no statement.
"""

import random
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from actors.webhooks.lanes import key_of
from actors.webhooks.outcomes import Refused, Retry
from outbox import free_lane, hold_lane

#: So many failures in a row open the circuit; an endpoint that has as many, for longer than our patience, is disabled.
FAILURES = 10
PATIENCE = timedelta(days=5)
FIRST_PAUSE = timedelta(minutes=1)
LONGEST_PAUSE = timedelta(hours=1)
JITTER = 0.1
#: A failure that took so long held up a thread: until a success only one at a time may.
SLOW = timedelta(seconds=2)


def note_success(session: Session, endpoint_id: UUID) -> None:
    """Its trouble is over: the circuit closes, and the lane has all its places. Only for one that was in trouble."""
    if session.execute(_CLEAR, {"endpoint_id": endpoint_id}).first() is not None:
        free_lane(session, key_of(endpoint_id))


def note_failure(
    session: Session,
    endpoint_id: UUID,
    outcome: Retry | Refused,
    *,
    url: str,
    slow: bool,
    probing: bool,
    draw: random.Random,
) -> bool:
    """One more failure in a row. Answers whether our patience is at an end. Before the delivery's row is changed.

    `url`: the one that failed; of an endpoint that has moved since, or is deleted, it says nothing. `slow`: it held up a
    thread. `probing`: the circuit was open for all others.
    """
    row = session.execute(_COUNT, {"endpoint_id": endpoint_id, "url": url, "patience": PATIENCE}).one_or_none()
    if row is None:
        return False
    probing = probing and row.probe_at is not None  # else somebody has closed it meanwhile
    if isinstance(outcome, Refused):
        if probing:  # it is awake: the circuit closes
            _close(session, endpoint_id)
    elif probing or (row.failures >= FAILURES and row.probe_at is None):
        _open(session, endpoint_id, draw=draw)
    elif slow and row.probe_at is None:
        hold_lane(session, key_of(endpoint_id), until=timedelta(), places=1)
    return bool(row.too_long and row.failures >= FAILURES)


def may_probe(session: Session, endpoint_id: UUID, *, deadline: timedelta) -> bool:
    """Whether the caller is the one that tries an open circuit now. Should it die, another may after two deadlines."""
    claimed = session.execute(_PROBE, {"endpoint_id": endpoint_id, "turn": 2 * deadline})
    return claimed.first() is not None


def try_now(session: Session, endpoint_id: UUID) -> None:
    """Its owner says that it is mended: if the circuit is open, the next delivery tries at once."""
    if session.execute(_HURRY, {"endpoint_id": endpoint_id}).first() is not None:
        hold_lane(session, key_of(endpoint_id), until=timedelta(), places=1)


def forget(session: Session, endpoint_id: UUID) -> None:
    """What failed before counts no more: it is enabled again, or elsewhere, or gone."""
    session.execute(_CLEAR, {"endpoint_id": endpoint_id})
    free_lane(session, key_of(endpoint_id))


def _close(session: Session, endpoint_id: UUID) -> None:
    session.execute(_CLOSE, {"endpoint_id": endpoint_id})
    free_lane(session, key_of(endpoint_id))


def _open(session: Session, endpoint_id: UUID, *, draw: random.Random) -> None:
    named = {
        "endpoint_id": endpoint_id,
        "first": FIRST_PAUSE,
        "longest": LONGEST_PAUSE,
        "jitter": draw.uniform(1, 1 + JITTER),
    }
    probe_at: datetime = session.execute(_OPEN, named).scalar_one()
    hold_lane(session, key_of(endpoint_id), until=probe_at, places=1)


_COUNT = text("""
insert into app.endpoint_health as h (endpoint_id, failing_since, failures)
select id, clock_timestamp(), 1
from app.endpoint
where id = :endpoint_id and url = :url and deleted_at is null
on conflict (endpoint_id) do update
set failures = h.failures + 1, failing_since = coalesce(h.failing_since, clock_timestamp())
returning failures, probe_at, failing_since <= clock_timestamp() - :patience as too_long
""")

_OPEN = text("""
update app.endpoint_health
set probe_at = clock_timestamp() + least(:first * 2 ^ least(openings, 20), :longest) * :jitter, openings = openings + 1
where endpoint_id = :endpoint_id
returning probe_at
""")

_PROBE = text("""
update app.endpoint_health
set probe_at = clock_timestamp() + :turn
where endpoint_id = :endpoint_id and probe_at <= clock_timestamp()
returning endpoint_id
""")

_HURRY = text("""
update app.endpoint_health
set probe_at = clock_timestamp()
where endpoint_id = :endpoint_id and probe_at > clock_timestamp()
returning endpoint_id
""")

_CLOSE = text("""
update app.endpoint_health
set probe_at = null
where endpoint_id = :endpoint_id
""")

_CLEAR = text("""
update app.endpoint_health
set failures = 0, failing_since = null, openings = 0, probe_at = null
where endpoint_id = :endpoint_id and (failures > 0 or probe_at is not null)
returning endpoint_id
""")
