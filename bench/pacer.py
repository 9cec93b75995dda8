"""`python -m bench.pacer outbox|dramatiq COUNT RATE`: tasks at an even pace. Prints JSON: [[number, before, after], …].

`before` and `after` are the instants around the commit (outbox), or around send() with confirm (Dramatiq).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from bench.tasks import arguments

Instants = tuple[float, float]


def main(system: str, count: int, rate: float) -> None:
    sends: dict[str, Callable[[], AbstractContextManager[Callable[[int], Instants]]]] = {
        "outbox": commits,
        "dramatiq": messages,
    }
    with sends[system]() as send:
        json.dump(paced(send, count, rate), sys.stdout)


def paced(send: Callable[[int], Instants], count: int, rate: float) -> list[tuple[int, float, float]]:
    taken = []
    began = time.monotonic() + 0.1
    for number in range(count):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        taken.append((number, *send(number)))
    return taken


@contextmanager
def commits() -> Iterator[Callable[[int], Instants]]:
    from sqlalchemy import create_engine
    from sqlalchemy.orm import Session

    from bench.apps.ours import broker, noop
    from outbox import enqueue

    engine = create_engine(broker.settings.sqlalchemy_url)

    def send(number: int) -> Instants:
        args, kwargs = arguments(number)
        with Session(engine) as session:
            enqueue(session, noop.message(*args, **kwargs))
            session.flush()
            before = time.monotonic()
            session.commit()
            return before, time.monotonic()

    yield send
    engine.dispose()


@contextmanager
def messages() -> Iterator[Callable[[int], Instants]]:
    from bench.apps.plain import broker, noop

    def send(number: int) -> Instants:
        args, kwargs = arguments(number)
        before = time.monotonic()
        noop.send(*args, **kwargs)
        return before, time.monotonic()

    yield send
    broker.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
