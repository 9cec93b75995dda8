"""Cron: what actors declare, and the transactions that make of each tick exactly one task.

    @dramatiq.actor(periodic=cron("30 2 * * mon-fri"), cron_zone="Europe/Paris", missed="last")
    def nightly_report() -> None: ...

A fire is a row, unique by schedule and fire time, written together with its task: any number of schedulers, killed
at any moment, enqueue each once. The database's clock decides what is due. All functions take a psycopg connection
and leave the transaction to their caller; the process that calls them is in `outbox/scheduler.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args
from uuid import UUID

import dramatiq
from dramatiq.middleware import Middleware, MiddlewareError

from outbox.calendar import calendar_of
from outbox.enqueue import row_of, task_of
from outbox.errors import ConfigurationError, OutboxError, WrongState
from outbox.ledger import Conn, Ledger
from outbox.logs import get_logger
from outbox.models import Task

if TYPE_CHECKING:
    from outbox.reads import ScheduleView
    from outbox.settings import Settings

__all__ = [
    "Cron",
    "Fired",
    "Missed",
    "Schedule",
    "ScheduleNotFound",
    "declare",
    "divide",
    "fire_due",
    "main",
    "next_fires",
    "pause",
    "prune",
    "resume",
    "retire",
    "run_now",
    "schedule_of",
    "states",
]

Missed = Literal["all", "last", "none"]

#: A fire that is later than this was missed: nobody was there to fire it.
GRACE = timedelta(seconds=60)
#: A schedule that no scheduler has declared for this long is retired; one retired for `ANEW` begins anew.
RETIRED, ANEW = timedelta(minutes=3), timedelta(days=1)
#: Rows of fires are kept this long, the last one of each schedule for ever.
KEPT = timedelta(days=90)

log = get_logger("outbox.cron")


# ---------------------------------------------------------------------- what actors declare


class CronError(ConfigurationError, MiddlewareError):
    """A periodic actor that cannot be scheduled as declared. (Dramatiq lets no other error of a middleware through.)"""


class ScheduleNotFound(OutboxError, LookupError):
    """No schedule of this name was ever declared."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """What a periodic actor declares: when it fires, and what becomes of fires that were missed.

    `all`: each missed one runs, up to the newest `missed_limit`; `last`: the newest; `none`: nothing.
    """

    name: str
    queue: str
    cron: str
    zone: str = "UTC"
    missed: Missed = "last"
    missed_limit: int = 100


class Cron(Middleware):
    """Gives actors the options `periodic`, `cron_zone`, `missed` and `missed_limit`. It declares; schedulers fire.

    `periodic` is periodiq's `cron("…")`, or the expression as text. Tasks carry the time that they were due as the
    message option `scheduled_at`, in ISO 8601. Raises CronError where the actor is declared.
    """

    @property
    def actor_options(self) -> set[str]:
        return {"periodic", "cron_zone", "missed", "missed_limit"}

    def before_declare_actor(self, broker: dramatiq.Broker, actor: dramatiq.Actor[Any, Any]) -> None:
        if schedule_of(actor) and any(type(each).__module__ == "periodiq" for each in broker.middleware):
            raise CronError(
                "PeriodiqMiddleware drops what it finds late: remove it, the outbox's own Cron reads `periodic`."
            )


def schedule_of(actor: dramatiq.Actor[Any, Any]) -> Schedule | None:
    """The schedule that an actor declares, checked; None for an actor that is not periodic. Raises CronError."""
    name, options = actor.actor_name, actor.options
    if options.get("periodic") is None:
        beside = sorted({"cron_zone", "missed", "missed_limit"} & options.keys())
        if beside:
            raise CronError(f"{name}: {', '.join(beside)} without periodic=cron(…).")
        return None
    schedule = Schedule(
        name=name,
        queue=actor.queue_name,
        cron=str(options["periodic"]),
        zone=options.get("cron_zone", "UTC"),
        missed=options.get("missed", "last"),
        missed_limit=options.get("missed_limit", 100),
    )
    _check(schedule, actor)
    return schedule


def _check(schedule: Schedule, actor: dramatiq.Actor[Any, Any]) -> None:
    if not isinstance(schedule.zone, str):
        raise CronError(f"{schedule.name}: cron_zone must be text such as 'Europe/Paris', not {schedule.zone!r}.")
    try:
        calendar_of(schedule.cron, schedule.zone)
    except ConfigurationError as error:
        raise CronError(f"{schedule.name}: {error}") from None
    if schedule.missed not in get_args(Missed):
        raise CronError(f"{schedule.name}: missed must be 'all', 'last' or 'none', not {schedule.missed!r}.")
    limit = schedule.missed_limit
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= 10_000:
        raise CronError(f"{schedule.name}: missed_limit must be a whole number from 1 to 10000, not {limit!r}.")
    needed = [
        each.name
        for each in inspect.signature(actor.fn).parameters.values()
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if needed:
        raise CronError(f"{schedule.name}: a periodic actor gets no arguments: give {', '.join(needed)} a default.")


# ---------------------------------------------------------------------- what schedulers do


class State(NamedTuple):
    """A schedule's row, and the database's time at which it was read."""

    name: str
    actor: str
    queue: str
    cron: str
    zone: str
    missed: Missed
    missed_limit: int
    paused: bool
    retired: bool
    fired_through: datetime
    now: datetime


class Fired(NamedTuple):
    """What a transaction enqueued, as how late each fire was, and how many fires it wrote down as missed."""

    late: Sequence[timedelta] = ()
    missed: int = 0


def states(conn: Conn, ledger: Ledger, names: Iterable[str]) -> dict[str, State]:
    """The schedules of these names, as far as they exist."""
    rows = _ask(conn, ledger, STATES, names=list(names))
    return {row[0]: State(*row) for row in rows}


def declare(conn: Conn, ledger: Ledger, schedule: Schedule) -> Fired:
    """The schedule is as declared from now on. A new one never fires for the past.

    What was due by an earlier expression or zone fires by it first; so no change loses a fire. A schedule that
    was retired for more than a day begins anew.
    """
    rows = _ask(conn, ledger, LOCK, name=schedule.name)
    before = State(*rows[0]) if rows else None
    fired = Fired()
    if before and (before.cron, before.zone) != (schedule.cron, schedule.zone):
        with suppress(ConfigurationError):
            fired = _fire(conn, ledger, before)
    _ask(
        conn, ledger, DECLARE, name=schedule.name, queue=schedule.queue, cron=schedule.cron, zone=schedule.zone,
        missed=schedule.missed, missed_limit=schedule.missed_limit, now=before and before.now, anew=ANEW,
    )  # fmt: skip
    return fired


def retire(conn: Conn, ledger: Ledger, declared: Iterable[str]) -> list[str]:
    """Say that these are still declared, and retire those that nobody has declared for a while. Answers the retired.

    Another application's scheduler says the same of its own, so that two of them can share the tables.
    """
    names = list(declared)
    _ask(conn, ledger, RENEW, names=names)
    return [name for (name,) in _ask(conn, ledger, RETIRE, names=names, since=RETIRED)]


def fire_due(conn: Conn, ledger: Ledger, name: str) -> Fired:
    """Enqueue what is due of a schedule, unless another scheduler is at it: each fire once, in this transaction."""
    rows = _ask(conn, ledger, LOCK_UNLESS_TAKEN, name=name)
    if not rows:
        return Fired()
    state = State(*rows[0])
    if state.fired_through - state.now > GRACE:
        log.warning("the database's clock was set back; the schedule follows", schedule=name)
        _ask(conn, ledger, FORGET_FUTURE, name=name, now=state.now)
        _ask(conn, ledger, SET_BACK, name=name, now=state.now)
        return Fired()
    return _fire(conn, ledger, state)


def _fire(conn: Conn, ledger: Ledger, state: State) -> Fired:
    """The row of `state` is locked by this transaction."""
    if state.paused or state.retired:
        return Fired()
    due = _due(state)
    if not due:
        return Fired()
    missed, run = divide(due, now=state.now, missed=state.missed, limit=state.missed_limit)
    tasks = {at: _task(state, at) for at in run}
    ids = [None] * len(missed) + [task.id for task in tasks.values()]
    new = _ask(conn, ledger, FIRE, name=state.name, at=missed + run, tasks=ids)
    fired = [tasks[at] for (at,) in new if at in tasks]
    _enqueue(conn, ledger, fired)
    _ask(conn, ledger, FIRED_THROUGH, name=state.name, now=state.now)
    return Fired([state.now - at for (at,) in new if at in tasks], len(new) - len(fired))


def _due(state: State) -> list[datetime]:
    """Fires that nobody enqueued, oldest first. Of long outages only what would be kept, or is needed to run."""
    recent = max(state.fired_through, state.now - KEPT)
    due = _between(state, recent, state.now)
    if len(due) < state.missed_limit and recent > state.fired_through:
        due = _between(state, state.fired_through, state.now)
    return due


def _between(state: State, start: datetime, end: datetime) -> list[datetime]:
    return list(takewhile(lambda at: at <= end, calendar_of(state.cron, state.zone).after(start)))


def divide(
    due: Sequence[datetime], *, now: datetime, missed: Missed, limit: int
) -> tuple[list[datetime], list[datetime]]:
    """(those that are passed over, those that run) of the fires that are due, in order.

    A fire later than the grace was missed: `all` runs the newest `limit` of these, `last` the newest, `none` none.
    """
    late = sum(now - at > GRACE for at in due)
    passed = max(0, late - {"all": limit, "last": 1, "none": 0}[missed])
    return list(due[:passed]), list(due[passed:])


def next_fires(schedule: ScheduleView, now: datetime, *, count: int = 5) -> list[datetime]:
    """When it fires next, by the calendar that the scheduler goes by; never, while it is paused or retired."""
    if schedule.paused or schedule.retired:
        return []
    return list(islice(calendar_of(schedule.cron, schedule.zone).after(now), count))


def prune(conn: Conn, ledger: Ledger, *, kept: timedelta = KEPT, limit: int = 5000) -> int:
    """Delete at most `limit` fires older than `kept`, never the last of a schedule. Answers how many."""
    return len(_ask(conn, ledger, PRUNE, kept=kept, limit=limit))


# ---------------------------------------------------------------------- what operators do


def run_now(conn: Conn, ledger: Ledger, name: str, *, who: str) -> UUID:
    """Enqueue the schedule's task now, beside its calendar, paused or not. Answers the task's id.

    Raises ScheduleNotFound; WrongState when it is retired, for no worker may know its actor any more.
    """
    state = _known(conn, ledger, name)
    if state.retired:
        raise WrongState(f"Schedule {name}", "is retired: no scheduler declares it any more.")
    task = _task(state, state.now)
    _ask(conn, ledger, FIRE_BY_HAND, name=name, at=state.now, task=task.id)
    _enqueue(conn, ledger, [task])
    ledger.audit(conn, who=who, action="run schedule", subject=f"schedule/{name}", task_id=task.id)
    return task.id


def pause(conn: Conn, ledger: Ledger, name: str, *, who: str) -> None:
    """The schedule fires no more until it is resumed; what it has enqueued is not touched. Raises ScheduleNotFound."""
    if _ask(conn, ledger, PAUSE, name=name):
        ledger.audit(conn, who=who, action="pause schedule", subject=f"schedule/{name}")
    else:
        _known(conn, ledger, name)


def resume(conn: Conn, ledger: Ledger, name: str, *, who: str) -> None:
    """The schedule fires again from now on; what was due while it was paused does not count as missed.

    Raises ScheduleNotFound, or WrongState when it is not paused.
    """
    if not _ask(conn, ledger, RESUME, name=name):
        _known(conn, ledger, name)
        raise WrongState(f"Schedule {name}", "is not paused.")
    ledger.audit(conn, who=who, action="resume schedule", subject=f"schedule/{name}")


def _known(conn: Conn, ledger: Ledger, name: str) -> State:
    found = states(conn, ledger, [name])
    if name not in found:
        raise ScheduleNotFound(f"No schedule is named {name!r}.")
    return found[name]


def _task(state: State, at: datetime) -> Task:
    return task_of(
        dramatiq.Message(
            queue_name=state.queue,
            actor_name=state.actor,
            args=(),
            kwargs={},
            options={"scheduled_at": at.astimezone(UTC).isoformat()},
        )
    )


def _enqueue(conn: Conn, ledger: Ledger, tasks: Sequence[Task]) -> None:
    if tasks:
        ledger.enqueue(conn, f"[{','.join(map(row_of, tasks))}]")


def main(settings: Settings) -> int:
    """Run a scheduler until SIGTERM or SIGINT. Answers the process's exit code."""
    from outbox import scheduler

    return scheduler.main(settings)


# ---------------------------------------------------------------------- statements


def _ask(conn: Conn, ledger: Ledger, sql: str, **params: Any) -> list[Any]:
    cursor = conn.execute(sql.replace("outbox.", f"{ledger.schema}."), params)
    return cursor.fetchall() if cursor.description else []


STATES = """
select name, actor, queue, cron, zone, missed, missed_limit, paused, retired, fired_through, clock_timestamp()
from outbox.schedule
where name = any(%(names)s)
order by name
"""

LOCK = """
select name, actor, queue, cron, zone, missed, missed_limit, paused, retired, fired_through, clock_timestamp()
from outbox.schedule
where name = %(name)s
for no key update
"""

LOCK_UNLESS_TAKEN = """
select name, actor, queue, cron, zone, missed, missed_limit, paused, retired, fired_through, clock_timestamp()
from outbox.schedule
where name = %(name)s
for no key update skip locked
"""

DECLARE = """
insert into outbox.schedule as s (name, actor, queue, cron, zone, missed, missed_limit, fired_through)
values (%(name)s, %(name)s, %(queue)s, %(cron)s, %(zone)s, %(missed)s, %(missed_limit)s, clock_timestamp())
on conflict (name) do update
set actor = excluded.actor, queue = excluded.queue, cron = excluded.cron, zone = excluded.zone,
    missed = excluded.missed, missed_limit = excluded.missed_limit,
    declared_at = clock_timestamp(), retired = false,
    fired_through = case
        when s.cron <> excluded.cron or s.zone <> excluded.zone
            or (s.retired and s.declared_at < clock_timestamp() - %(anew)s)
        then coalesce(%(now)s, clock_timestamp())
        else s.fired_through end
"""

RENEW = """
update outbox.schedule
set declared_at = clock_timestamp()
where name in (
    select name
    from outbox.schedule
    where name = any(%(names)s) and not retired and declared_at < clock_timestamp() - interval '30 seconds'
    for no key update skip locked)
"""

RETIRE = """
update outbox.schedule
set retired = true
where name in (
    select name
    from outbox.schedule
    where name <> all(%(names)s) and not retired and declared_at < clock_timestamp() - %(since)s
    for no key update skip locked)
returning name
"""

FIRE = """
insert into outbox.fire (schedule, fire_at, task_id, outcome)
select %(name)s, f.at, f.task, case when f.task is null then 'missed' else 'fired' end
from unnest(%(at)s::timestamptz[], %(tasks)s::uuid[]) as f(at, task)
on conflict (schedule, fire_at) do nothing
returning fire_at
"""

FIRED_THROUGH = """
update outbox.schedule
set fired_through = %(now)s
where name = %(name)s and fired_through < %(now)s
"""

FORGET_FUTURE = """
delete from outbox.fire
where schedule = %(name)s and fire_at > %(now)s and outcome = 'missed'
"""

SET_BACK = """
update outbox.schedule
set fired_through = %(now)s
where name = %(name)s
"""

FIRE_BY_HAND = """
insert into outbox.fire (schedule, fire_at, task_id, outcome)
values (%(name)s, %(at)s, %(task)s, 'by hand')
"""

PAUSE = """
update outbox.schedule
set paused = true
where name = %(name)s and not paused
returning name
"""

RESUME = """
update outbox.schedule
set paused = false, fired_through = clock_timestamp()
where name = %(name)s and paused
returning name
"""

PRUNE = """
delete from outbox.fire f
using (
    select o.schedule, o.fire_at
    from outbox.schedule s
    cross join lateral (
        select each.schedule, each.fire_at
        from outbox.fire each
        where each.schedule = s.name
        and each.fire_at < clock_timestamp() - %(kept)s
        and each.fire_at < (select max(last.fire_at) from outbox.fire last where last.schedule = s.name)
        order by each.fire_at
        limit %(limit)s
        for update skip locked
    ) o
    limit %(limit)s
) old
where f.schedule = old.schedule and f.fire_at = old.fire_at
returning f.fire_at
"""
