"""The broker: a Dramatiq broker whose `enqueue` writes a row, and whose consumers claim before they run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
from dramatiq.broker import Consumer
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.errors import ConnectionClosed
from dramatiq.message import Message
from dramatiq.middleware import (
    AgeLimit,
    AsyncIO,
    Callbacks,
    GroupCallbacks,
    Middleware,
    MiddlewareError,
    Pipelines,
    ShutdownNotifications,
    TimeLimit,
)
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from outbox import database
from outbox.cron import Cron
from outbox.enqueue import enqueue, row_of, task_of, use
from outbox.errors import OutboxError
from outbox.forks import inherited, tell_of_forks
from outbox.ledger import Conn, Ledger, cleaned
from outbox.logs import get_logger
from outbox.models import Task
from outbox.outcomes import Outcomes
from outbox.run import _current, bound_session
from outbox.settings import Settings
from outbox.topology import Topology
from outbox.wake import Waker
from outbox.wake import wake as wake_for

__all__ = ["OutboxBroker"]

log = get_logger("outbox.broker")

#: Hooks that cannot stop what they precede: an outcome that is known is recorded.
_WITHOUT_VETO = ("ack", "nack")
#: Middleware that sends on what comes after a task.
_CHAINS = (Callbacks, GroupCallbacks, Pipelines)


class OutboxBroker(RabbitmqBroker):
    """Dramatiq on an outbox: nothing that is sent can be lost.

    `actor.send()`, `send_with_options(delay=…)`, pipelines and callbacks become rows: in the transaction of the
    request or run that sends them where there is one, else in one of their own. Actors need no change. It replaces
    Dramatiq's Retries (same option names) and has no delay queues: PostgreSQL keeps the time.

    Opens no connection until something is sent outside of a transaction, or a worker consumes.

    Args:
        settings: default: from the environment.
        middleware: additional middleware, after the outbox's own and Dramatiq's defaults.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        middleware: Sequence[Middleware] = (),
        outcomes: Outcomes | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self._before, self._after = _Hooks(self, "before"), _Hooks(self, "after")
        super().__init__(
            url=self.settings.rabbitmq_url,
            middleware=[
                outcomes or Outcomes(), _Shift(), AgeLimit(), TimeLimit(), ShutdownNotifications(), AsyncIO(), Callbacks(),
                Pipelines(), Cron(), *middleware,
            ],
        )  # fmt: skip
        self.ledger = Ledger(self.settings.schema_name)
        self.topology = Topology(prefix=self.settings.queue_prefix, ledger=self.ledger)
        self.max_payload = self.settings.max_payload
        self.station: Any = None
        self.health: Any = None
        self._engine: Engine | None = None
        self._lock = threading.Lock()
        self._own = threading.local()
        self._waker = Waker(self.settings.conninfo)
        use(self)
        tell_of_forks(self)

    # ------------------------------------------------------------------ sending

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        """Write the message as a task. `delay` is milliseconds, as in Dramatiq.

        Inside an actor it commits with the run's success (or, sent by a failure callback, with its failure); inside
        a request that uses OutboxTasks, with the request's transaction; elsewhere at once.
        """
        self.emit_before("enqueue", message, delay)
        wait = None if delay is None else timedelta(milliseconds=delay)
        run, session = _current.get(), bound_session.get()
        if run is not None and run.outcome is None:  # what an actor left behind sends after its end is nobody's child
            message = _readable(message) if run.failing else message
            (run.after_failure if run.failing else run.children).append(self._task(message, wait))
        elif session is not None:
            enqueue(session, message, delay=wait, task_id=_uuid(message.message_id))
        else:
            self._enqueue_now(self._task(message, wait))
        self.emit_after("enqueue", message, delay)
        return message

    def _task(self, message: Message[Any], wait: timedelta | None) -> Task:
        return task_of(message, delay=wait, task_id=_uuid(message.message_id), max_payload=self.max_payload)

    def _enqueue_now(self, task: Task) -> None:
        row = f"[{row_of(task)}]"
        conn: Conn | None = getattr(self._own, "conn", None)
        try:
            if conn is None or conn.closed:
                conn = self._own.conn = self.connect("enqueue")
            self.ledger.enqueue(conn, row)
        except psycopg.OperationalError:
            if conn is None or not conn.closed:
                raise
            self._enqueue_again(row)
        self._waker.wake()

    def _enqueue_again(self, row: str) -> None:
        """On a fresh connection: the old one may have been dead for long, or died after the commit."""
        self._own.conn = self.connect("enqueue")
        with suppress(psycopg.errors.UniqueViolation):
            self.ledger.enqueue(self._own.conn, row)

    def committed(self, session: Session) -> None:
        """A session committed tasks: wake the relay of its database."""
        wake_for(session)

    # ------------------------------------------------------------------ consuming

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Consumer:  # noqa: ARG002
        """A consumer that claims before it delivers. Needs the database first, so that nothing is fetched in vain."""
        from outbox.consumer import OutboxConsumer

        if self.station is None or not self.station.lease.wait(timeout=10):
            raise ConnectionClosed(RuntimeError("this worker has not joined the ledger: is the database reachable?"))
        return OutboxConsumer(
            self.station, self.topology, self.settings.rabbitmq_url, queue_name=queue_name, timeout=timeout,
            others=self.settings.foreign,
        )  # fmt: skip

    def declare_queue(self, queue_name: str, *, ensure: bool = False) -> None:  # noqa: ARG002
        """Name a queue; it is declared in RabbitMQ by whoever first needs it there, with a new epoch."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def declare_actor(self, actor: Any) -> None:
        """As Dramatiq; the ids of the actor's messages are UUIDv7, so that tasks sort by the time they were sent."""
        super().declare_actor(actor)
        build = actor.message_with_options

        def message_with_options(**options: Any) -> Message[Any]:
            message: Message[Any] = build(**options)
            vars(message)["message_id"] = str(uuid7())  # it is new: a copy of it would cost as much as all else
            return message

        actor.message_with_options = message_with_options

    def connect(self, name: str, **options: Any) -> Conn:
        return database.connect(self.settings.conninfo, name=name, pooled=self.settings.pooled, **options)

    def engine(self) -> Engine:
        """The engine of the sessions in which actors write (I9)."""
        with self._lock:
            if self._engine is None:
                engine = create_engine(
                    self.settings.sqlalchemy_url,
                    pool_size=64,  # as many as threads use at once stay open: one that is opened for a task costs as much as it
                    max_overflow=192,
                    pool_pre_ping=True,
                    hide_parameters=True,
                    connect_args={"client_encoding": "utf8", "prepare_threshold": None}
                    if self.settings.pooled
                    else {
                        "client_encoding": "utf8",
                        "options": database.SILENT_CLIENT,
                        "application_name": "outbox actor",
                    },
                )
                self._engine = database.answered(engine)
            return self._engine

    def after_fork(self) -> None:
        """In a child made by fork(): it sends on connections of its own, and is not the run or request that made it."""
        inherited.extend((self._own, self.state, self.connections, self.channels))
        self._own, self._lock = threading.local(), threading.Lock()
        self.state, self.connections, self.channels = threading.local(), set(), set()
        self.station = self.health = None
        if self._engine is not None:
            inherited.append(self._engine.pool)
            self._engine.dispose(close=False)
        _current.set(None)
        bound_session._bound.set(None)

    # ------------------------------------------------------------------ middleware, called only where it does something

    def add_middleware(self, middleware: Middleware, **where: Any) -> None:
        super().add_middleware(middleware, **where)
        self._before.clear()
        self._after.clear()

    def emit_before(self, signal: str, *args: Any, **kwargs: Any) -> None:
        for hook in self._before[signal]:
            try:
                hook(self, *args, **kwargs)
            except Exception as error:
                if isinstance(error, MiddlewareError) and signal not in _WITHOUT_VETO:
                    raise
                self._failed(hook, f"before_{signal}")

    def emit_after(self, signal: str, *args: Any, **kwargs: Any) -> None:
        for hook in reversed(self._after[signal]):
            try:
                hook(self, *args, **kwargs)
            except Exception as error:
                self._failed(hook, f"after_{signal}")
                if signal == "process_message" and _sends_on(hook, error) and hasattr(args[0], "run"):
                    args[0].run.unsent = error

    def _failed(self, hook: Callable[..., None], name: str) -> None:
        self.logger.critical("Unexpected failure in %s of %r.", name, hook, exc_info=True)


class _Hooks(dict[str, list[Callable[..., None]]]):
    """The hooks of each signal, in the order of the middleware, without those that are Dramatiq's own and do nothing."""

    def __init__(self, broker: OutboxBroker, when: str) -> None:
        super().__init__()
        self._broker = broker
        self._when = when

    def __missing__(self, signal: str) -> list[Callable[..., None]]:
        name = f"{self._when}_{signal}"
        nothing = getattr(Middleware, name)
        each = self._broker.middleware
        self[signal] = [getattr(m, name) for m in each if getattr(type(m), name, nothing) is not nothing]
        return self[signal]


class _Shift(Middleware):
    """A worker process's shift: the station opens before its consumers and closes after its threads."""

    def before_worker_boot(self, broker: Any, worker: Any) -> None:
        from outbox import capture
        from outbox.sentry import leave_to_the_integration
        from outbox.station import Station
        from outbox.turns import Turns

        leave_to_the_integration()
        if broker.settings.capture_logs:
            capture.begin()
        broker.station = Station(
            broker.ledger, broker.connect, broker.engine, threads=worker.worker_threads, lease=broker.settings.lease,
            wake=broker._waker.wake, tend=lambda: _tend(worker),
        )  # fmt: skip
        broker.station.start()
        worker.work_queue = Turns()

    def after_worker_boot(self, broker: Any, worker: Any) -> None:
        """Of plain Dramatiq's processes each serves its health; `outbox worker` has begun to by itself."""
        from outbox.worker import health_of

        if broker.health is None and broker.settings.health_port is not None:
            broker.health = health_of(broker, worker)
            broker.health.start_beside_others()

    def before_worker_shutdown(self, broker: Any, worker: Any) -> None:  # noqa: ARG002
        broker.station.drain()

    def after_worker_shutdown(self, broker: Any, worker: Any) -> None:  # noqa: ARG002
        broker.station.stop(timeout=10)
        if broker.health is not None:
            broker.health.stop()
            broker.health = None


def _tend(worker: Any) -> None:
    _replace_dead_threads(worker)
    _forget_given_back(worker.work_queue)


def _forget_given_back(waiting: Any) -> None:
    """What was given back behind more urgent tasks would lie in the queue until those pause."""
    waiting.drop(lambda item: item.message.run.given_back)


def _replace_dead_threads(worker: Any) -> None:
    """Dramatiq never notices that a BaseException killed a worker thread; we do."""
    from outbox.metrics import DEAD_THREADS

    for thread in [each for each in worker.workers if not each.is_alive()]:
        log.error("a worker thread died and is replaced", thread=thread.name)
        DEAD_THREADS.inc()
        worker.workers.remove(thread)
        worker._add_worker()


def _sends_on(hook: Callable[..., None], error: Exception) -> bool:
    """Whether a hook failed to send what comes after a task: a chain must not be cut in silence."""
    return isinstance(error, OutboxError) or isinstance(getattr(hook, "__self__", None), _CHAINS)


def _readable(message: Message[Any]) -> Message[Any]:
    """What tells of a failure quotes its text, whatever is in it: without that which no row can hold."""
    return message.copy(args=_clean(message.args), kwargs=_clean(message.kwargs))


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return cleaned(value, limit=2**31)
    if isinstance(value, dict):
        return {_clean(key): _clean(each) for key, each in value.items()}
    return type(value)(map(_clean, value)) if isinstance(value, (list, tuple)) else value


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
