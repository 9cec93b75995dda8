"""The actors of worker processes that are killed, frozen and stopped. They leave their traces in the table `trace`."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import timedelta

import dramatiq
import psycopg
from sqlalchemy import text

from outbox import OutboxBroker, current_run
from tests.awaiting import await_that

broker = OutboxBroker()
dramatiq.set_broker(broker)

#: Longer than any test that gives the permit, or never does.
PATIENCE = timedelta(minutes=5)


def _trace(label: str, what: str) -> None:
    with psycopg.connect(broker.settings.conninfo, autocommit=True) as conn:
        conn.execute("insert into trace values (%s, %s, %s)", [label, what, os.getpid()])


def _await_permit(label: str) -> None:
    with psycopg.connect(broker.settings.conninfo, autocommit=True) as conn:
        permitted = "select 1 from permit where label = %s"
        await_that(lambda: conn.execute(permitted, [label]).fetchone(), PATIENCE, pace=timedelta(milliseconds=20))


@dramatiq.actor(max_retries=0)
def quick(label: str) -> None:
    _trace(label, "ran")


@dramatiq.actor(max_retries=0)
def hold(label: str) -> None:
    """Runs until there is a permit for its label."""
    _trace(label, "started")
    _await_permit(label)
    _trace(label, "ended")


@dramatiq.actor(max_retries=0)
def hold_and_count(label: str) -> None:
    """The same, and counts itself in the session of its outcome."""
    _trace(label, "started")
    current_run().session().execute(text("insert into tally values (:label)"), {"label": label})
    _await_permit(label)
    _trace(label, "ended")


@dramatiq.actor(max_retries=0)
def hold_its_process(label: str) -> None:
    """The same, with a thread beside it that Python waits for before it ends a process."""
    threading.Thread(target=_await_permit, args=(label,), daemon=False).start()
    _trace(label, "started")
    _await_permit(label)


@dramatiq.actor(max_retries=0)
async def hold_the_loop(label: str) -> None:
    """The same, as a coroutine that never lets another one run."""
    _trace(label, "started")
    _await_permit(label)


@dramatiq.actor(max_retries=0)
def end_settling(label: str) -> None:
    """Its process can record no outcome any more."""
    _trace(label, "started")
    broker.station.settler.stop(timeout=0)


@dramatiq.actor(max_retries=0)
def kill(label: str) -> None:
    """Takes its process with it."""
    _trace(label, "started")
    os.kill(os.getpid(), signal.SIGKILL)


@dramatiq.actor(max_retries=0)
def nap(label: str, seconds: float) -> None:
    time.sleep(seconds)
    _trace(label, "ran")


@dramatiq.actor(max_retries=0, queue_name="other")
def quick_elsewhere(label: str) -> None:
    _trace(label, "ran")
