"""Lanes held from outside: whoever knows that a concurrency key's tasks would fail now keeps them in PostgreSQL.

What waits costs no attempt, no message and no thread, however much of it there is.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from outbox.enqueue import ledger_of
from outbox.errors import ArgumentError
from outbox.ledger import Conn

__all__ = ["free_lane", "hold_lane"]


def hold_lane(
    session: Session, concurrency_key: str, *, until: datetime | timedelta, places: int | None = None
) -> None:
    """Let no task of this key start until then; from then on let at most `places` be under way at once, until `free_lane`.

    It counts from the session's commit on. What has been let go already is not called back: it may still start, as many
    as the key's limit. A later call replaces an earlier one.

    Args:
        concurrency_key: the one that the tasks were enqueued with.
        until: an aware instant, or a span from now by the database's clock; `timedelta(0)` to set `places` alone.
        places: at least 1; None for the limit that the tasks were enqueued with.

    Raises:
        ArgumentError: a key, an instant or a number that makes no sense.
    """
    if isinstance(until, datetime) and until.tzinfo is None:
        raise ArgumentError("hold_lane: until must be a datetime with a time zone, or a timedelta.")
    if places is not None and (isinstance(places, bool) or not isinstance(places, int) or places < 1):
        raise ArgumentError("hold_lane: places must be a whole number of at least 1, or None.")
    at, wait = (until, None) if isinstance(until, datetime) else (None, until)
    ledger_of(session).hold_lane(_connection(session), _lane(concurrency_key), until=at, wait=wait, places=places)


def free_lane(session: Session, concurrency_key: str) -> bool:
    """The key has its own limit again, from the session's commit on. Whether it was held."""
    return ledger_of(session).free_lane(_connection(session), _lane(concurrency_key))


def _lane(concurrency_key: str) -> str:
    if not isinstance(concurrency_key, str) or not concurrency_key:
        raise ArgumentError("A lane is named by its tasks' concurrency_key: text of 1 to 500 bytes.")
    return f"limit/{concurrency_key}"


def _connection(session: Session) -> Conn:
    connection: Conn = session.connection().connection.driver_connection  # type: ignore[assignment]
    return connection
