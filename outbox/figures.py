"""Figures by the minute: how many tasks ended, how, and how long they took. Written by relays, read by whoever looks back.

A row a minute, actor and queue; each relay makes the same ones from the tables of what ended, as often as it likes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from outbox.ledger import Conn

__all__ = ["MINUTE", "QUARTER", "Figures", "Moment", "Span", "Totals"]

MINUTE, QUARTER = timedelta(minutes=1), timedelta(minutes=15)
#: Spans from this on are read by the quarter of an hour, where their steps allow it.
LONG = timedelta(hours=12)


@dataclass(slots=True)
class _Sum:
    """What was counted, and the histogram of how long what succeeded had waited for it."""

    succeeded: int = 0
    dead: int = 0
    cancelled: int = 0
    failures: int = 0
    waits: dict[str, int] = field(default_factory=dict)

    def add(self, row: _Row) -> None:
        self.succeeded += row.succeeded
        self.dead += row.dead
        self.cancelled += row.cancelled
        self.failures += row.failures
        waits = self.waits
        for bucket, number in row.waits.items():
            waits[bucket] = waits.get(bucket, 0) + number


@dataclass(frozen=True, slots=True)
class Moment:
    """A step of time: tasks that ended in it, failed attempts of those, and how long those that succeeded took from commit to
    done (for one that failed before: from its first start; for a delayed one: from when it was due), to within a tenth.
    `open`: it has not ended yet."""

    at: datetime
    succeeded: int
    dead: int
    cancelled: int
    failures: int
    p50: timedelta | None
    p95: timedelta | None
    p99: timedelta | None
    open: bool = False


@dataclass(frozen=True, slots=True)
class Totals:
    """The same of one actor or queue over a whole span."""

    name: str
    succeeded: int
    dead: int
    cancelled: int
    failures: int
    p50: timedelta | None
    p95: timedelta | None
    p99: timedelta | None

    @property
    def ended(self) -> int:
        return self.succeeded + self.dead + self.cancelled


@dataclass(frozen=True, slots=True)
class Span:
    """A span of time: every step of it, and each actor and queue of which something ended, the busiest first."""

    series: list[Moment]
    actors: list[Totals]
    queues: list[Totals]


class Figures:
    """The statements, bound to a schema."""

    def __init__(self, schema: str = "outbox") -> None:
        self.schema = schema

    def look(self, conn: Conn, *, since: datetime, until: datetime, step: timedelta = MINUTE) -> Span:
        """Every step from `since` to `until`, also those in which nothing ended, and who ended. `step` is whole minutes; spans
        from half a day on are read by the quarter of an hour, where their steps allow it."""
        rows = self._read(conn, since, until, step)
        return Span(
            _series(rows, _floor(since, step), until, step),
            _totals(rows, by=lambda row: row.actor),
            _totals(rows, by=lambda row: row.queue),
        )

    def write(self, conn: Conn, *, since: datetime, until: datetime) -> int:
        """Make the rows of these whole minutes anew from what ended in them, and of their quarters. Answers how many changed."""
        changed = len(self._rows(conn, WRITE, since=_floor(since, MINUTE), until=_floor(until, MINUTE)))
        if changed:
            self._rows(conn, WRITE_QUARTERS, since=_floor(since, QUARTER), until=_floor(until, QUARTER) + QUARTER)
        return changed

    def latest(self, conn: Conn) -> datetime | None:
        """The newest minute that is written."""
        found: datetime | None = self._rows(conn, "select max(minute) from outbox.minute")[0][0]
        return found

    def _read(self, conn: Conn, since: datetime, until: datetime, step: timedelta) -> list[_Row]:
        """What is to be summed: of a long span in long steps, quarters of an hour."""
        long = until - since >= LONG and step % QUARTER == timedelta(0)
        statement = READ_QUARTERS if long else READ
        return [_Row(*row) for row in self._rows(conn, statement, since=_floor(since, step), until=until)]

    def _rows(self, conn: Conn, statement: str, **values: Any) -> list[Any]:
        text = statement if self.schema == "outbox" else statement.replace("outbox.", f"{self.schema}.")
        return conn.execute(text, values, prepare=False).fetchall()


class _Row(NamedTuple):
    """What ended in a minute, or in a quarter of an hour, of an actor and a queue."""

    at: datetime
    actor: str
    queue: str
    succeeded: int
    dead: int
    cancelled: int
    failures: int
    waits: dict[str, int]


def _series(rows: Sequence[_Row], first: datetime, until: datetime, step: timedelta) -> list[Moment]:
    sums: dict[datetime, _Sum] = {}
    for row in rows:
        sums.setdefault(_floor(row.at, step), _Sum()).add(row)
    nothing = _Sum()
    steps = range(math.ceil((until - first) / step))
    return [_moment(at, sums.get(at, nothing), until, step) for at in (first + number * step for number in steps)]


def _totals(rows: Sequence[_Row], *, by: Callable[[_Row], str]) -> list[Totals]:
    sums: dict[str, _Sum] = {}
    for row in rows:
        sums.setdefault(by(row), _Sum()).add(row)
    found = [Totals(name, *_numbers(each)) for name, each in sums.items()]
    return sorted(found, key=lambda each: (-each.ended, each.name))


def _moment(at: datetime, total: _Sum, until: datetime, step: timedelta) -> Moment:
    return Moment(at, *_numbers(total), open=at + step > until)


def _numbers(total: _Sum) -> tuple[int, int, int, int, timedelta | None, timedelta | None, timedelta | None]:
    quantiles = (_quantile(total.waits, share) for share in (0.5, 0.95, 0.99))
    return (total.succeeded, total.dead, total.cancelled, total.failures, *quantiles)  # type: ignore[return-value]


def _quantile(waits: Mapping[str, int], share: float) -> timedelta | None:
    """The middle of the bucket in which that share is reached: within 2 ** (1/8), a tenth."""
    buckets = {int(bucket): number for bucket, number in waits.items()}
    left = math.ceil(share * sum(buckets.values()))
    for bucket in sorted(buckets):
        left -= buckets[bucket]
        if left <= 0:
            return timedelta(milliseconds=2 ** ((bucket + 0.5) / 4))
    return None


def _floor(at: datetime, step: timedelta) -> datetime:
    """The beginning of its step, counted from the beginning of 1970."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return epoch + (at - epoch) // step * step


# Cost: every row that ended in these minutes, found by the range of pages that they lie in (the history has a BRIN index
# of `finished_at`), and no other day. Buckets are quarters of a power of two of milliseconds. Rows in one order: relays
# that write the same ones wait for each other and cannot deadlock.
WRITE = """
with ended as (
    select h.finished_at, h.actor, h.queue, h.state, h.failures, h.started_at,
        case when h.state <> 'succeeded' then null
            when h.failures = 0 then greatest(h.created_at, h.due_at)
            else coalesce((h.attempts -> 0 ->> 'started_at')::timestamptz, h.created_at)
        end as wanted_at
    from outbox.history h
    where h.finished_at >= %(since)s
    and h.finished_at < %(until)s
    union all
    select d.finished_at, d.actor, d.queue, d.state, d.failures, null, null
    from outbox.dead d
    where d.finished_at >= %(since)s
    and d.finished_at < %(until)s
),
counted as materialized (
    select date_trunc('minute', e.finished_at, 'UTC') as minute, e.actor, e.queue, e.state,
        floor(4 * ln(greatest(extract(epoch from e.finished_at - e.wanted_at)::float * 1000, 1)) / ln(2::float))::integer
            as wait,
        case when e.wanted_at is not null then
            floor(4 * ln(greatest(extract(epoch from e.finished_at - e.started_at)::float * 1000, 1)) / ln(2::float))::integer
        end as run,
        count(*) as number, sum(e.failures) as failures
    from ended e
    group by 1, 2, 3, 4, 5, 6
),
waited as (
    select w.minute, w.actor, w.queue, jsonb_object_agg(w.wait, w.number) as waits
    from (select minute, actor, queue, wait, sum(number) as number from counted where wait is not null group by 1, 2, 3, 4) w
    group by 1, 2, 3
),
ran as (
    select r.minute, r.actor, r.queue, jsonb_object_agg(r.run, r.number) as runs
    from (select minute, actor, queue, run, sum(number) as number from counted where run is not null group by 1, 2, 3, 4) r
    group by 1, 2, 3
),
made as (
    select c.minute, c.actor, c.queue,
        coalesce(sum(c.number) filter (where c.state = 'succeeded'), 0)::integer as succeeded,
        coalesce(sum(c.number) filter (where c.state = 'dead'), 0)::integer as dead,
        coalesce(sum(c.number) filter (where c.state = 'cancelled'), 0)::integer as cancelled,
        sum(c.failures)::integer as failures
    from counted c
    group by 1, 2, 3
)
insert into outbox.minute as m (minute, actor, queue, succeeded, dead, cancelled, failures, waits, runs)
select a.minute, a.actor, a.queue, a.succeeded, a.dead, a.cancelled, a.failures, coalesce(w.waits, '{}'),
    coalesce(r.runs, '{}')
from made a
left join waited w using (minute, actor, queue)
left join ran r using (minute, actor, queue)
order by a.minute, a.actor, a.queue
on conflict (minute, actor, queue) do update
set succeeded = excluded.succeeded, dead = excluded.dead, cancelled = excluded.cancelled, failures = excluded.failures,
    waits = excluded.waits, runs = excluded.runs
where (m.succeeded, m.dead, m.cancelled, m.failures)
    is distinct from (excluded.succeeded, excluded.dead, excluded.cancelled, excluded.failures)
returning 1
"""

# Cost: the rows of those quarters' minutes. A quarter is a sum of its minutes.
WRITE_QUARTERS = """
with minutes as materialized (
    select date_bin('15 minutes', m.minute, 'epoch') as quarter, m.actor, m.queue, m.succeeded, m.dead, m.cancelled, m.failures,
        m.waits, m.runs
    from outbox.minute m
    where m.minute >= %(since)s
    and m.minute < %(until)s
),
waited as (
    select w.quarter, w.actor, w.queue, jsonb_object_agg(w.key, w.number) as waits
    from (
        select m.quarter, m.actor, m.queue, e.key, sum(e.value::integer) as number
        from minutes m, jsonb_each_text(m.waits) e
        group by 1, 2, 3, 4
    ) w
    group by 1, 2, 3
),
ran as (
    select r.quarter, r.actor, r.queue, jsonb_object_agg(r.key, r.number) as runs
    from (
        select m.quarter, m.actor, m.queue, e.key, sum(e.value::integer) as number
        from minutes m, jsonb_each_text(m.runs) e
        group by 1, 2, 3, 4
    ) r
    group by 1, 2, 3
),
made as (
    select m.quarter, m.actor, m.queue, sum(m.succeeded)::integer as succeeded, sum(m.dead)::integer as dead,
        sum(m.cancelled)::integer as cancelled, sum(m.failures)::integer as failures
    from minutes m
    group by 1, 2, 3
)
insert into outbox.quarter as q (quarter, actor, queue, succeeded, dead, cancelled, failures, waits, runs)
select a.quarter, a.actor, a.queue, a.succeeded, a.dead, a.cancelled, a.failures, coalesce(w.waits, '{}'),
    coalesce(r.runs, '{}')
from made a
left join waited w using (quarter, actor, queue)
left join ran r using (quarter, actor, queue)
order by a.quarter, a.actor, a.queue
on conflict (quarter, actor, queue) do update
set succeeded = excluded.succeeded, dead = excluded.dead, cancelled = excluded.cancelled, failures = excluded.failures,
    waits = excluded.waits, runs = excluded.runs
where (q.succeeded, q.dead, q.cancelled, q.failures)
    is distinct from (excluded.succeeded, excluded.dead, excluded.cancelled, excluded.failures)
returning 1
"""

# Cost of these two: the rows of that span.
READ = """
select m.minute, m.actor, m.queue, m.succeeded, m.dead, m.cancelled, m.failures, m.waits
from outbox.minute m
where m.minute >= %(since)s
and m.minute < %(until)s
"""

READ_QUARTERS = """
select q.quarter, q.actor, q.queue, q.succeeded, q.dead, q.cancelled, q.failures, q.waits
from outbox.quarter q
where q.quarter >= %(since)s
and q.quarter < %(until)s
"""
