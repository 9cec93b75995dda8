"""What people look at: tasks, queues, workers, schedules, figures. Nothing here changes anything.

Each statement stands in full under the class, with its cost. All functions take a psycopg connection, and see
what its transaction sees.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple
from uuid import UUID

from psycopg.errors import QueryCanceled

from outbox import search
from outbox.errors import ArgumentError, TaskNotFound, TookTooLong
from outbox.ledger import Conn
from outbox.query import PUBLIC_STATES, PublicState, Query
from outbox.search import WITHIN
from outbox.tracing import trace_id_of

__all__ = [
    "CAP", "PUBLIC_STATES", "ActorFigures", "AttemptView", "AuditLine", "Count", "FireView", "PublicState", "QueueView", "Reader",
    "ScheduleView", "Standing", "Stats", "TaskView", "WorkerView",
]  # fmt: skip

#: Counts of a backlog stop here: exact below, "10000+" from here on. Nobody pays for a number that nobody reads.
CAP = 10_000

ALL = Query()


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One run of a task that ended: what came of it, and where. Of one that failed, `failure` names its kind, and `logs` are
    the last lines that it logged."""

    run: UUID | None
    worker: UUID | None
    outcome: str
    error: str | None
    traceback: str | None
    started_at: datetime | None
    finished_at: datetime | None
    failure: str | None = None
    logs: str | None = None


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task as the world sees it, wherever its row is. `attempts` is empty in lists."""

    id: UUID
    state: PublicState
    actor: str
    queue: str
    args: list[Any]
    kwargs: dict[str, Any]
    options: dict[str, Any]
    priority: int
    created_at: datetime
    due_at: datetime
    published_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    failures: int
    crashes: int
    losses: int
    max_attempts: int | None
    ordering_key: str | None
    concurrency_key: str | None
    unique_key: str | None
    cancel_requested: bool
    reason: str | None
    worker_id: UUID | None
    attempts: list[AttemptView] = field(default_factory=list)

    @property
    def trace_id(self) -> str | None:
        """The trace in which it was enqueued, if that was traced."""
        return trace_id_of(self.options)


class Standing(NamedTuple):
    """A task, without its attempts, and how many of them have ended: what changes whenever something happens to it."""

    task: TaskView
    attempts: int


@dataclass(frozen=True, slots=True)
class Count:
    """How many; `at_least` when counting stopped at the cap."""

    number: int
    at_least: bool = False

    def __str__(self) -> str:
        return f"{self.number}+" if self.at_least else str(self.number)


@dataclass(frozen=True, slots=True)
class QueueView:
    """A queue: unfinished tasks by public state, and for how long the oldest due one has waited for the relay."""

    name: str
    paused: bool
    paused_by: str | None
    paused_at: datetime | None
    epoch: int
    workers: int
    oldest_due: timedelta | None
    counts: dict[str, Count]


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A living process, of whatever kind. `silent` is the time since its last heartbeat, by the database's clock."""

    id: UUID
    kind: str
    host: str
    pid: int
    queues: list[str]
    threads: int
    started_at: datetime
    beat_at: datetime
    silent: timedelta
    lease: timedelta
    held: int
    running: list[UUID]

    @property
    def alive(self) -> bool:
        """Whether its heartbeats arrive. Only the rescuer, who watches the counter, may declare it dead."""
        return self.silent < 2 * self.lease


@dataclass(frozen=True, slots=True)
class ScheduleView:
    """A cron schedule and its last fire."""

    name: str
    actor: str
    queue: str
    cron: str
    zone: str
    missed: str
    missed_limit: int
    paused: bool
    retired: bool
    declared_at: datetime
    fired_through: datetime
    last_fire_at: datetime | None
    last_outcome: str | None
    last_task_id: UUID | None


@dataclass(frozen=True, slots=True)
class FireView:
    """A fire of a schedule: for when, what became of it, and the task that it made."""

    fire_at: datetime
    outcome: str
    fired_at: datetime
    task_id: UUID | None


@dataclass(frozen=True, slots=True)
class AuditLine:
    """What somebody did, to what. `subject`: a task's id, `queue/NAME`, `schedule/NAME`, or what the application names."""

    id: int
    at: datetime
    who: str
    action: str
    subject: str
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ActorFigures:
    """What ended in the period. Durations are of succeeded runs, from start to end; None without any."""

    actor: str
    succeeded: int
    dead: int
    cancelled: int
    failures: int
    p50: timedelta | None
    p95: timedelta | None


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures of the period from `since` to `until`, both by the database's clock."""

    since: datetime
    until: datetime
    total: ActorFigures
    actors: list[ActorFigures]

    @property
    def per_minute(self) -> float:
        """Tasks finished (succeeded, dead or cancelled) a minute."""
        minutes = (self.until - self.since) / timedelta(minutes=1)
        return (self.total.succeeded + self.total.dead + self.total.cancelled) / minutes if minutes > 0 else 0.0


class Reader:
    """The statements, bound to a schema."""

    def __init__(self, schema: str = "outbox") -> None:
        self.schema = schema

    def _run(self, conn: Conn, sql: str, **params: Any) -> list[Any]:
        """Never prepared: each run is planned for its own filters, so that those not given cost nothing."""
        text = sql if self.schema == "outbox" else sql.replace("outbox.", f"{self.schema}.")
        return conn.execute(text, params, prepare=False).fetchall()

    def tasks(
        self, conn: Conn, query: Query = ALL, *, cursor: str | None = None, limit: int = 50, within: timedelta = WITHIN
    ) -> tuple[list[TaskView], str | None]:
        """A page of the tasks that the query fits, newest id first, and the cursor of the next page (None at the end).

        Ids are UUIDv7, so that is the order of their making; an id given from outside falls where its digits put it.
        Filters narrow what is shown, not always what is read: see the statement's cost, and `search.LOOK_BACK`.
        Raises ArgumentError for a bad cursor or a limit outside 1 to 1000, TookTooLong.
        """
        if not 1 <= limit <= 1000:
            raise ArgumentError("limit must be a whole number from 1 to 1000.")
        before = _id_of(cursor)
        with self._searching(conn, within) as now:
            rows = self._run(conn, search.FIND, **search.values_of(query, now, before=before, limit=limit + 1))
        views = [_task(row) for row in rows[:limit]]
        return views, _cursor_of(views[-1].id) if len(rows) > limit else None

    def count(self, conn: Conn, query: Query = ALL, *, within: timedelta = WITHIN) -> Count:
        """How many tasks the query fits: exact up to the cap. Raises TookTooLong."""
        with self._searching(conn, within) as now:
            rows = self._run(conn, search.COUNT, **search.values_of(query, now, before=None, limit=CAP + 1))
        return Count(min(rows[0][0], CAP), at_least=rows[0][0] > CAP)

    def now(self, conn: Conn) -> datetime:
        """The database's clock."""
        found: datetime = conn.execute("select clock_timestamp()").fetchall()[0][0]
        return found

    def offered(self, conn: Conn, key: Literal["actor", "queue"]) -> list[str]:
        """Names that a query may give behind this key, of late tasks and of queues; for completion."""
        return sorted({name for (name,) in self._run(conn, LATE_ACTORS if key == "actor" else LATE_QUEUES)})

    @contextmanager
    def _searching(self, conn: Conn, within: timedelta) -> Iterator[datetime]:
        """Now, in a transaction whose statements end within that time; the caller's own goes on as it was."""
        limit = f"{within / timedelta(milliseconds=1):.0f}"
        try:
            with conn.transaction(force_rollback=True):
                begun = conn.execute("select set_config('statement_timeout', %s, true), clock_timestamp()", [limit])
                yield begun.fetchall()[0][1]
        except QueryCanceled:
            raise TookTooLong(within) from None

    def task(self, conn: Conn, id: UUID) -> TaskView | None:
        """The task with all its attempts, the oldest first, or None when nothing with this id is known."""
        rows = self._run(conn, TASK, id=id)
        return _task(rows[0][:-2], attempts=rows[0][-2], run=rows[0][-1]) if rows else None

    def standing(self, conn: Conn, ids: Sequence[UUID]) -> dict[UUID, Standing]:
        """Where these tasks stand, all in one statement. One that is absent has ended, or never was: ask `task`."""
        rows = self._run(conn, STANDING, ids=list(ids))
        return {row[0]: Standing(_task(row[:-1]), row[-1]) for row in rows}

    def resolve(self, conn: Conn, prefix: str) -> UUID:
        """The id that begins with these hexadecimal digits. A whole id is answered without a look.

        Raises ArgumentError when it is not hexadecimal or fits more than one task, TaskNotFound when none.
        """
        digits = prefix.strip().lower().replace("-", "")
        if not digits or len(digits) > 32 or set(digits) - set("0123456789abcdef"):
            raise ArgumentError(f"{prefix!r} is not a task id, nor the beginning of one.")
        if len(digits) == 32:
            return UUID(digits)
        rows = self._run(conn, RESOLVE, low=UUID(digits.ljust(32, "0")), high=UUID(digits.ljust(32, "f")))
        if not rows:
            raise TaskNotFound(f"No task's id begins with {prefix}.")
        if len(rows) > 1:
            some = ", ".join(str(id) for (id,) in rows[:3])
            raise ArgumentError(f"{prefix} fits more than one task ({some}, …): give more digits.")
        return UUID(str(rows[0][0]))

    def queues(self, conn: Conn) -> list[QueueView]:
        """Every queue that is registered, has unfinished tasks, or is listened to."""
        counts: dict[str, dict[str, Count]] = {}
        for name, state, number, at_least in self._run(conn, QUEUE_COUNTS, cap=CAP, more=CAP + 1):
            counts.setdefault(name, {})[state] = Count(min(number, CAP), at_least)
        return [QueueView(*[*row, counts.get(row[0], {})]) for row in self._run(conn, QUEUES, more=CAP + 1)]

    def workers(self, conn: Conn) -> list[WorkerView]:
        """Every process with a row: workers, relays, schedulers; the longest living first."""
        return [WorkerView(*row) for row in self._run(conn, WORKERS)]

    def schedules(self, conn: Conn) -> list[ScheduleView]:
        """Every schedule with its last fire, by name; retired ones too."""
        return [ScheduleView(*row) for row in self._run(conn, SCHEDULES)]

    def fires(self, conn: Conn, schedule: str, *, limit: int = 60) -> list[FireView]:
        """The schedule's fires, the newest first."""
        return [FireView(*row) for row in self._run(conn, FIRES, schedule=schedule, limit=limit)]

    def audit(
        self,
        conn: Conn,
        *,
        who: str | None = None,
        action: str | None = None,
        subject: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> tuple[list[AuditLine], str | None]:
        """A page of what people did, the newest first, and the cursor of the next page (None at the end).

        Raises ArgumentError for a bad cursor or a limit outside 1 to 1000.
        """
        if not 1 <= limit <= 1000:
            raise ArgumentError("limit must be a whole number from 1 to 1000.")
        if cursor is not None and not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 19):
            raise ArgumentError("This cursor is not one of ours: take `next_cursor` of the page before, unchanged.")
        before = None if cursor is None else int(cursor)
        wanted = {"who": who, "action": action, "subject": subject, "before": before, "limit": limit + 1}
        lines = [AuditLine(*row) for row in self._run(conn, AUDIT, **wanted)]
        return lines[:limit], str(lines[limit - 1].id) if len(lines) > limit else None

    def stats(self, conn: Conn, since: datetime) -> Stats:
        """What ended since then, in all and by actor: every task once, durations to within a tenth."""
        rows = self._run(conn, STATS, since=since)
        until = rows[0][0]
        figures = [ActorFigures(*row[1:]) for row in rows]
        return Stats(since=since, until=until, total=figures[0], actors=figures[1:])


def _cursor_of(id: UUID) -> str:
    return base64.urlsafe_b64encode(id.bytes).decode().rstrip("=")


def _id_of(cursor: str | None) -> UUID | None:
    if cursor is None:
        return None
    try:
        found = UUID(bytes=base64.b64decode(cursor + "==", altchars=b"-_", validate=True))
    except (ValueError, binascii.Error):
        found = None
    if found is None or _cursor_of(found) != cursor:
        raise ArgumentError("This cursor is not one of ours: take `next_cursor` of the page before, unchanged.")
    return found


def _task(row: Sequence[Any], *, attempts: Sequence[dict[str, Any]] = (), run: UUID | None = None) -> TaskView:
    *before, lane, unique_key, cancel_requested, reason, worker_id = row
    ordering = lane.removeprefix("order/") if lane and lane.startswith("order/") else None
    concurrency = lane.removeprefix("limit/") if lane and lane.startswith("limit/") else None
    ended = [_attempt(each) for each in attempts]
    view = TaskView(
        *[*before, ordering, concurrency, unique_key, cancel_requested, reason, worker_id, ended],
    )
    if run is not None and view.state == "succeeded":
        ended.append(AttemptView(run, worker_id, "succeeded", None, None, view.started_at, view.finished_at))
    return view


def _attempt(row: dict[str, Any]) -> AttemptView:
    return AttemptView(
        run=_maybe(UUID, row.get("run")),
        worker=_maybe(UUID, row.get("worker")),
        outcome=row["outcome"],
        error=row.get("error"),
        traceback=row.get("traceback"),
        started_at=_maybe(datetime.fromisoformat, row.get("started_at")),
        finished_at=_maybe(datetime.fromisoformat, row.get("finished_at")),
        failure=row.get("failure"),
        logs=row.get("logs"),
    )


def _maybe(read: Any, value: str | None) -> Any:
    return None if value is None else read(value)


# Cost: one index descent a table, and one a partition of the history.
TASK = """
select t.id, case
        when t.state = 'scheduled' and t.failures > 0 then 'retrying'
        when t.state = 'running' and not coalesce(t.run_id = any(w.running), true) then 'published'
        else t.state end,
    t.actor, t.queue, t.args, t.kwargs, t.options, t.priority, t.created_at, t.due_at, t.published_at,
    case when t.run_id = any(w.running) then t.claimed_at end, null::timestamptz, t.expires_at, t.failures, t.crashes,
    t.losses, t.max_attempts, t.lane, t.unique_key, t.cancel_requested, t.reason, t.worker_id, t.attempts, t.run_id
from outbox.task t
left join outbox.worker w on w.id = t.worker_id
where t.id = %(id)s
union all
select h.id, h.state, h.actor, h.queue, h.args, h.kwargs, h.options, h.priority, h.created_at, h.due_at,
    h.published_at, h.started_at, h.finished_at, h.expires_at, h.failures, h.crashes, h.losses, h.max_attempts,
    h.lane, h.unique_key, false, h.reason, h.worker_id, h.attempts, h.run_id
from outbox.history h
where h.id = %(id)s
union all
select d.id, d.state, d.actor, d.queue, d.args, d.kwargs, d.options, d.priority, d.created_at, d.due_at,
    d.published_at, d.started_at, d.finished_at, d.expires_at, d.failures, d.crashes, d.losses, d.max_attempts,
    d.lane, d.unique_key, false, d.reason, d.worker_id, d.attempts, d.run_id
from outbox.dead d
where d.id = %(id)s
limit 1
"""

# Cost: one index descent a task that has not ended, none for one that has.
STANDING = """
select t.id, case
        when t.state = 'scheduled' and t.failures > 0 then 'retrying'
        when t.state = 'running' and not coalesce(t.run_id = any(w.running), true) then 'published'
        else t.state end,
    t.actor, t.queue, t.args, t.kwargs, t.options, t.priority, t.created_at, t.due_at, t.published_at,
    case when t.run_id = any(w.running) then t.claimed_at end, null::timestamptz, t.expires_at, t.failures, t.crashes,
    t.losses, t.max_attempts, t.lane, t.unique_key, t.cancel_requested, t.reason, t.worker_id,
    jsonb_array_length(t.attempts)
from outbox.task t
left join outbox.worker w on w.id = t.worker_id
where t.id = any(%(ids)s)
"""

# Cost: as for one task; at most four entries of each index.
RESOLVE = """
select id
from (
    (select t.id from outbox.task t where t.id between %(low)s and %(high)s order by t.id limit 4)
    union all
    (select h.id from outbox.history h where h.id between %(low)s and %(high)s order by h.id limit 4)
    union all
    (select d.id from outbox.dead d where d.id between %(low)s and %(high)s order by d.id limit 4)
) a
order by id
limit 4
"""

# Cost: for each queue, up to `more` entries of the indexes on pending and on published rows; what runs, which the
# workers' threads bound; and the first `more` scheduled and waiting ones of all queues together.
QUEUE_COUNTS = """
with recursive pending as (
    (select t.queue from outbox.task t where t.state = 'pending' order by t.queue limit 1)
    union all
    select (
        select t.queue from outbox.task t where t.state = 'pending' and t.queue > p.queue order by t.queue limit 1)
    from pending p
    where p.queue is not null
),
published as (
    (select t.queue from outbox.task t where t.state = 'published' order by t.queue limit 1)
    union all
    select (
        select t.queue from outbox.task t where t.state = 'published' and t.queue > p.queue order by t.queue limit 1)
    from published p
    where p.queue is not null
),
scheduled as materialized (
    select t.queue, case when t.failures > 0 then 'retrying' else 'scheduled' end as state
    from outbox.task t
    where t.state = 'scheduled'
    order by t.due_at
    limit %(more)s
),
waiting as materialized (
    select t.queue from outbox.task t where t.lane is not null and t.state = 'waiting' limit %(more)s
),
found as (
    select p.queue, 'pending' as state, n.number, n.number > %(cap)s as at_least
    from pending p
    cross join lateral (
        select count(*) as number
        from (select from outbox.task t where t.state = 'pending' and t.queue = p.queue limit %(more)s) c
    ) n
    where p.queue is not null
    union all
    select p.queue, 'published', n.number, n.number > %(cap)s
    from published p
    cross join lateral (
        select count(*) as number
        from (select from outbox.task t where t.state = 'published' and t.queue = p.queue limit %(more)s) c
    ) n
    where p.queue is not null
    union all
    select t.queue, case when coalesce(t.run_id = any(w.running), true) then 'running' else 'published' end,
        count(*), false
    from outbox.task t
    left join outbox.worker w on w.id = t.worker_id
    where t.state = 'running'
    group by 1, 2
    union all
    select s.queue, s.state, count(*), (select count(*) from scheduled) > %(cap)s
    from scheduled s
    group by 1, 2
    union all
    select w.queue, 'waiting', count(*), (select count(*) from waiting) > %(cap)s
    from waiting w
    group by 1
)
select queue, state, sum(number)::integer, bool_or(at_least) or sum(number) > %(cap)s
from found
group by queue, state
"""

# Cost: for each queue, one index entry a priority in use; and the first `more` scheduled rows of all queues together.
QUEUES = """
with recursive pending as (
    (select t.queue, t.priority, t.due_at
    from outbox.task t
    where t.state = 'pending'
    order by t.queue, t.priority, t.due_at
    limit 1)
    union all
    select next.*
    from pending p
    cross join lateral (
        select t.queue, t.priority, t.due_at
        from outbox.task t
        where t.state = 'pending' and (t.queue, t.priority) > (p.queue, p.priority)
        order by t.queue, t.priority, t.due_at
        limit 1
    ) next
),
overdue as (
    select s.queue, s.due_at
    from (
        select t.queue, t.due_at from outbox.task t where t.state = 'scheduled' order by t.due_at limit %(more)s
    ) s
),
due as (
    select queue, min(due_at) filter (where due_at <= clock_timestamp()) as oldest
    from (select queue, due_at from pending union all select queue, due_at from overdue) a
    group by queue
),
names as (
    select name from outbox.queue
    union
    select queue from due
    union
    select unnest(w.queues) from outbox.worker w
)
select n.name, coalesce(q.paused, false), q.paused_by, q.paused_at, coalesce(q.epoch, 0),
    (select count(*)::integer from outbox.worker w where w.kind = 'worker' and n.name = any(w.queues)),
    case when d.oldest is not null then greatest(clock_timestamp() - d.oldest, interval '0') end
from names n
left join outbox.queue q on q.name = n.name
left join due d on d.queue = n.name
order by n.name
"""

# Cost: the table of processes, and what they run.
WORKERS = """
select w.id, w.kind, w.host, w.pid, w.queues, w.threads, w.started_at, w.beat_at,
    greatest(clock_timestamp() - w.beat_at, interval '0'), w.lease * interval '1 second', cardinality(w.runs),
    array(
        select t.id
        from outbox.task t
        where t.worker_id = w.id and t.state = 'running' and t.run_id = any(w.running)
        order by t.claimed_at)
from outbox.worker w
order by w.kind, w.started_at
"""

# Cost: the newest thousand entries of each table's index on id; in the history, of each partition.
LATE_ACTORS = """
select actor from (select t.actor from outbox.task t order by t.id desc limit 1000) late
union
select actor from (select h.actor from outbox.history h order by h.id desc limit 1000) late
union
select actor from (select d.actor from outbox.dead d order by d.id desc limit 1000) late
"""

# Cost: the tables of queues and processes.
LATE_QUEUES = """
select name from outbox.queue
union
select unnest(w.queues) from outbox.worker w
"""

# Cost: the table of schedules, one index entry of the fires for each.
SCHEDULES = """
select s.name, s.actor, s.queue, s.cron, s.zone, s.missed, s.missed_limit, s.paused, s.retired, s.declared_at,
    s.fired_through, f.fire_at, f.outcome, f.task_id
from outbox.schedule s
left join lateral (
    select * from outbox.fire f where f.schedule = s.name order by f.fire_at desc limit 1
) f on true
order by s.retired, s.name
"""

# Cost: so many entries of the primary key.
FIRES = """
select f.fire_at, f.outcome, f.fired_at, f.task_id
from outbox.fire f
where f.schedule = %(schedule)s
order by f.fire_at desc
limit %(limit)s
"""

# Cost: the newest entries of the primary key until `limit` fit; those of the subject, when one is given.
AUDIT = """
select a.id, a.at, a.who, a.action, a.subject, a.detail
from outbox.audit a
where (%(before)s::bigint is null or a.id < %(before)s::bigint)
and (%(who)s::text is null or a.who = %(who)s::text)
and (%(action)s::text is null or a.action = %(action)s::text)
and (%(subject)s::text is null or a.subject = %(subject)s::text)
order by a.id desc
limit %(limit)s
"""

# Cost: the minutes of that span; of the history and the dead, only what no minute tells yet: the last three minutes, what was
# before the first one that was written, and the rest of the minute of `since`. Runs of minutes count as the middle of their
# bucket. `< 'infinity'` has the planner take a bound that it does not know yet for a narrow one, and the BRIN index. The
# first row is the total.
STATS = """
with written as (
    select greatest(
            date_trunc('minute', %(since)s::timestamptz - interval '1 microsecond', 'UTC') + interval '1 minute',
            min(m.minute)) as low,
        max(m.minute) - interval '2 minutes' as high
    from outbox.minute m
),
span as (
    select case when w.low < w.high then w.low else 'infinity' end as low,
        case when w.low < w.high then w.high else 'infinity' end as high
    from written w
),
minutes as materialized (
    select m.actor, m.succeeded, m.dead, m.cancelled, m.failures, m.runs
    from outbox.minute m
    where m.minute >= (select low from span)
    and m.minute < (select high from span)
),
ended as materialized (
    select h.actor, h.state, h.failures, h.started_at, h.finished_at
    from outbox.history h
    where h.finished_at >= %(since)s
    and h.finished_at < (select low from span)
    union all
    select h.actor, h.state, h.failures, h.started_at, h.finished_at
    from outbox.history h
    where h.finished_at >= (select high from span)
    and h.finished_at < 'infinity'
    union all
    select d.actor, d.state, d.failures, null, d.finished_at
    from outbox.dead d
    where d.finished_at >= %(since)s
    and d.finished_at < (select low from span)
    union all
    select d.actor, d.state, d.failures, null, d.finished_at
    from outbox.dead d
    where d.finished_at >= (select high from span)
),
counted as (
    select m.actor, m.succeeded, m.dead, m.cancelled, m.failures from minutes m
    union all
    select e.actor, (e.state = 'succeeded')::integer, (e.state = 'dead')::integer, (e.state = 'cancelled')::integer,
        e.failures
    from ended e
),
summed as (
    select grouping(c.actor) as whole, c.actor, coalesce(sum(c.succeeded), 0)::integer as succeeded,
        coalesce(sum(c.dead), 0)::integer as dead, coalesce(sum(c.cancelled), 0)::integer as cancelled,
        coalesce(sum(c.failures), 0)::integer as failures
    from counted c
    group by grouping sets ((), (c.actor))
),
ran as (
    select m.actor, 2 ^ ((r.key::integer + 0.5) / 4) / 1000 as seconds, sum(r.value::integer) as number
    from minutes m
    cross join jsonb_each_text(m.runs) r
    group by 1, 2
    union all
    select e.actor, extract(epoch from e.finished_at - e.started_at), count(*)
    from ended e
    where e.state = 'succeeded'
    group by 1, 2
),
ranked as (
    select r.actor, r.seconds, sum(r.number) over (partition by r.actor order by r.seconds) as so_far,
        sum(r.number) over (partition by r.actor) as all_of_them
    from (select actor, seconds, number from ran union all select null, seconds, number from ran) r
),
quantiles as (
    select r.actor, min(r.seconds) filter (where r.so_far >= 0.5 * r.all_of_them) as p50,
        min(r.seconds) filter (where r.so_far >= 0.95 * r.all_of_them) as p95
    from ranked r
    group by r.actor
)
select clock_timestamp(), coalesce(s.actor, ''), s.succeeded, s.dead, s.cancelled, s.failures,
    q.p50 * interval '1 second', q.p95 * interval '1 second'
from summed s
left join quantiles q on q.actor is not distinct from s.actor
order by s.whole desc, s.succeeded + s.dead + s.cancelled desc, s.actor
"""
