"""One act on all tasks that a query fits, which outlives whoever asked for it: a relay carries it on, batch after batch.

The row of an act knows how far it is, and moves in the transaction that acts on the batch: whatever dies at whatever moment,
each task is met once, and has its line in the audit as if somebody had acted on it alone. Tasks are met by their ids, the newest
first, as a search shows them. What is made after the act began is none of it; what comes to fit while it goes on, below where it
is, is.

The query is kept as it was written: whoever puts a secret into one has told it. All functions take a psycopg connection and leave
the transaction to their caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple, get_args
from uuid import UUID

from uuid_utils.compat import uuid7

from outbox import search
from outbox.errors import ArgumentError, OutboxError, WrongState
from outbox.ledger import Conn, Ledger, cleaned
from outbox.operate import check_time
from outbox.query import PublicState, Query, parse
from outbox.reads import Count, Reader, TaskView

__all__ = [
    "ABLE", "ACTIONS", "STATES", "Action", "Bulk", "BulkNotFound", "Bulks", "Found", "Preview", "abort", "begin", "preview",
    "whole",
]  # fmt: skip

Action = Literal["retry", "cancel", "reschedule"]
ACTIONS: tuple[Action, ...] = get_args(Action)

_UNFINISHED: tuple[PublicState, ...] = ("scheduled", "waiting", "pending", "published", "running", "retrying")
#: Which tasks an act is meant for, unless its query names states.
STATES: dict[Action, tuple[PublicState, ...]] = {
    "retry": ("dead",),
    "cancel": _UNFINISHED,
    "reschedule": ("scheduled", "retrying"),
}
#: On which tasks an act can do anything; the others count as refused.
ABLE: dict[Action, frozenset[PublicState]] = {
    "retry": frozenset(("dead", "cancelled", "scheduled", "retrying")),
    "cancel": frozenset(_UNFINISHED),
    "reschedule": frozenset(_UNFINISHED),
}

#: Tasks a second.
FASTEST = 100_000
#: Tasks that a preview shows.
SAMPLE = 5


class BulkNotFound(OutboxError, LookupError):
    """No act on many tasks has this id."""


@dataclass(frozen=True, slots=True)
class Bulk:
    """An act and how far it is: of about `matched` tasks, `done` and `refused` are behind it; `after` is the last one's id."""

    id: UUID
    action: Action
    query: str
    who: str
    reason: str | None
    due_at: datetime | None
    rate: int | None
    state: Literal["running", "done", "aborted", "failed"]
    matched: Count
    after: UUID | None
    done: int
    refused: int
    error: str | None
    created_at: datetime
    moved_at: datetime
    finished_at: datetime | None

    @property
    def seen(self) -> int:
        return self.done + self.refused


@dataclass(frozen=True, slots=True)
class Preview:
    """What an act would meet: how many, in which states, the newest of them; `query` is the line with its states."""

    count: Count
    states: tuple[PublicState, ...]
    sample: list[TaskView]
    query: str


class Found(NamedTuple):
    """A task that an act meets."""

    id: UUID
    state: PublicState


def preview(
    conn: Conn, action: Action, query: Query, *, schema: str = "outbox", within: timedelta = search.WITHIN
) -> Preview:
    """What the act would meet now. Changes nothing. Raises ArgumentError, TookTooLong."""
    wanted, reader = whole(action, query), Reader(schema)
    sample, _ = reader.tasks(conn, wanted, limit=SAMPLE, within=within)
    return Preview(reader.count(conn, wanted, within=within), wanted.states, sample, str(wanted))


def begin(
    conn: Conn,
    ledger: Ledger,
    *,
    action: Action,
    query: Query,
    who: str,
    reason: str | None = None,
    run_at: datetime | None = None,
    delay: timedelta | None = None,
    rate: int | None = None,
    everything: bool = False,
    id: UUID | None = None,
    within: timedelta = search.WITHIN,
) -> Bulk:
    """From the commit on, the act is carried out, by whichever relay lives; `rate` tasks a second, or as fast as it can be.

    Reschedule needs `run_at` or `delay` (from now, by the database's clock), the others take neither. A query that leaves
    nothing out is meant only with `everything`. With the `id` of an act that there is already, that one is answered.
    Raises ArgumentError, TookTooLong; then nothing is begun.
    """
    wanted = whole(action, query)
    _check(action, query, run_at, delay, rate, everything)
    reader, bulks = Reader(ledger.schema), Bulks(ledger.schema)
    now, count = reader.now(conn), reader.count(conn, wanted, within=within)
    line = str(parse(str(wanted.frozen(now))))
    begun = bulks.add(
        conn, id=id or uuid7(), action=action, query=line, who=cleaned(who), reason=cleaned(reason) if reason else None,
        due_at=run_at if delay is None else now + delay, rate=rate, matched=count.number, at_least=count.at_least, now=now,
    )  # fmt: skip
    if begun is None:
        assert id is not None
        return bulks.one(conn, id)
    ledger.audit(
        conn, who=who, action=f"bulk {action}", subject=f"bulk/{begun.id}", query=line, count=str(count), reason=reason
    )
    return begun


def abort(conn: Conn, ledger: Ledger, id: UUID, *, who: str) -> Bulk:
    """From the commit on nothing more is done of it; what was done stays done. Raises BulkNotFound, WrongState."""
    bulks = Bulks(ledger.schema)
    aborted = bulks.end(conn, id, state="aborted", error=None)
    if aborted is None:
        raise WrongState(f"The act {id}", f"is {bulks.one(conn, id).state}: only a running one can be aborted.")
    ledger.audit(conn, who=who, action="abort bulk", subject=f"bulk/{id}", done=aborted.done, refused=aborted.refused)
    return aborted


def whole(action: Action, query: Query) -> Query:
    """The query with the states that the act is meant for, unless it names some. Raises ArgumentError: no such act."""
    if action not in ACTIONS:
        raise ArgumentError(f"action must be one of {', '.join(ACTIONS)}.")
    return query if query.states else replace(query, states=STATES[action])


def _check(
    action: Action, query: Query, run_at: datetime | None, delay: timedelta | None, rate: int | None, everything: bool
) -> None:
    if not query and not everything:
        raise ArgumentError("The query leaves nothing out. To act on all tasks, say so: everything=True.")
    if action == "reschedule":
        check_time(run_at, delay)
    elif (run_at, delay) != (None, None):
        raise ArgumentError("Only reschedule takes run_at or delay.")
    if rate is not None and not 1 <= rate <= FASTEST:
        raise ArgumentError(f"rate must be a whole number from 1 to {FASTEST} tasks a second.")


class Bulks:
    """The statements on the acts, bound to a schema."""

    def __init__(self, schema: str = "outbox") -> None:
        self.schema = schema

    def _run(self, conn: Conn, sql: str, **params: Any) -> list[Any]:
        """Never prepared, as searches are not."""
        text = sql if self.schema == "outbox" else sql.replace("outbox.", f"{self.schema}.")
        return conn.execute(text, params, prepare=False).fetchall()

    # ------------------------------------------------------------------ looking

    def all(self, conn: Conn, *, before: UUID | None = None, limit: int = 50) -> list[Bulk]:
        """Acts with an id below `before`, the newest first."""
        return [_bulk(row) for row in self._run(conn, ALL, before=before, limit=limit)]

    def one(self, conn: Conn, id: UUID) -> Bulk:
        """Raises BulkNotFound."""
        found = self._run(conn, ONE, id=id)
        if not found:
            raise BulkNotFound(f"No act on many tasks has the id {id}.")
        return _bulk(found[0])

    # ------------------------------------------------------------------ its life

    def add(self, conn: Conn, **values: Any) -> Bulk | None:
        """A new act; None when its id is taken."""
        return next(map(_bulk, self._run(conn, ADD, **values)), None)

    def end(self, conn: Conn, id: UUID, *, state: str, error: str | None) -> Bulk | None:
        """A running act is aborted, or failed; None when it does not run."""
        return next(map(_bulk, self._run(conn, END, id=id, state=state, error=error)), None)

    def take(self, conn: Conn, *, most: int, but: Sequence[UUID] = ()) -> tuple[Bulk, int] | None:
        """An act that goes on, this transaction's alone until it ends, and how many tasks it may meet now.

        The longest waiting first, so that all go on. Whoever aborts it meanwhile waits for nobody: `hold` it before acting.
        """
        for (id,) in self._run(conn, RUNNING, but=list(but)):
            if self._run(conn, TAKE, id=id)[0][0]:
                row = self._run(conn, ONE_WITH_ROOM, id=id, most=most)
                if row and row[0][-1]:
                    return _bulk(row[0][:-1]), row[0][-1]
        return None

    def hold(self, conn: Conn, id: UUID) -> bool:
        """Whether it still runs, and will until the transaction ends."""
        return bool(self._run(conn, HOLD, id=id))

    def page(self, conn: Conn, bulk: Bulk, *, limit: int) -> list[Found]:
        """The next tasks that it meets."""
        values = search.values_of(parse(bulk.query), bulk.created_at, before=bulk.after, limit=limit)
        return [Found(*row) for row in self._run(conn, PAGE, **values)]

    def moved(self, conn: Conn, id: UUID, *, after: UUID | None, done: int, refused: int, last: bool) -> None:
        """So many tasks are behind it now, up to that id; and it is done, when these were the last."""
        self._run(conn, MOVED, id=id, after=after, done=done, refused=refused, last=last)


def _bulk(row: Sequence[Any]) -> Bulk:
    *before, matched, at_least, after, done, refused, error, created_at, moved_at, finished_at = row
    return Bulk(*[*before, Count(matched, at_least), after, done, refused, error, created_at, moved_at, finished_at])


ALL = """
select id, action, query, who, reason, due_at, rate, state, matched, matched_at_least, after, done, refused, error,
    created_at, moved_at, finished_at
from outbox.bulk
where %(before)s::uuid is null or id < %(before)s::uuid
order by id desc
limit %(limit)s
"""

ONE = """
select id, action, query, who, reason, due_at, rate, state, matched, matched_at_least, after, done, refused, error,
    created_at, moved_at, finished_at
from outbox.bulk
where id = %(id)s
"""

ADD = """
insert into outbox.bulk (id, action, query, who, reason, due_at, rate, matched, matched_at_least, created_at, moved_at)
values (%(id)s, %(action)s, %(query)s, %(who)s, %(reason)s, %(due_at)s, %(rate)s, %(matched)s, %(at_least)s, %(now)s, %(now)s)
on conflict (id) do nothing
returning id, action, query, who, reason, due_at, rate, state, matched, matched_at_least, after, done, refused, error,
    created_at, moved_at, finished_at
"""

END = """
update outbox.bulk
set state = %(state)s, error = %(error)s, finished_at = clock_timestamp()
where id = %(id)s and state = 'running'
returning id, action, query, who, reason, due_at, rate, state, matched, matched_at_least, after, done, refused, error,
    created_at, moved_at, finished_at
"""

RUNNING = """
select id
from outbox.bulk
where state = 'running' and id <> all(%(but)s::uuid[])
order by moved_at
limit 100
"""

TAKE = "select pg_try_advisory_xact_lock(hashtextextended('outbox.bulk/' || %(id)s::uuid, 0))"

# Of one with a rate, `moved_at` lies as far back as tasks are due: a tenth of a second's at least, a second's at most.
ONE_WITH_ROOM = """
select id, action, query, who, reason, due_at, rate, state, matched, matched_at_least, after, done, refused, error,
    created_at, moved_at, finished_at,
    case
        when rate is null then %(most)s
        when clock_timestamp() - moved_at < greatest(0.1, 1.0 / rate) * interval '1 second' then 0
        else least(%(most)s, greatest(1, floor(rate * least(1, extract(epoch from clock_timestamp() - moved_at)))))
    end::integer
from outbox.bulk
where id = %(id)s and state = 'running'
"""

HOLD = "select from outbox.bulk where id = %(id)s and state = 'running' for update"

PAGE = f"select id, state from ({search.FIND}) found"  # noqa: S608 - of constants

MOVED = """
update outbox.bulk
set after = coalesce(%(after)s, after), done = done + %(done)s, refused = refused + %(refused)s,
    moved_at = case
        when rate is null then clock_timestamp()
        else greatest(moved_at, clock_timestamp() - interval '1 second')
            + (%(done)s + %(refused)s) * interval '1 second' / rate end,
    state = case when %(last)s then 'done' else state end,
    finished_at = case when %(last)s then clock_timestamp() end
where id = %(id)s and state = 'running'
returning id
"""
