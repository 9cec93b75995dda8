"""`history`: ten million finished tasks in the history change nothing (I12)."""

from __future__ import annotations

from bench import processes, tasks
from bench.apps import stamp
from bench.figures import Report, Series, rate, ratio
from bench.ground import Field, Ground
from bench.waiting import until


def measure(ground: Ground, *, rounds: int, quick: bool) -> Report:
    finished, count = (1_000_000, 6_000) if quick else (10_000_000, 20_000)
    empty, full = Series("empty history", "/s"), Series(f"{finished:,} in the history", "/s")
    with ground.round() as clean, ground.round() as laden:
        with laden.connect() as conn:
            tasks.make_finished(conn, finished)
        for number in range(rounds):
            for series, here in ((empty, clean), (full, laden)):
                series.values.append(_drain(here, count, first=1 + number * count))
    return Report(
        "History: pending → recorded with many finished tasks",
        [
            f"{count} tasks in each round, one relay, 2 workers × 8 threads; the finished ones all lie in today's partition,",
            "where the outcomes are recorded; the same two databases in every round, in turn",
        ],
        [empty, full, ratio("full / empty", full, empty, at_least=0.9)],
    )


def _drain(here: Field, count: int, *, first: int) -> float:
    """Starts a second between 5 % and 95 %; every outcome is recorded when this returns."""
    with here.connect() as conn:
        tasks.make_pending(conn, count, first=first)
        processes.workers(here)
        processes.relay(here)
        wanted = first - 1 + count
        until(lambda: stamp.count(here.stamps) >= wanted, f"{count} tasks have run", here=here)
        until(lambda: tasks.none_left(conn), f"{count} outcomes are recorded", here=here)
        here.end()
    return rate(at for number, at in stamp.read(here.stamps) if number >= first)
