"""Why is it not running? One cause, from facts that PostgreSQL holds: since when, until when, and what mends it.

The facts are looked at in the order of the road, each cause before its effects: what holds the task itself, then the
relay, the broker, the queue, its workers. Nothing here asks RabbitMQ: what relays and workers know of it, their
heartbeats tell, at most a fifth of a lease old.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, TypeVar
from uuid import UUID

from psycopg.rows import class_row

from outbox.ledger import Conn
from outbox.reads import CAP, Count, Reader, TaskView
from outbox.times import spelled

__all__ = ["CAUSES", "Explains", "Why", "explain"]

#: Each cause that the outbox knows. Whoever explains more names causes of its own.
CAUSES = {
    "scheduled": "its time has not come",
    "retry_wait": "it failed, and waits for its next attempt",
    "put_off": "its actor or its worker put it off, without a failure",
    "unknown_actor": "the worker that had it knows no such actor",
    "broker_refused": "RabbitMQ refused its message",
    "queue_paused": "an operator paused its queue",
    "expired": "it was not started before it expired",
    "relay_stopped": "no relay is alive",
    "broker_away": "no relay reaches RabbitMQ",
    "broker_blocked": "RabbitMQ takes no messages: an alarm of memory or disk",
    "queue_broken": "RabbitMQ has no such queue, or does not answer for it",
    "queue_full": "as many messages of its queue wait in RabbitMQ as may",
    "relay_behind": "others of its queue are published first",
    "nothing_published": "relays are alive, and do not publish it",
    "about_to_be_published": "a relay will publish it in a moment",
    "no_worker": "no worker is alive that listens to its queue",
    "workers_busy": "every thread of the workers of its queue is at a task",
    "waits_alone": "its worker died with it: it runs next alone in a process",
    "in_queue": "it waits in RabbitMQ, for a moment or behind others",
    "behind_another": "an earlier task of its ordering key has not ended",
    "behind_dead": "a dead task of its ordering key holds up those that follow",
    "lane_held": "its concurrency key is held from outside",
    "limit_reached": "as many of its concurrency key are under way as may",
    "about_to_be_let_go": "a relay will let it go in a moment",
    "handed_over": "a worker has it, and starts it when a thread is free",
    "running": "it runs",
    "cancel_requested": "it runs, and is asked to stop",
    "worker_silent": "the worker that runs it has not been heard of for a lease",
    "succeeded": "it ended well",
    "dead": "it ended, and is not tried again",
    "cancelled": "it was cancelled",
    "skipped": "a middleware skipped it",
}

#: A relay that has had nothing to do before a task for so long should have published it.
PROMPT = timedelta(seconds=10)

Row = TypeVar("Row")

UNKNOWN_ACTOR = "this worker knows no actor "
SKIPPED, EXPIRED = "skipped by a middleware", "expired before it could run"


@dataclass(frozen=True, slots=True)
class Why:
    """Why a task does not run, or that it does. `told` is a sentence for people.

    `since`: since when this has been so, as far as it is known. `until`: when it ends by itself, likewise. `mend`: the
    command or the act that ends it; None where nothing is to be mended.
    """

    cause: str
    told: str
    since: datetime | None = None
    until: datetime | None = None
    mend: str | None = None


#: Asked where the cause is one that others may know the reason of, with that cause; None: no more is known.
Explains = Callable[[Conn, TaskView, Why], Why | None]


def explain(conn: Conn, task: TaskView, *, schema: str = "outbox", others: Sequence[Explains] = ()) -> Why:
    """The one cause. `others` know what the outbox does not: whose lane it is, what its actor waits for.

    The task is looked at again: what it says is as of now.
    """
    look = _Look(conn, schema, task.id)
    why = _of_unfinished(look) if look.found else _of_finished(Reader(schema).task(conn, task.id) or task)
    if why.cause in _OPEN:
        return next((told for each in others if (told := each(conn, task, why)) is not None), why)
    return why


_OPEN = {"retry_wait", "put_off", "lane_held", "limit_reached", "dead"}


@dataclass(frozen=True, slots=True)
class _Facts:
    """The row, its queue, its lane's hold, and who runs it."""

    id: UUID
    now: datetime
    state: str
    actor: str
    queue: str
    priority: int
    created_at: datetime
    due_at: datetime
    published_at: datetime | None
    claimed_at: datetime | None
    expires_at: datetime | None
    lane: str | None
    position: int | None
    failures: int
    refusals: int
    suspect: bool
    cancel_requested: bool
    reason: str | None
    last_outcome: str | None
    last_error: str | None
    last_at: str | None
    paused_by: str | None
    paused_at: datetime | None
    held_until: datetime | None
    owner: str | None
    owner_beat: datetime | None
    owner_lease: timedelta | None
    listed: bool


@dataclass(frozen=True, slots=True)
class _Process:
    """A process by its heartbeat. `told`: what a relay does not publish, each a reason and a queue, or `*` for all."""

    kind: str
    queues: list[str]
    threads: int
    running: int
    beat_at: datetime
    alive: bool
    told: list[str]


@dataclass(frozen=True, slots=True)
class _Lane:
    """What is before a task in its lane. `room`: how many may be under way at once; None: nothing waits there any more."""

    dead: UUID | None
    head: UUID | None
    head_state: str | None
    taken: int
    room: int | None
    before: int


class _Look:
    """The facts, each read when it is first asked for."""

    def __init__(self, conn: Conn, schema: str, id: UUID) -> None:
        self._conn, self._schema = conn, schema
        rows = self._rows(_Facts, FACTS, id=id)
        self.found = rows[0] if rows else None

    @property
    def task(self) -> _Facts:
        assert self.found is not None
        return self.found

    @cached_property
    def processes(self) -> list[_Process]:
        return self._rows(_Process, PROCESSES)

    @cached_property
    def relays(self) -> list[_Process]:
        """Those that live."""
        return [each for each in self.processes if each.kind == "relay" and each.alive]

    @cached_property
    def workers(self) -> list[_Process]:
        """Those that live, and listen to its queue."""
        return [
            each for each in self.processes if each.kind == "worker" and each.alive and self.task.queue in each.queues
        ]

    @cached_property
    def lane(self) -> _Lane:
        task = self.task
        return self._rows(_Lane, LANE, lane=task.lane, position=task.position, more=CAP + 1)[0]

    def before(self, statement: str) -> Count:
        """How many of its queue go first."""
        task = self.task
        values = {
            "queue": task.queue, "priority": task.priority, "due_at": task.due_at, "published_at": task.published_at,
            "more": CAP + 1,
        }  # fmt: skip
        number = self._conn.execute(self._of(statement), values, prepare=False).fetchall()[0][0]
        return Count(min(number, CAP), at_least=number > CAP)

    def _rows(self, kind: type[Row], statement: str, **values: Any) -> list[Row]:
        with self._conn.cursor(row_factory=class_row(kind)) as cursor:
            return cursor.execute(self._of(statement), values, prepare=False).fetchall()

    def _of(self, statement: str) -> str:
        return statement if self._schema == "outbox" else statement.replace("outbox.", f"{self._schema}.")


Check = Callable[[_Look], Why | None]


def _of_unfinished(look: _Look) -> Why:
    answers = (check(look) for check in _ORDER[look.task.state])
    return next(why for why in answers if why is not None)


# ---------------------------------------------------------------------- the task itself


def _unknown_actor(look: _Look) -> Why | None:
    task = look.task
    if not (task.last_error or "").startswith(UNKNOWN_ACTOR):
        return None
    return Why(
        "unknown_actor", f"The worker that had it knows no actor {task.actor}.",
        since=_instant(task.last_at), until=_ahead(task),
        mend=f"Start workers with code that declares {task.actor}: outbox --app MODULE worker --queues {task.queue}",
    )  # fmt: skip


def _not_due(look: _Look) -> Why | None:
    task = look.task
    if task.due_at <= task.now:
        return None
    due, mend = f"{task.due_at:%Y-%m-%d %H:%M:%S %Z}", f"outbox tasks retry {task.id}"
    told_by_attempt = task.last_outcome is not None and task.reason == task.last_error
    if task.refusals and task.reason and not told_by_attempt:
        told = f"RabbitMQ refused its message; it is sent again at {due}: {task.reason}"
        return Why("broker_refused", told, until=task.due_at, mend="outbox doctor")
    if task.last_outcome == "failed":
        told = f"It failed {_times(task.failures)}, and is tried again at {due}: {task.reason}"
        return Why("retry_wait", told, since=_instant(task.last_at), until=task.due_at, mend=mend)
    if told_by_attempt:
        told = f"It was put off until {due}: {task.reason}"
        return Why("put_off", told, since=_instant(task.last_at), until=task.due_at, mend=mend)
    return Why("scheduled", f"It is scheduled for {due}.", since=task.created_at, until=task.due_at, mend=mend)


def _expired(look: _Look) -> Why | None:
    task = look.task
    if task.expires_at is None or task.expires_at > task.now:
        return None
    return Why("expired", "It was not started before it expired; a relay ends it.", since=task.expires_at)


# ---------------------------------------------------------------------- queue, relay, broker


def _paused(look: _Look) -> Why | None:
    task = look.task
    if task.paused_at is None:
        return None
    told = f"The queue {task.queue} is paused by {task.paused_by}."
    return Why("queue_paused", told, since=task.paused_at, mend=f"outbox queues resume {task.queue}")


def _no_relay(look: _Look) -> Why | None:
    if look.relays:
        return None
    seen = [each.beat_at for each in look.processes if each.kind == "relay"]
    told = "No relay is alive: nothing is published, let go or rescued."
    return Why("relay_stopped", told, since=max(seen, default=None), mend="Start: outbox relay")


#: What relays tell of a queue or of all: cause, sentence, mend.
_TOLD = {
    "away": ("broker_away", "No relay reaches RabbitMQ.", "See that RabbitMQ runs, and RABBITMQ_URL: outbox doctor"),
    "blocked": (
        "broker_blocked", "RabbitMQ takes no messages: an alarm of its memory or disk.",
        "Give RabbitMQ memory or disk; see rabbitmq-diagnostics alarms",
    ),
    "broken": ("queue_broken", "RabbitMQ cannot have its queue, or does not answer for it.", "outbox doctor"),
    "full": (
        "queue_full", "As many messages of its queue wait in RabbitMQ as may; workers are slower than what comes.",
        "Start more: outbox worker --queues {queue}",
    ),
}  # fmt: skip


def _broker(look: _Look) -> Why | None:
    """Only what every relay tells: one that can, publishes it."""
    task = look.task
    told = [_reason(relay, task.queue) for relay in look.relays]
    if None in told:
        return None
    cause, sentence, mend = _TOLD[told[0] or "away"]
    if cause == "queue_full" and (missing := _no_worker(look)) is not None:
        return missing
    return Why(cause, sentence, since=task.due_at, mend=mend.format(queue=task.queue))


def _reason(relay: _Process, queue: str) -> str | None:
    for each in relay.told:
        reason, _, name = each.partition(" ")
        if name in ("*", queue) and reason in _TOLD:
            return reason
    return None


def _relay_behind(look: _Look) -> Why | None:
    before = look.before(PENDING_BEFORE)
    if not before.number:
        return None
    told = f"Of the queue {look.task.queue} are published first: {before}."
    return Why(
        "relay_behind", told, since=look.task.due_at, mend="If this lasts: outbox doctor, and a second outbox relay"
    )


def _published_soon(look: _Look) -> Why:
    task = look.task
    if task.now - task.due_at > PROMPT:
        told = f"Relays are alive ({len(look.relays)}) and have not published it, although nothing goes before it."
        return Why("nothing_published", told, since=task.due_at, mend="See the relays' log: outbox doctor")
    return Why("about_to_be_published", "A relay will publish it in a moment.", since=task.due_at)


# ---------------------------------------------------------------------- lanes


def _behind_dead(look: _Look) -> Why | None:
    lane = look.lane
    if lane.dead is None:
        return None
    told = f"Task {lane.dead} of the same key is dead, and holds up those that follow."
    return Why("behind_dead", told, since=look.task.created_at, mend=f"outbox tasks retry {lane.dead}")


def _behind_another(look: _Look) -> Why | None:
    lane = look.lane
    if not (look.task.lane or "").startswith("order/") or lane.head is None:
        return None
    if lane.head_state == "waiting" and (stopped := _no_relay(look)) is not None:
        return stopped
    told = f"Task {lane.head} of the same ordering key is {lane.head_state}, and comes first; waiting before it: {lane.before}."
    return Why("behind_another", told, since=look.task.created_at, mend=f"outbox tasks show {lane.head}")


def _lane_held(look: _Look) -> Why | None:
    task = look.task
    if task.held_until is None or task.held_until <= task.now:
        return None
    told = f"The concurrency key {_key(task)} is held until {task.held_until:%Y-%m-%d %H:%M:%S %Z}."
    return Why("lane_held", told, since=task.created_at, until=task.held_until)


def _limit_reached(look: _Look) -> Why | None:
    task, lane = look.task, look.lane
    if lane.room is None or lane.taken < lane.room:
        return None
    told = f"{lane.taken} of at most {lane.room} with the concurrency key {_key(task)} are under way; waiting before it: {lane.before}."
    return Why("limit_reached", told, since=task.created_at)


def _let_go_soon(look: _Look) -> Why:
    return Why("about_to_be_let_go", "A relay will let it go in a moment.", since=look.task.due_at)


# ---------------------------------------------------------------------- workers


def _no_worker(look: _Look) -> Why | None:
    task = look.task
    if look.workers:
        return None
    seen = [each.beat_at for each in look.processes if each.kind == "worker" and task.queue in each.queues]
    told = f"No worker is alive that listens to the queue {task.queue}."
    mend = f"Start: outbox worker --queues {task.queue}"
    return Why("no_worker", told, since=max(seen, default=task.published_at), mend=mend)


def _waits_alone(look: _Look) -> Why | None:
    task = look.task
    if not task.suspect:
        return None
    told = "Its worker died with it, so it runs next alone in a process: when one has nothing else in hand."
    return Why(
        "waits_alone",
        told,
        since=_instant(task.last_at),
        mend=f"Give it an idle process: outbox worker --queues {task.queue}",
    )


def _workers_busy(look: _Look) -> Why | None:
    task, workers = look.task, look.workers
    if not all(each.running >= each.threads for each in workers):
        return None
    threads = sum(each.threads for each in workers)
    told = f"Workers of the queue {task.queue}: {len(workers)}; their threads, all of them at a task: {threads}."
    return Why("workers_busy", told, since=task.published_at, mend=f"Start more: outbox worker --queues {task.queue}")


def _in_queue(look: _Look) -> Why:
    told = (
        f"It waits in RabbitMQ. Of its queue were published before it, and wait too: {look.before(PUBLISHED_BEFORE)}."
    )
    return Why("in_queue", told, since=look.task.published_at)


def _worker_silent(look: _Look) -> Why | None:
    task = look.task
    if task.owner_beat is not None and task.owner_lease is not None and task.now - task.owner_beat <= task.owner_lease:
        return None
    told = f"The worker that runs it, {task.owner or 'which is gone'}, is silent: its tasks start again in seconds."
    return _no_relay(look) or Why("worker_silent", told, since=task.owner_beat or task.claimed_at)


def _runs(look: _Look) -> Why:
    task, heard = look.task, ""
    if task.owner_beat is not None:
        heard = f", last heard of {spelled(max(timedelta(), _rounded(task.now - task.owner_beat)))} ago"
    if not task.listed:
        told = f"The worker {task.owner} has it{heard}; it starts when a thread is free, or goes back."
        return Why("handed_over", told, since=task.claimed_at)
    if task.cancel_requested:
        told = (
            f"The worker {task.owner} runs it{heard}; it is asked to stop, and is cancelled unless it succeeds first."
        )
        return Why("cancel_requested", told, since=task.claimed_at)
    return Why("running", f"The worker {task.owner} runs it{heard}.", since=task.claimed_at)


# ---------------------------------------------------------------------- ended


def _of_finished(task: TaskView) -> Why:
    retry = f"outbox tasks retry {task.id}"
    if task.state == "succeeded":
        return Why("succeeded", "It succeeded.", since=task.finished_at)
    if task.state == "dead":
        return Why(
            "dead",
            f"It is dead, having failed {_times(task.failures)}: {task.reason}",
            since=task.finished_at,
            mend=retry,
        )
    cause = {SKIPPED: "skipped", EXPIRED: "expired"}.get(task.reason or "", "cancelled")
    return Why(cause, f"It is cancelled: {task.reason}", since=task.finished_at, mend=retry)


_ORDER: dict[str, tuple[Check, ...]] = {
    "scheduled": (_unknown_actor, _not_due, _expired, _paused, _no_relay, _published_soon),
    "waiting": (
        _expired, _behind_dead, _behind_another, _lane_held, _limit_reached, _paused, _no_relay, _let_go_soon
    ),
    "pending": (_unknown_actor, _expired, _paused, _no_relay, _broker, _relay_behind, _published_soon),
    "published": (_unknown_actor, _expired, _paused, _no_worker, _waits_alone, _workers_busy, _in_queue),
    "running": (_worker_silent, _runs),
}  # fmt: skip


def _key(task: _Facts) -> str:
    return (task.lane or "").partition("/")[2]


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _ahead(task: _Facts) -> datetime | None:
    return task.due_at if task.due_at > task.now else None


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _rounded(span: timedelta) -> timedelta:
    return timedelta(seconds=round(span.total_seconds(), 1))


# Cost: one index descent each.
FACTS = """
select t.id, clock_timestamp() as now, t.state, t.actor, t.queue, t.priority, t.created_at, t.due_at, t.published_at,
    t.claimed_at, t.expires_at, t.lane, t.position, t.failures, t.refusals, t.suspect, t.cancel_requested, t.reason,
    t.attempts -> -1 ->> 'outcome' as last_outcome, t.attempts -> -1 ->> 'error' as last_error,
    t.attempts -> -1 ->> 'finished_at' as last_at, q.paused_by, q.paused_at, l.held_until,
    w.host || ' (pid ' || w.pid || ')' as owner, w.beat_at as owner_beat, w.lease * interval '1 second' as owner_lease,
    coalesce(t.run_id = any(w.running), false) as listed
from outbox.task t
left join outbox.queue q on q.name = t.queue and q.paused
left join outbox.lane l on l.name = t.lane
left join outbox.worker w on w.id = t.worker_id
where t.id = %(id)s
"""

# Cost: the table of processes. Twice the lease: a beat comes every fifth of it, and clocks are no proof of death.
PROCESSES = """
select w.kind, w.queues, w.threads, cardinality(w.running) as running, w.beat_at,
    clock_timestamp() - w.beat_at < 2 * w.lease * interval '1 second' as alive,
    case when w.kind = 'relay' then w.unclaimed else '{}' end as told
from outbox.worker w
"""

# Cost: up to `more` entries of the index on what is waiting, and what is under way of the lane, which its limit bounds.
LANE = """
select
    (select d.id from outbox.dead d where d.lane = %(lane)s and d.lane_holds limit 1) as dead,
    head.id as head, head.state as head_state,
    (select count(*) from outbox.task a
    where a.lane = %(lane)s and a.state <> 'waiting' and a.state in ('pending', 'published', 'running')) as taken,
    (select least(coalesce(w.lane_limit, 1), l.places) from outbox.task w
    left join outbox.lane l on l.name = w.lane
    where w.lane = %(lane)s and w.state = 'waiting'
    order by w.position
    limit 1) as room,
    (select count(*) from (
        select from outbox.task b
        where b.lane = %(lane)s and b.state = 'waiting' and b.position < %(position)s
        limit %(more)s) c) as before
from (select) one
left join lateral (
    (select a.id, a.state from outbox.task a
    where a.lane = %(lane)s and a.state <> 'waiting'
    order by a.position
    limit 1)
    union all
    (select b.id, b.state from outbox.task b
    where b.lane = %(lane)s and b.state = 'waiting' and b.position < %(position)s
    order by b.position
    limit 1)
    limit 1
) head on true
"""

# Cost: up to `more` entries of the index of the claim.
PENDING_BEFORE = """
select count(*)
from (
    select from outbox.task t
    where t.state = 'pending' and t.queue = %(queue)s and (t.priority, t.due_at) < (%(priority)s, %(due_at)s)
    limit %(more)s
) before
"""

# Cost: up to `more` entries of the index on what is published.
PUBLISHED_BEFORE = """
select count(*)
from (
    select from outbox.task t
    where t.state = 'published' and t.queue = %(queue)s and t.published_at < %(published_at)s
    limit %(more)s
) before
"""
