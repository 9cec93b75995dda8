"""`python -m bench.outgoing …`: webhooks and mails as the service makes them, committed for relay and workers to send.

    deliveries COUNT ENDPOINTS    events for COUNT deliveries, to as many endpoints
    hanging COUNT                 deliveries to one endpoint that never answers
    mails COUNT                   mails to as many recipients
    pace COUNT RATE ENDPOINTS     events at an even pace, each for the next endpoint

BENCH_RECEIVER is the URL of the receiver. `pace` prints JSON: [[number, before, after], …], the number that the receiver
stamps with, and the instants around the commit.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session

from actors import broker, mail, webhooks
from bench.apps.stamp import number_of
from bench.pacer import Instants, paced
from bench.tasks import EMAIL, NAME
from service import events

BATCH = 100


def deliveries(engine: Engine, count: int, endpoints: int) -> None:
    subscribe(engine, endpoints, to="bench.all", path="fast")
    for numbers in _batches(count // endpoints):
        _publish(engine, "bench.all", numbers)


def hanging(engine: Engine, count: int) -> None:
    subscribe(engine, 1, to="bench.hanging", path="hang")
    for numbers in _batches(count):
        _publish(engine, "bench.hanging", numbers)


def mails(engine: Engine, count: int) -> None:
    for numbers in _batches(count):
        with Session(engine) as session, session.begin():
            for number in numbers:
                to, subject, text = letter(number)
                mail.enqueue_mail(session, mail.prepare(session, to=to, subject=subject, text=text))


def pace(engine: Engine, count: int, rate: float, endpoints: int) -> list[tuple[int, float, float]]:
    for number in range(endpoints):
        subscribe(engine, 1, to=f"bench.of_{number}", path=f"fast/{number}")
    instants: dict[int, int] = {}

    def send(number: int) -> Instants:
        with Session(engine) as session, session.begin():
            instants[number] = _event(session, f"bench.of_{number % endpoints}", number)
            session.flush()
            before = time.monotonic()
        return before, time.monotonic()

    return [(instants[number], before, after) for number, before, after in paced(send, count, rate)]


def subscribe(engine: Engine, count: int, *, to: str, path: str) -> None:
    """New endpoints of the receiver for this type of event."""
    with Session(engine) as session, session.begin():
        for number in range(count):
            url = f"{os.environ['BENCH_RECEIVER']}/{path}/{number}"
            webhooks.create_endpoint(session, url=url, event_types=[to])


class Letter(NamedTuple):
    """A mail of about the size of a welcome."""

    to: str
    subject: str
    text: str


def letter(number: int) -> Letter:
    text = f"Hello {NAME},\n\n" + "Good to have you here. " * 20 + "\n"
    return Letter(EMAIL.format(number), f"Welcome, {NAME}", text)


def content(number: int) -> bytes:
    """The data of an event, about as long as the arguments of the other measurements' tasks."""
    return json.dumps({"number": number, "email": EMAIL.format(number), "name": NAME}).encode()


def _publish(engine: Engine, type: str, numbers: range) -> None:
    with Session(engine) as session, session.begin():
        for number in numbers:
            _event(session, type, number)


def _event(session: Session, type: str, number: int) -> int:
    """The number of its last delivery."""
    published = events.publish(session, type=type, content=content(number))
    if published is None or not published.task_ids:
        raise SystemExit(f"{type} went to nobody")
    return number_of(published.task_ids[-1])


def _batches(count: int) -> Iterator[range]:
    for first in range(0, count, BATCH):
        yield range(first, min(first + BATCH, count))


def main(what: str, count: int, more: list[int]) -> None:
    engine = create_engine(broker.settings.sqlalchemy_url)
    match what:
        case "deliveries":
            deliveries(engine, count, *more)
        case "hanging":
            hanging(engine, count)
        case "mails":
            mails(engine, count)
        case "pace":
            json.dump(pace(engine, count, *more), sys.stdout)
    engine.dispose()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), [int(each) for each in sys.argv[3:]])
