"""An application with tasks of every kind, which writes down what really happens: a line for each start and end of a run.

A line is one write(2), so whatever dies leaves whole lines. Instants are the machine's monotonic clock, one for all processes.
"""

from __future__ import annotations

import http.client
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dramatiq
from periodiq import cron
from sqlalchemy import text

from outbox import OutboxBroker, Permanent, current_run
from tests.telling import write_down

__all__ = ["LIMIT", "broker", "say"]

broker = OutboxBroker()
dramatiq.set_broker(broker)

#: Of the runs at once under the one limited key.
LIMIT = 2
STEP = 0.005
#: Seconds that a run waits to be cancelled.
HELD = 2.0


def say(file: str, **facts: object) -> None:
    """Write these facts down. `file`: the environment variable that names it."""
    write_down(Path(os.environ[file]), **facts, at=time.monotonic())


@contextmanager
def _noted(label: str) -> Iterator[None]:
    facts = {"id": str(current_run().task_id), "label": label, "pid": os.getpid()}
    say("CAMPAIGN_RUNS", what="started", **facts)
    yield
    say("CAMPAIGN_RUNS", what="ended", **facts)


def _post(label: str) -> None:
    """The effect outside: a request that carries the task's id."""
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["CAMPAIGN_RECEIVER"]), timeout=10)
    try:
        connection.request("POST", "/", body=label.encode(), headers={"webhook-id": str(current_run().task_id)})
        connection.getresponse().read()
    finally:
        connection.close()


@dramatiq.actor(max_retries=0)
def mail(label: str) -> None:
    with _noted(label):
        _post(label)


@dramatiq.actor(max_retries=0)
def order(label: str) -> None:
    """Counts in the transaction of its outcome, and sends a receipt."""
    with _noted(label):
        current_run().session().execute(text("insert into tally values (:label)"), {"label": label})
        mail.send(f"receipt of {label}")


@dramatiq.actor(max_retries=5, min_backoff=50, max_backoff=200)
def event(label: str) -> None:
    """Its receiver fails the first time."""
    with _noted(label):
        if current_run().failures == 0:
            raise RuntimeError("the receiver answered 503")
        _post(label)


@dramatiq.actor(max_retries=0)
def step(label: str) -> None:
    with _noted(label):
        time.sleep(STEP)


@dramatiq.actor(max_retries=0, queue_name="heavy")
def place(label: str) -> None:
    with _noted(label):
        time.sleep(2 * STEP)


@dramatiq.actor(max_retries=0)
def doomed(label: str) -> None:
    """Dead at first; an operator's retry mends it."""
    with _noted(label):
        if current_run().attempt == 1:
            raise Permanent("no such mailbox")


@dramatiq.actor(max_retries=0)
def held(label: str) -> None:
    with _noted(label):
        until = time.monotonic() + HELD
        while time.monotonic() < until and not current_run().cancel_requested():
            time.sleep(STEP)
        if current_run().cancel_requested():
            raise RuntimeError("stopped because it was asked to")


@dramatiq.actor(max_retries=0, periodic=cron("* * * * *"), missed="all", missed_limit=100)  # type: ignore[no-untyped-call]
def tick() -> None:
    with _noted("tick"):
        pass
