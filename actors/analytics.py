"""Statistics: what happened how often a day. Each event is counted exactly once, for the count and the outcome of
its task commit together."""

from datetime import UTC, date, datetime

import dramatiq
from sqlalchemy import Numeric, cast, func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from actors.tables import Counter
from outbox import Task, current_run, enqueue

__all__ = ["count_event", "enqueue_count"]

_MOST = 2**63 - 1


def enqueue_count(session: Session, kind: str, *, at: datetime, currency: str = "", cents: int = 0) -> Task:
    """Count one event of this kind on the day (UTC) of `at`, once the session's transaction commits."""
    day = at.astimezone(UTC).date().isoformat()
    return enqueue(session, count_event.message(kind, day, currency, cents))


@dramatiq.actor(queue_name="default", max_retries=20, min_backoff=1_000, max_backoff=3_600_000, time_limit=60_000)
def count_event(kind: str, day: str, currency: str = "", cents: int = 0) -> None:
    """Adds one to the day's counter, and `cents` to its sum. A sum that no row can hold stays at the most that one can."""
    added = insert(Counter).values(day=date.fromisoformat(day), kind=kind, currency=currency, count=1, cents=cents)
    current_run().session().execute(
        added.on_conflict_do_update(
            index_elements=[Counter.day, Counter.kind, Counter.currency],
            set_={
                "count": Counter.count + 1,
                "cents": func.least(_MOST, added.excluded.cents + cast(Counter.cents, Numeric)),
            },
        )
    )
