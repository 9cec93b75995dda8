"""What fails, by its kind: how many tasks, of which actors, since when, and one of them to look at.

Over the newest dead tasks and the retrying ones whose time comes first, each up to a bound: what is shown is exact below it, and
says so above. What failed before attempts held their kind is none of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.errors import QueryCanceled

from outbox.errors import ArgumentError, TookTooLong
from outbox.fingerprint import fingerprint
from outbox.ledger import Conn
from outbox.query import Query
from outbox.reads import CAP, Count, Reader
from outbox.redaction import redacted_view, usual
from outbox.search import WITHIN

__all__ = ["HOURS", "FailureGroup", "Failures", "fingerprint"]

#: Bars of a group, an hour each.
HOURS = 24


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Tasks whose last attempt failed in the same way. `hours`: how many in each of the last 24 hours, the latest last.

    `error`, `traceback` and `logs` are those of `example`, the one that failed last, as people may be shown them; in lists only
    the error.
    """

    failure: str
    error: str
    actors: list[str]
    count: Count
    dead: int
    retrying: int
    first_at: datetime
    last_at: datetime
    hours: list[int]
    example: UUID
    traceback: str | None = None
    logs: str | None = None

    @property
    def query(self) -> str:
        """Its tasks, in the query language."""
        return str(Query(failure=self.failure))


class Failures:
    """The statements, bound to a schema."""

    def __init__(self, schema: str = "outbox") -> None:
        self.schema = schema

    def groups(
        self, conn: Conn, *, since: timedelta | datetime | None = None, limit: int = 50, within: timedelta = WITHIN
    ) -> list[FailureGroup]:
        """The kinds of which most tasks are there, those that failed since then. Raises ArgumentError, TookTooLong."""
        if not 1 <= limit <= 1000:
            raise ArgumentError("limit must be a whole number from 1 to 1000.")
        since = Query(since=since).since
        return list(self._read(conn, within, since=since, failure=None))[:limit]

    def group(self, conn: Conn, failure: str, *, within: timedelta = WITHIN) -> FailureGroup | None:
        """One kind, with the traceback and the logs of an example; None when no task has it. Raises as `groups`."""
        kind = Query(failure=failure).failure
        found = next(self._read(conn, within, since=None, failure=kind), None)
        task = Reader(self.schema).task(conn, found.example) if found else None
        if found is None or task is None or not task.attempts:
            return found
        last = redacted_view(task).attempts[-1]
        return replace(found, traceback=last.traceback, logs=last.logs)

    def _read(
        self, conn: Conn, within: timedelta, *, since: timedelta | datetime | None, failure: str | None
    ) -> Iterator[FailureGroup]:
        limit = f"{within / timedelta(milliseconds=1):.0f}"
        text = GROUPS if self.schema == "outbox" else GROUPS.replace("outbox.", f"{self.schema}.")
        try:
            with conn.transaction(force_rollback=True):
                begun = conn.execute("select set_config('statement_timeout', %s, true), clock_timestamp()", [limit])
                now = begun.fetchall()[0][1]
                values = {
                    "since": Query(since=since).at(now).since,
                    "now": now,
                    "failure": failure,
                    "cap": CAP,
                    "more": CAP + 1,
                }
                rows = conn.execute(text, values, prepare=False).fetchall()
        except QueryCanceled:
            raise TookTooLong(within) from None
        return map(_group, rows)


def _group(row: Sequence[Any]) -> FailureGroup:
    failure, error, actors, dead, retrying, at_least, first_at, last_at, hours, example = row
    bars = [0] * HOURS
    for ago in hours:
        bars[HOURS - 1 - ago] += 1
    return FailureGroup(
        failure=failure,
        error=_last_line(usual().text(error)),
        actors=actors,
        count=Count(dead + retrying, at_least),
        dead=dead,
        retrying=retrying,
        first_at=first_at,
        last_at=last_at,
        hours=bars,
        example=example,
    )


def _last_line(error: str) -> str:
    return error.strip().rpartition("\n")[2]


# Cost: the newest `more` entries of the dead by their end, or those of the kind by their own index; and the first `more`
# scheduled rows by their time, of which those that failed are kept. Of each, the last attempt is read.
# Snoozed tasks have not failed, and what was retried by an operator and waits is no longer dead.
GROUPS = """
with dead as materialized (
    select d.id, d.actor, d.attempts -> -1 as last, d.finished_at as at
    from outbox.dead d
    where (%(failure)s::text is null or d.attempts -> -1 ->> 'failure' = %(failure)s::text)
    and (%(since)s::timestamptz is null or d.finished_at >= %(since)s::timestamptz)
    order by d.finished_at desc
    limit %(more)s
),
next as materialized (
    select t.id, t.actor, t.failures, t.attempts
    from outbox.task t
    where t.state = 'scheduled'
    order by t.due_at
    limit %(more)s
),
retrying as materialized (
    select n.id, n.actor, n.attempts -> -1 as last, (n.attempts -> -1 ->> 'finished_at')::timestamptz as at
    from next n
    where n.failures > 0
),
failed as (
    select d.id, d.actor, d.last, d.at, true as dead
    from dead d
    union all
    select r.id, r.actor, r.last, r.at, false
    from retrying r
    where r.last ->> 'outcome' <> 'snoozed'
    and (%(failure)s::text is null or r.last ->> 'failure' = %(failure)s::text)
    and (%(since)s::timestamptz is null or r.at >= %(since)s::timestamptz)
),
bound as (
    select (select count(*) from dead) > %(cap)s as dead, (select count(*) from next) > %(cap)s as retrying
)
select f.last ->> 'failure', coalesce((array_agg(f.last ->> 'error' order by f.at desc, f.id desc))[1], ''),
    array_agg(distinct f.actor), (count(*) filter (where f.dead))::integer, (count(*) filter (where not f.dead))::integer,
    coalesce(bool_or(f.dead and b.dead) or bool_or(b.retrying), false), min(f.at), max(f.at),
    coalesce(array_agg(floor(extract(epoch from greatest(%(now)s - f.at, interval '0')) / 3600)::integer)
        filter (where f.at > %(now)s - interval '24 hours'), '{}'),
    (array_agg(f.id order by f.at desc, f.id desc))[1]
from failed f
cross join bound b
where f.last ->> 'failure' is not null
group by f.last ->> 'failure'
order by count(*) desc, max(f.at) desc
"""
