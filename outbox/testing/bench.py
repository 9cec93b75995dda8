"""In the worker's place: runs a task's message as Dramatiq's worker thread does, in the calling thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dramatiq
from dramatiq.middleware import AsyncIO, SkipMessage
from dramatiq.middleware.threading import Interrupt
from sqlalchemy.orm import Session

from outbox.broker import OutboxBroker
from outbox.consumer import Delivery
from outbox.errors import ConfigurationError
from outbox.run import Run

__all__ = ["Bench", "broker_of_actors", "carry_out", "event_loop"]


class Bench:
    """Where these runs run: their outcome is the report's, not a ledger's."""

    def __init__(self, sessions: Callable[[], Session] | None) -> None:
        self._sessions = sessions

    def session(self) -> Session:
        if self._sessions is None:
            raise ConfigurationError(
                "This actor uses current_run().session(): say captured(sessions=sessionmaker(engine))."
            )
        return self._sessions()

    def starts(self, run: Run) -> bool:
        run.started = time.monotonic()
        return True

    def record(self, run: Run, session: Session) -> bool:  # noqa: ARG002
        return True


def carry_out(broker: OutboxBroker, delivery: Delivery) -> BaseException | None:
    """As Dramatiq's worker thread does it: middleware, actor, middleware. Answers what the actor raised."""
    try:
        broker.emit_before("process_message", delivery)
        result = None if delivery.failed else broker.get_actor(delivery.actor_name)(*delivery.args, **delivery.kwargs)
        broker.emit_after("process_message", delivery, result=result)
    except SkipMessage as skip:
        broker.emit_after("skip_message", delivery)
        return skip
    except (Exception, Interrupt) as error:
        delivery.stuff_exception(error)
        broker.emit_after("process_message", delivery, exception=error)
        return error
    return delivery._exception


@contextmanager
def event_loop(broker: OutboxBroker) -> Iterator[None]:
    """The thread that async actors run on, where the broker has one."""
    loops = [each for each in broker.middleware if isinstance(each, AsyncIO)]
    for each in loops:
        each.before_worker_boot(broker, None)
    try:
        yield
    finally:
        for each in loops:
            each.after_worker_shutdown(broker, None)


def broker_of_actors() -> OutboxBroker:
    broker = dramatiq.broker.global_broker
    if not isinstance(broker, OutboxBroker):
        raise ConfigurationError(
            f"The actors' broker is {type(broker).__name__}: tests need an OutboxBroker (it opens no connection). "
            "Import the module that makes it, with dramatiq.set_broker(OutboxBroker())."
        )
    return broker
