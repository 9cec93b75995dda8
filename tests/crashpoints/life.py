"""An application with one task of each kind, and the client that enqueues them, unit by unit.

Each run of an actor leaves lines in the file that LIFE_TRACE names, by one write(2) each: what happened, not what was
recorded. `python -m tests.crashpoints.life` is the client; it may be killed anywhere and started again, as an HTTP client
repeats a request under its `client_id`: a unit whose row is there was committed.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import dramatiq
import pika
import psycopg
from periodiq import cron
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from outbox import OutboxBroker, Permanent, Snooze, WrongState, current_run, enqueue, operate
from tests.awaiting import await_that
from tests.telling import write_down

broker = OutboxBroker()
dramatiq.set_broker(broker)

TRACE = Path(os.environ.get("LIFE_TRACE", os.devnull))
STEP = 0.01


def trace(label: str, what: str) -> None:
    write_down(TRACE, label=label, what=what, at=time.monotonic(), pid=os.getpid())


def has_begun(label: str) -> bool:
    return TRACE.exists() and f'"{label}"' in TRACE.read_text()


def _run(label: str) -> None:
    trace(label, "started")
    time.sleep(STEP)  # the work
    trace(label, "ended")


@dramatiq.actor(max_retries=0)
def plain(label: str) -> None:
    _run(label)


@dramatiq.actor(max_retries=0)
def counted(label: str) -> None:
    current_run().session().execute(text("insert into tally values (:label)"), {"label": label})
    _run(label)


@dramatiq.actor(max_retries=0)
def parent(label: str) -> None:
    plain.send(f"{label}/child")
    _run(label)


@dramatiq.actor(max_retries=5, min_backoff=50, max_backoff=50)
def flaky(label: str) -> None:
    _run(label)
    if current_run().attempt == 1:
        raise RuntimeError("the first attempt fails")


@dramatiq.actor(max_retries=5)
def doomed(label: str) -> None:
    _run(label)
    raise Permanent("never")


@dramatiq.actor(max_retries=0)
def snoozed(label: str) -> None:
    _run(label)
    if current_run().attempt == 1:
        raise Snooze(timedelta(milliseconds=50), "not yet")


@dramatiq.actor(max_retries=0)
def crashing(label: str) -> None:
    """Takes its process along the first time that it runs."""
    begun = has_begun(label)
    _run(label)
    if not begun:
        os.kill(os.getpid(), signal.SIGKILL)


@dramatiq.actor(max_retries=0)
def held(label: str) -> None:
    """Runs until it is cancelled."""
    trace(label, "started")
    await_that(current_run().cancel_requested, timedelta(minutes=5))
    raise RuntimeError("cancelled")


@dramatiq.actor(max_retries=0, periodic=cron("* * * * *"), missed="all", missed_limit=100)  # type: ignore[no-untyped-call]
def tick() -> None:
    _run("tick")


# ---------------------------------------------------------------------- the client


def _plain(session: Session) -> list[str]:
    return [str(enqueue(session, actor.message(f"one/{actor.actor_name}")).id) for actor in (plain, counted, parent)]


def _failing(session: Session) -> list[str]:
    return [str(enqueue(session, actor.message(f"one/{actor.actor_name}")).id) for actor in (flaky, doomed, snoozed)]


def _delayed(session: Session) -> list[str]:
    return [str(enqueue(session, plain.message("later"), delay=timedelta(seconds=0.3)).id)]


def _ordered(session: Session) -> list[str]:
    actors = (flaky, plain, counted)
    return [str(enqueue(session, a.message(f"order/{n}"), ordering_key="A").id) for n, a in enumerate(actors)]


def _limited(session: Session) -> list[str]:
    options = {"concurrency_key": "B", "concurrency_limit": 1}
    return [str(enqueue(session, counted.message(f"limit/{n}"), **options).id) for n in range(3)]  # type: ignore[arg-type]


def _unique(session: Session) -> list[str]:
    tasks = [enqueue(session, plain.message("unique"), unique_key="C", delay=timedelta(seconds=0.5)) for _ in range(2)]
    session.flush()
    return [str(task.id) for task in tasks]


def _cancelled(session: Session) -> list[str]:
    return [str(enqueue(session, held.message("held")).id)]


def _never(session: Session) -> list[str]:
    return [str(enqueue(session, plain.message("never"), delay=timedelta(hours=1)).id)]


def _refused(session: Session) -> list[str]:
    return [str(enqueue(session, plain.message("refused"), delay=timedelta(seconds=0.2)).id)]


def _crashing(session: Session) -> list[str]:
    return [str(enqueue(session, crashing.message("crash")).id), str(enqueue(session, plain.message("beside")).id)]


def _after_loss(session: Session) -> list[str]:
    return [str(enqueue(session, counted.message(f"lost/{n}")).id) for n in range(3)]


UNITS: dict[str, Callable[[Session], list[str]]] = {
    "plain": _plain, "failing": _failing, "delayed": _delayed, "ordered": _ordered, "limited": _limited,
    "unique": _unique, "cancelled": _cancelled, "never": _never, "refused": _refused, "crashing": _crashing,
    "after loss": _after_loss,
}  # fmt: skip


def main() -> None:
    engine = create_engine(broker.settings.sqlalchemy_url)
    for name, unit in UNITS.items():
        if name == "after loss":
            _delete_the_queue()
        with Session(engine) as session:
            known = session.execute(text("select ids from unit where name = :name"), {"name": name}).scalar()
            fresh = known is None
            if fresh:
                known = unit(session)
                session.execute(text("insert into unit values (:name, :ids)"), {"name": name, "ids": known})
                session.commit()
        if name in ("cancelled", "never"):
            _cancel(known[0], started=name == "cancelled")
        if name == "refused" and fresh:
            _refuse_a_message()
    engine.dispose()


def _cancel(id: str, *, started: bool) -> None:
    if started:
        await_that(lambda: has_begun("held"))
    with psycopg.connect(broker.settings.conninfo, application_name="client") as conn:
        try:
            operate.cancel(conn, broker.ledger, id, who="client")  # type: ignore[arg-type]
        except WrongState:
            pass  # by the client before


def _refuse_a_message() -> None:
    """RabbitMQ moves one message aside, taken before the worker can take it."""
    with _beside_the_system() as connection:
        channel = connection.channel()
        channel.basic_qos(prefetch_count=1)
        first = {"x-priority": 1}
        for method, _, _ in channel.consume(broker.topology.queue("default"), arguments=first, inactivity_timeout=10):
            if method is not None:
                channel.basic_reject(method.delivery_tag, requeue=False)
            break


def _delete_the_queue() -> None:
    with _beside_the_system() as connection:
        connection.channel().queue_delete(broker.topology.queue("default"))


def _beside_the_system() -> pika.BlockingConnection:
    return pika.BlockingConnection(pika.URLParameters(os.environ["LIFE_RABBITMQ_URL"]))


if __name__ == "__main__":
    main()
