"""Enqueue: a task joins the caller's unit of work, and is written by the one INSERT of its flush (I1, I11)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, cast
from uuid import UUID

import dramatiq
from sqlalchemy import event
from sqlalchemy.exc import InvalidRequestError, UnboundExecutionError
from sqlalchemy.orm import Session, SessionTransaction
from uuid_utils.compat import uuid7

from outbox import tracing
from outbox.encoding import check_call, encode
from outbox.errors import ArgumentError, NoTransaction
from outbox.ledger import Ledger
from outbox.logs import get_logger
from outbox.models import Task

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
    from sqlalchemy.orm import scoped_session

    AnySession = Session | AsyncSession | scoped_session[Session] | async_scoped_session[AsyncSession]

__all__ = [
    "Captures",
    "Enqueues",
    "capture",
    "enqueue",
    "forget_dropped",
    "ledger_of",
    "row_of",
    "task_of",
    "uncommitted",
    "use",
]

log = get_logger("outbox.enqueue")

#: Options of a Dramatiq message that are ours: they become columns, and no caller may set them in a message.
_OURS = ("eta", "delay", "outbox_fence")


class Enqueues(Protocol):
    """Where a session's tasks go: the ledger's statement and what is done after the commit."""

    ledger: Ledger
    max_payload: int

    def committed(self, session: Session) -> None: ...


class Captures(Enqueues, Protocol):
    """Keeps tasks instead of writing rows."""

    def keep(self, session: Session, tasks: list[Task]) -> dict[UUID, UUID]:
        """Id asked for to id that exists, as the INSERT answers it."""


def enqueue(
    session: AnySession,
    message: dramatiq.Message[Any],
    *,
    delay: timedelta | None = None,
    run_at: datetime | None = None,
    expires_at: datetime | None = None,
    priority: int | None = None,
    ordering_key: str | None = None,
    hold_on_dead: bool = False,
    concurrency_key: str | None = None,
    concurrency_limit: int | None = None,
    unique_key: str | None = None,
    max_attempts: int | None = None,
    task_id: UUID | None = None,
) -> Task:
    """Add a task to the session's unit of work. It exists if, and only if, the session's transaction commits.

    No I/O happens here: the row is written by the next flush, all tasks of a flush by one INSERT; a rolled-back
    savepoint takes its tasks along. `task.id` is known at once and stays the task's id everywhere.

    Args:
        session: a `Session` or `AsyncSession` on PostgreSQL with the psycopg driver, not in autocommit.
        message: `actor.message(...)` or `actor.message_with_options(...)`.
        delay: run this long after the flush, by the database's clock.
        run_at: run at this aware instant (not together with `delay`).
        expires_at: after this aware instant the task is cancelled instead of started.
        priority: lower runs first, as in Dramatiq; default the actor's.
        ordering_key: tasks of a key run one after another, in the order in which they were enqueued.
        hold_on_dead: a dead task of this ordering key holds its followers until somebody retries it.
        concurrency_key: at most `concurrency_limit` tasks of a key are under way at once.
        unique_key: if a task with this key has not started yet, no second one is made; `task.id` then becomes,
            at the flush, the id of the one that exists, and `task.enqueued` False.
        max_attempts: failures after which the task is dead; default the actor's `max_retries` + 1.
        task_id: the id to give to the task, for rows that share it. Default a new UUIDv7.

    Raises:
        ArgumentError: arguments that are not JSON or do not fit the actor, options that make no sense.
        NoTransaction: the session is closed, in autocommit, or bound to something that is not psycopg.
    """
    sync = _sync_session(session)
    task = task_of(
        message, delay=delay, run_at=run_at, expires_at=expires_at, priority=priority, ordering_key=ordering_key,
        hold_on_dead=hold_on_dead, concurrency_key=concurrency_key, concurrency_limit=concurrency_limit,
        unique_key=unique_key, max_attempts=max_attempts, task_id=task_id, max_payload=_outbox_of(sync).max_payload,
    )  # fmt: skip
    try:
        sync.add(task)
    except InvalidRequestError as error:
        raise NoTransaction(f"{message.actor_name}: the session has no transaction: {error}") from None
    _tasks_of(sync).unwritten.append(task)
    return task


def task_of(
    message: dramatiq.Message[Any],
    *,
    delay: timedelta | None = None,
    run_at: datetime | None = None,
    expires_at: datetime | None = None,
    priority: int | None = None,
    ordering_key: str | None = None,
    hold_on_dead: bool = False,
    concurrency_key: str | None = None,
    concurrency_limit: int | None = None,
    unique_key: str | None = None,
    max_attempts: int | None = None,
    task_id: UUID | None = None,
    max_payload: int = 1_048_576,
) -> Task:
    """The checked task for a message; not yet in any session."""
    if not isinstance(message, dramatiq.Message):
        raise ArgumentError(f"enqueue needs a message, such as actor.message(...), not {type(message).__name__}.")
    name = message.actor_name
    actor = _declared(name)
    if actor is not None:
        check_call(actor, message.args, message.kwargs)
    args, kwargs = encode(message.args, message.kwargs, actor=name, limit=max_payload)
    if task_id is not None and not isinstance(task_id, UUID):
        raise ArgumentError(f"{name}: task_id must be a UUID.")
    lane, limit = _lane(name, ordering_key, hold_on_dead, concurrency_key, concurrency_limit)
    due_at, wait = _due(name, message, delay, run_at)
    task = Task()
    vars(task).update(  # nothing of it is ever loaded, changed or flushed by the ORM: its bookkeeping would be in vain
        id=task_id or uuid7(),
        queue=_queue(name, message.queue_name),
        actor=name,
        args=args,
        kwargs=kwargs,
        options=_options(message, name, max_payload),
        priority=_whole(
            name, "priority", priority if priority is not None else actor.priority if actor else 0, -32768, 32767
        ),
        due_at=due_at,
        wait=wait,
        expires_at=_aware(name, "expires_at", expires_at),
        lane=lane,
        lane_limit=limit,
        lane_holds=hold_on_dead,
        unique_key=_key(name, "unique_key", unique_key),
        max_attempts=None if max_attempts is None else _whole(name, "max_attempts", max_attempts, 1, 1_000_000),
    )
    return task


def row_of(task: Task) -> str:
    """A task as one JSON object for the ledger's statement; the encoded arguments go in as they are."""
    plain = {
        "id": str(task.id),
        "queue": task.queue,
        "actor": task.actor,
        "priority": task.priority,
        "run_at": task.due_at and task.due_at.isoformat(),
        "delay": task.wait,
        "expires_at": task.expires_at and task.expires_at.isoformat(),
        "lane": task.lane,
        "lane_limit": task.lane_limit,
        "lane_holds": task.lane_holds,
        "unique_key": task.unique_key,
        "max_attempts": task.max_attempts,
    }
    said = json.dumps({name: value for name, value in plain.items() if value})  # else its default
    return f'{said[:-1]},"args":{task.args},"kwargs":{task.kwargs},"options":{task.options}}}'


# ---------------------------------------------------------------------- options


def _declared(name: str) -> dramatiq.Actor[Any, Any] | None:
    from dramatiq.broker import global_broker

    return global_broker.actors.get(name) if global_broker is not None else None


def _options(message: dramatiq.Message[Any], name: str, limit: int) -> str:
    options = tracing.carried(message.options)
    if not options:
        return "{}"
    kept = {key: value for key, value in options.items() if key not in _OURS}
    return encode((), kept, actor=f"{name} (options)", limit=limit)[1]


def _lane(
    name: str, ordering: str | None, holds: bool, concurrency: str | None, limit: int | None
) -> tuple[str | None, int | None]:
    if ordering is not None and concurrency is not None:
        raise ArgumentError(
            f"{name}: ordering_key and concurrency_key exclude each other: an ordering key is a limit of one."
        )
    if (concurrency is None) != (limit is None):
        raise ArgumentError(f"{name}: concurrency_key and concurrency_limit go together.")
    if not isinstance(holds, bool):
        raise ArgumentError(f"{name}: hold_on_dead must be True or False.")
    if holds and ordering is None:
        raise ArgumentError(f"{name}: hold_on_dead needs an ordering_key.")
    if ordering is not None:
        return f"order/{_key(name, 'ordering_key', ordering)}", None
    if concurrency is not None and limit is not None:
        return f"limit/{_key(name, 'concurrency_key', concurrency)}", _whole(
            name, "concurrency_limit", limit, 1, 1_000_000
        )
    return None, None


def _due(
    name: str, message: dramatiq.Message[Any], delay: timedelta | None, run_at: datetime | None
) -> tuple[datetime | None, float | None]:
    """(instant, None) or (None, seconds after the flush)."""
    if delay is None and run_at is None:
        delay, run_at = _due_of_message(name, message.options)
    if delay is not None and run_at is not None:
        raise ArgumentError(f"{name}: delay and run_at exclude each other.")
    if delay is not None:
        if not isinstance(delay, timedelta) or not timedelta(0) <= delay <= timedelta(days=36500):
            raise ArgumentError(f"{name}: delay must be a timedelta between zero and a hundred years.")
        return None, delay.total_seconds()
    return _aware(name, "run_at", run_at), None


def _due_of_message(name: str, options: Mapping[str, Any]) -> tuple[timedelta | None, datetime | None]:
    """Dramatiq's own options, in milliseconds."""
    eta, delay = options.get("eta"), options.get("delay")
    try:
        if eta is not None:
            return None, datetime.fromtimestamp(eta / 1000, UTC)
        return (None if delay is None else timedelta(milliseconds=delay)), None
    except (TypeError, ValueError, OverflowError) as error:
        option = "delay" if eta is None else "eta"
        raise ArgumentError(f"{name}: the message's {option} is not a number of milliseconds: {error}") from None


def _aware(name: str, option: str, value: datetime | None) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ArgumentError(f"{name}: {option} must be a datetime with a time zone, such as datetime.now(UTC).")
    if not 1970 <= value.year < 9000:  # with an offset, one of the year 1 would become an instant that nobody can read
        raise ArgumentError(f"{name}: {option} must lie between the years 1970 and 9000.")
    return value


def _key(name: str, option: str, value: str | None) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value or len(value.encode("utf-8", "replace")) > 500:
        raise ArgumentError(f"{name}: {option} must be text of 1 to 500 bytes.")
    if "\x00" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise ArgumentError(f"{name}: {option} contains a NUL or a lone surrogate.")
    return value


@lru_cache(maxsize=1024)
def _queue(name: str, value: str) -> str:
    """AMQP gives a queue's name 255 bytes; prefix and suffix are ours."""
    if not isinstance(value, str) or not 1 <= len(value.encode("utf-8", "replace")) <= 200:
        raise ArgumentError(f"{name}: the queue's name must be text of 1 to 200 bytes.")
    if "\x00" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise ArgumentError(f"{name}: the queue's name contains a NUL or a lone surrogate.")
    return value


def _whole(name: str, option: str, value: int, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ArgumentError(f"{name}: {option} must be a whole number from {low} to {high}.")
    return value


# ---------------------------------------------------------------------- the session's side


class _Default:
    """Where tasks go until an OutboxBroker says otherwise."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.max_payload = 1_048_576

    def committed(self, session: Session) -> None:
        from outbox.wake import wake

        wake(session)


_default: Enqueues = _Default()


#: In tests: what keeps the tasks instead of a row each (`outbox.testing`).
_captures: Captures | None = None


def _outbox_of(session: Session) -> Enqueues:
    return _captures or cast(Enqueues, session.info.get("outbox", _default))


def ledger_of(session: Session) -> Ledger:
    """The ledger that this session's tasks go to."""
    return _outbox_of(session).ledger


def capture(captures: Captures | None) -> Captures | None:
    """For tests: from now on tasks go there, whatever database their session is bound to. Answers where before."""
    global _captures
    before, _captures = _captures, captures
    return before


def use(outbox: Enqueues) -> None:
    """The broker of this process sets the ledger (schema) and limits that sessions enqueue with."""
    global _default
    _default = outbox


def _sync_session(session: Any) -> Session:
    inner = getattr(session, "sync_session", session)
    if not isinstance(inner, Session) and callable(registry := getattr(session, "registry", None)):
        scoped = registry()
        inner = getattr(scoped, "sync_session", scoped)
    if not isinstance(inner, Session):
        raise NoTransaction(
            f"enqueue needs a SQLAlchemy Session or AsyncSession, not {type(session).__name__}: "
            "the task must be written in the same transaction as your own rows."
        )
    if not inner.info.get("outbox_checked"):
        _check_bind(inner)
        inner.info["outbox_checked"] = True
    return inner


def _check_bind(session: Session) -> None:
    if _captures is not None:
        return
    try:
        bind = session.get_bind(mapper=Task)
    except UnboundExecutionError as error:
        raise NoTransaction(f"enqueue needs a session that is bound to a database: {error}") from None
    if bind.dialect.name != "postgresql" or bind.dialect.driver not in ("psycopg", "psycopg_async"):
        raise NoTransaction(
            f"enqueue needs PostgreSQL with the psycopg driver (postgresql+psycopg://…), not {bind.dialect.name}+{bind.dialect.driver}."
        )
    level = bind.get_execution_options().get("isolation_level") or bind.dialect._on_connect_isolation_level
    if level == "AUTOCOMMIT":
        raise NoTransaction(
            "This session is in autocommit: a task could exist without its domain row. "
            "Use a session without isolation_level='AUTOCOMMIT' and commit it."
        )


def uncommitted(session: AnySession) -> list[Task]:
    """Tasks of this session that are neither committed nor rolled back on purpose."""
    tasks = _tasks_of(_sync_session(session))
    return tasks.unwritten + [task for task, _ in tasks.written] + tasks.dropped


def forget_dropped(session: AnySession) -> None:
    """A new unit of work begins on this session: what an earlier one dropped has been reported."""
    _tasks_of(_sync_session(session)).dropped = []


class _Tasks:
    """The tasks of one session: added, written by a flush (and in which transaction), or dropped by a close."""

    def __init__(self) -> None:
        self.unwritten: list[Task] = []
        self.written: list[tuple[Task, SessionTransaction | None]] = []
        self.dropped: list[Task] = []


def _tasks_of(session: Session) -> _Tasks:
    return cast(_Tasks, session.info.setdefault("outbox_tasks", _Tasks()))


@event.listens_for(Session, "before_flush")
def _flush_tasks(session: Session, _context: Any, _instances: Any) -> None:
    _write_tasks(session)


@event.listens_for(Session, "before_commit")
def _write_tasks(session: Session) -> None:
    """The one INSERT: all new tasks of this flush, lanes in sorted order so that two flushes cannot deadlock.

    A commit with nothing else to write then needs no flush.
    """
    new = [each for each in session.new if type(each) is Task]
    if not new:
        return
    existing = _captures.keep(session, new) if _captures else _insert(session, _outbox_of(session).ledger, new)
    tasks, here = _tasks_of(session), session.get_nested_transaction() or session.get_transaction()
    tasks.unwritten.clear()
    for task in new:
        session.expunge(task)  # only now: after an INSERT that failed, a commit must meet it again and fail too
        task.enqueued = existing[task.id] == task.id
        task.id = existing[task.id]
        tasks.written.append((task, here))


def _insert(session: Session, ledger: Ledger, tasks: list[Task]) -> dict[UUID, UUID]:
    """Id asked for to id that exists; they differ where a unique key was taken."""
    connection = session.connection(bind_arguments={"mapper": Task.__mapper__})
    if connection.connection.driver_connection.autocommit:  # type: ignore[union-attr]
        raise NoTransaction(
            "This connection is in autocommit: commit tasks together with your own rows, in a transaction."
        )
    rows = f"[{','.join(map(row_of, tasks))}]"
    if not any(task.unique_key for task in tasks):
        connection.exec_driver_sql(ledger.enqueue_sql, {"rows": rows})
        return {task.id: task.id for task in tasks}
    found: dict[UUID, UUID | None] = dict(
        connection.exec_driver_sql(ledger.enqueue_unique_sql, {"rows": rows}).fetchall()
    )
    while None in found.values():
        found = dict(connection.exec_driver_sql(ledger.enqueue_rest_sql, {"rows": rows}).fetchall())
    return cast("dict[UUID, UUID]", found)


@event.listens_for(Session, "after_rollback")
def _forget_tasks(session: Session) -> None:
    """A rolled-back savepoint takes its tasks along; so does a rolled-back transaction."""
    tasks: _Tasks | None = session.info.get("outbox_tasks")
    if tasks is not None:
        ended = session.get_nested_transaction()
        tasks.unwritten.clear()
        tasks.written = [each for each in tasks.written if ended is not None and each[1] is not ended]


@event.listens_for(Session, "after_commit")
def _tasks_committed(session: Session) -> None:
    tasks: _Tasks | None = session.info.get("outbox_tasks")
    if tasks is not None and tasks.written and not session.in_nested_transaction():
        tasks.written = []
        try:
            _outbox_of(session).committed(session)
        except Exception as error:  # they are committed: nothing that fails now may tell the caller otherwise
            log.warning("wake-up failed, the poll will find the rows", error=repr(error))


@event.listens_for(Session, "after_transaction_end")
def _warn_of_dropped_tasks(session: Session, transaction: SessionTransaction) -> None:
    """A savepoint that ended well hands its tasks to its parent; a session that just closes loses them, loudly."""
    tasks: _Tasks | None = session.info.get("outbox_tasks")
    if tasks is None or not (tasks.written or tasks.unwritten):
        return
    if transaction.nested:
        tasks.written = [(t, transaction.parent if where is transaction else where) for t, where in tasks.written]
    elif transaction.parent is None:
        tasks.dropped = tasks.unwritten + [t for t, _ in tasks.written]
        tasks.unwritten, tasks.written = [], []
        log.error(
            "session closed with tasks never committed: they are lost",
            tasks=[str(t.id) for t in tasks.dropped],
            actors=sorted({t.actor for t in tasks.dropped}),
            mend="commit the session, or roll it back on purpose",
        )
