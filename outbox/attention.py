"""What needs attention: sentences, only while they are true, each with what mends it. None: all is clear.

From what PostgreSQL holds: heartbeats, the heads of the indexes, what ended in the last minutes. Nothing asks RabbitMQ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Literal, NamedTuple

from outbox.calendar import calendar_of
from outbox.cron import GRACE
from outbox.ledger import Conn
from outbox.query import Query
from outbox.reads import Count, QueueView, Reader, ScheduleView
from outbox.times import spelled

__all__ = ["Concern", "Severity", "attention"]

Severity = Literal["serious", "notice"]

#: A due task that waits longer for the relay is late; a pause or a silence that lasts longer may have been forgotten.
LATE, LONG = timedelta(seconds=30), timedelta(minutes=10)
#: What died within this span counts, and from so many on it is serious; what is tried again within it, likewise.
DEAD_WITHIN, MANY = timedelta(hours=1), 10
FAILING_WITHIN = timedelta(minutes=15)
MISSED_WITHIN = timedelta(days=1)
#: Dead and retrying tasks that are looked at, the newest and those due next: enough to tell that something is wrong, and of whom.
SAMPLE = 1000


@dataclass(frozen=True, slots=True)
class Concern:
    """Something that is not as it should be. `told` is a sentence for people; `mend`, the command or act that ends it.

    `since`: since when, as far as it is known. `runbook`: the section of docs/runbooks.md. `query`: the tasks that it is about,
    in the query language. `subject`: the queue, schedule or process.
    """

    cause: str
    told: str
    severity: Severity
    runbook: str
    since: datetime | None = None
    mend: str | None = None
    query: str | None = None
    subject: str | None = None


#: What else somebody knows that needs attention.
Concerns = Callable[[Conn], Sequence[Concern]]


def attention(
    conn: Conn,
    *,
    schema: str = "outbox",
    others: Sequence[Concerns] = (),
    queues: list[QueueView] | None = None,
) -> list[Concern]:
    """Every concern, the serious ones first, then those that have lasted longest. `queues`: where they were just read."""
    look = _Look(conn, schema, queues)
    found = [concern for check in _CHECKS for concern in check(look)]
    found += [concern for each in others for concern in each(conn)]
    return sorted(found, key=lambda each: (each.severity != "serious", each.since or look.now))


class _Process(NamedTuple):
    """A process by its heartbeat. `told`: what a relay does not publish, each a reason and a queue, or `*` for all."""

    kind: str
    host: str
    pid: int
    queues: list[str]
    threads: int
    running: int
    beat_at: datetime
    alive: bool
    told: list[str]
    now: datetime


class _Look:
    """The facts, each read when it is first asked for."""

    def __init__(self, conn: Conn, schema: str, queues: list[QueueView] | None = None) -> None:
        self._conn, self._schema = conn, schema
        self._reader = Reader(schema)
        self._queues = queues

    @cached_property
    def now(self) -> datetime:
        return self.processes[0].now if self.processes else self._reader.now(self._conn)

    @cached_property
    def processes(self) -> list[_Process]:
        return [_Process(*row) for row in self.rows(PROCESSES)]

    @cached_property
    def queues(self) -> list[QueueView]:
        return self._reader.queues(self._conn) if self._queues is None else self._queues

    @cached_property
    def schedules(self) -> list[ScheduleView]:
        """Those that should fire."""
        found = self._reader.schedules(self._conn)
        return [each for each in found if not each.paused and not each.retired]

    def alive(self, kind: str, queue: str | None = None) -> list[_Process]:
        """Living processes of a kind; of workers, those that listen to the queue."""
        return [each for each in self.processes if each.kind == kind and each.alive and queue in (None, *each.queues)]

    def last_seen(self, kind: str, queue: str | None = None) -> datetime | None:
        seen = [each.beat_at for each in self.processes if each.kind == kind and queue in (None, *each.queues)]
        return max(seen, default=None)

    def rows(self, statement: str, **values: Any) -> list[Any]:
        text = statement if self._schema == "outbox" else statement.replace("outbox.", f"{self._schema}.")
        return self._conn.execute(text, values, prepare=False).fetchall()


# ---------------------------------------------------------------------- the relay, and what it tells of RabbitMQ


def _no_relay(look: _Look) -> Iterator[Concern]:
    if not look.alive("relay"):
        told = "No relay is alive: nothing is published, no delayed task becomes due, no dead worker's task is rescued."
        seen = look.last_seen("relay")
        yield Concern("no_relay", told, "serious", "OutboxNoRelay", seen, "Start: outbox relay", "state:pending")


def _broker(look: _Look) -> Iterator[Concern]:
    """Only what every relay tells: one that can, publishes."""
    told = [set(each.told) for each in look.alive("relay")]
    for reason in sorted(set.intersection(*told) if told else ()):
        what, _, queue = reason.partition(" ")
        if what in _TOLD:
            sentence, severity, runbook, mend = _TOLD[what]
            about = None if queue == "*" else queue
            yield Concern(
                f"broker_{what}", sentence.format(queue=queue), severity, runbook, None, mend.format(queue=queue),
                _query(about, "pending"), about,
            )  # fmt: skip


_TOLD: dict[str, tuple[str, Severity, str, str]] = {
    "away": ("No relay reaches RabbitMQ.", "serious", "OutboxRelayNotReady", "See that RabbitMQ runs, and RABBITMQ_URL: outbox doctor"),
    "blocked": (
        "RabbitMQ takes no messages: an alarm of its memory or disk.", "serious", "OutboxRelayNotReady",
        "Give RabbitMQ memory or disk; see rabbitmq-diagnostics alarms",
    ),
    "broken": (
        "RabbitMQ cannot have the queue {queue}, or does not answer for it.", "serious", "OutboxRelayNotReady", "outbox doctor",
    ),
    "full": (
        "As many messages of the queue {queue} wait in RabbitMQ as may: workers are slower than what comes.", "notice",
        "OutboxLag", "Start more: outbox worker --queues {queue}",
    ),
}  # fmt: skip


def _relay_behind(look: _Look) -> Iterator[Concern]:
    """A queue that is open, has room and waits all the same."""
    relays = look.alive("relay")
    left_out = {name for each in relays for _, _, name in [told.partition(" ") for told in each.told]}
    if not relays or "*" in left_out:
        return
    for queue in look.queues:
        if queue.oldest_due and queue.oldest_due > LATE and not queue.paused and queue.name not in left_out:
            told = f"The relay is {_span(queue.oldest_due)} behind: {_of(queue, 'pending')} of the queue {queue.name} are due."
            yield Concern(
                "relay_behind", told, "serious", "OutboxLag", look.now - queue.oldest_due,
                "See the relays' log: outbox doctor. If it lasts, start a second outbox relay", _query(queue.name, "pending"), queue.name,
            )  # fmt: skip


# ---------------------------------------------------------------------- queues and workers


def _no_workers(look: _Look) -> Iterator[Concern]:
    for queue in look.queues:
        waiting = _of(queue, "pending", "published", "running", "waiting", "retrying")
        if waiting.number and not queue.paused and not look.alive("worker", queue.name):
            told = f"The queue {queue.name} has {_tasks(waiting)} and no worker."
            seen = look.last_seen("worker", queue.name)
            mend = f"Start: outbox worker --queues {queue.name}"
            yield Concern(
                "no_worker", told, "serious", "OutboxQueueWithoutWorkers", seen, mend, _query(queue.name), queue.name
            )


def _workers_busy(look: _Look) -> Iterator[Concern]:
    for queue in look.queues:
        workers, waiting = look.alive("worker", queue.name), _of(queue, "published")
        threads = sum(each.threads for each in workers)
        if workers and all(each.running >= each.threads for each in workers) and waiting.number > 10 * threads:
            told = f"Every thread of the workers of {queue.name} is at a task ({threads}), and {_tasks(waiting)} wait for one."
            mend = f"Start more: outbox worker --queues {queue.name}"
            yield Concern(
                "workers_busy", told, "notice", "OutboxLag", None, mend, _query(queue.name, "published"), queue.name
            )


def _paused(look: _Look) -> Iterator[Concern]:
    for queue in look.queues:
        if queue.paused and queue.paused_at and look.now - queue.paused_at > LONG:
            told = f"The queue {queue.name} is paused by {queue.paused_by}; unfinished: {_of(queue, *queue.counts)}."
            mend = f"outbox queues resume {queue.name}"
            yield Concern(
                "queue_paused", told, "notice", "OutboxLag", queue.paused_at, mend, _query(queue.name), queue.name
            )


def _silent(look: _Look) -> Iterator[Concern]:
    """Rescued within seconds while a relay lives; one that stays is worth a look."""
    for each in look.processes:
        if not each.alive and look.now - each.beat_at > LONG / 10:
            name = f"{each.host} (pid {each.pid})"
            told = f"The {each.kind} {name} is silent: it died or hangs, and no relay has rescued its tasks yet."
            yield Concern(
                "process_silent", told, "notice", "OutboxWorkersDying", each.beat_at, "outbox doctor", None, name
            )


# ---------------------------------------------------------------------- schedules


def _no_scheduler(look: _Look) -> Iterator[Concern]:
    if look.schedules and not look.alive("scheduler"):
        told = f"No scheduler is alive: {len(look.schedules)} schedules do not fire."
        mend = "Start: outbox --app MODULE scheduler"
        yield Concern("no_scheduler", told, "serious", "OutboxNoScheduler", look.last_seen("scheduler"), mend)


def _schedules_missed(look: _Look) -> Iterator[Concern]:
    for each in look.schedules:
        missed = _missed(each, look.now)
        if missed is not None:
            told = f"The schedule {each.name} missed its fire of {missed:%Y-%m-%d %H:%M %Z}."
            mend = f"outbox schedules run {each.name}"
            yield Concern("schedule_missed", told, "notice", "OutboxScheduleMissed", missed, mend, None, each.name)


def _missed(schedule: ScheduleView, now: datetime) -> datetime | None:
    """The fire that nobody was there for: recorded so, or due for longer than a scheduler would let it be."""
    if schedule.last_outcome == "missed" and schedule.last_fire_at and now - schedule.last_fire_at < MISSED_WITHIN:
        return schedule.last_fire_at
    following = next(iter(calendar_of(schedule.cron, schedule.zone).after(schedule.fired_through)), None)
    return following if following is not None and now - following > 2 * GRACE else None


# ---------------------------------------------------------------------- tasks


def _dead(look: _Look) -> Iterator[Concern]:
    rows = look.rows(DEAD, within=DEAD_WITHIN, more=SAMPLE + 1)
    total = sum(number for _, number, _ in rows)
    if total:
        actor, number, _ = rows[0]
        count, first = Count(min(total, SAMPLE), total > SAMPLE), min(at for _, _, at in rows)
        told = f"{_tasks(count)} died in the last hour, most of them ({number}) of {actor}."
        query = Query(states=("dead",), since=DEAD_WITHIN)
        yield Concern(
            "dead_rising", told, "serious" if total >= MANY else "notice", "OutboxDeadRising", first,
            "See why they failed, then retry them: outbox failures list", str(query), actor,
        )  # fmt: skip


def _failing(look: _Look) -> Iterator[Concern]:
    """Actors of which at least as many wait for another try as succeeded lately."""
    for actor, retrying, succeeded in look.rows(FAILING, within=FAILING_WITHIN, more=SAMPLE):
        if retrying >= MANY and retrying >= succeeded:
            told = f"Of {actor} {retrying} tasks failed and wait for another try; {succeeded} succeeded in the last quarter of an hour."
            yield Concern(
                "failing", told, "serious", "OutboxDeadRising", None, "See why they fail: outbox failures list",
                str(Query(states=("retrying",), actors=(actor,))), actor,
            )  # fmt: skip


def _held_up(look: _Look) -> Iterator[Concern]:
    (number, example, since) = look.rows(HELD_UP, most=1000)[0]
    if number:
        told = f"Dead tasks hold up those that follow with the same ordering key: {number}{'+' if number == 1000 else ''} keys."
        mend = f"Retry or cancel what is dead, for example: outbox tasks retry {example}"
        yield Concern(
            "held_up", told, "serious", "OutboxDeadRising", since, mend, f"id:{str(example).replace('-', '')}"
        )


_CHECKS: tuple[Callable[[_Look], Iterator[Concern]], ...] = (
    _no_relay, _broker, _relay_behind, _no_workers, _workers_busy, _paused, _silent, _no_scheduler, _schedules_missed,
    _dead, _failing, _held_up,
)  # fmt: skip


def _of(queue: QueueView, *states: str) -> Count:
    found = [queue.counts[state] for state in states if state in queue.counts]
    return Count(sum(each.number for each in found), any(each.at_least for each in found))


def _tasks(count: Count) -> str:
    return "1 task" if str(count) == "1" else f"{count} tasks"


def _query(queue: str | None, *states: Any) -> str:
    return str(Query(states=states, queues=(queue,) if queue else ()))


def _span(span: timedelta) -> str:
    return spelled(timedelta(seconds=round(span.total_seconds())))


# Cost: the table of processes. Twice the lease: a beat comes every fifth of it, and clocks are no proof of death.
PROCESSES = """
select w.kind, w.host, w.pid, w.queues, w.threads, cardinality(w.running), w.beat_at,
    clock_timestamp() - w.beat_at < 2 * w.lease * interval '1 second',
    case when w.kind = 'relay' then w.unclaimed else '{}' end, clock_timestamp()
from outbox.worker w
order by w.started_at
"""

# Cost: up to `more` of the newest entries of the index of dead tasks by time.
DEAD = """
select d.actor, count(*), min(d.finished_at)
from (
    select d.actor, d.finished_at
    from outbox.dead d
    where d.finished_at >= clock_timestamp() - %(within)s
    order by d.finished_at desc
    limit %(more)s
) d
group by d.actor
order by count(*) desc, d.actor
"""

# Cost: the first `more` entries of the index of scheduled tasks, and the minutes of that span.
FAILING = """
with retrying as (
    select s.actor, count(*) as number
    from (
        select t.actor, t.failures from outbox.task t where t.state = 'scheduled' order by t.due_at limit %(more)s
    ) s
    where s.failures > 0
    group by s.actor
),
succeeded as (
    select m.actor, sum(m.succeeded) as number
    from outbox.minute m
    where m.minute >= clock_timestamp() - %(within)s
    group by m.actor
)
select r.actor, r.number, coalesce(s.number, 0)
from retrying r
left join succeeded s on s.actor = r.actor
order by r.number desc, r.actor
"""

# Cost: up to `most` entries of the index of dead tasks that hold their lane, and one of the index of waiting ones for each.
HELD_UP = """
select count(*)::integer, (array_agg(h.id))[1], min(h.finished_at)
from (
    select d.id, d.finished_at
    from (select d.id, d.lane, d.finished_at from outbox.dead d where d.lane_holds limit %(most)s) d
    where exists (select from outbox.task t where t.lane = d.lane and t.state = 'waiting')
) h
"""
