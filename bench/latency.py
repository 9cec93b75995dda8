"""`latency`: commit → the actor starts, at 50 tasks a second, against plain Dramatiq's send() → start."""

from __future__ import annotations

import json
from collections.abc import Callable

from bench import processes
from bench.apps import stamp
from bench.figures import Report, Series, quantile, ratio
from bench.ground import Field, Ground
from bench.waiting import until

PACE, WARM_UP = 50, 100


def measure(ground: Ground, *, rounds: int, quick: bool) -> Report:
    count = PACE * (6 if quick else 20)
    names = ("p50", "p99", "p50, once commit() had returned")
    ours = [Series(f"outbox {name}", "ms") for name in names]
    plain = [Series(f"Dramatiq {name.replace('commit', 'send')}", "ms") for name in names]
    for _ in range(rounds):
        for series, milliseconds in zip(ours, _latencies(ground, "outbox", _start_ours, count), strict=True):
            series.values.append(milliseconds)
        for series, milliseconds in zip(plain, _latencies(ground, "dramatiq", _start_plain, count), strict=True):
            series.values.append(milliseconds)
    ours[0].at_most, ours[1].at_most = 10.0, 60.0
    behind = [a - b for a, b in zip(ours[0].values, plain[0].values, strict=True)]
    return Report(
        "Latency: commit → actor starts",
        [
            f"{count} tasks at {PACE}/s in each round, after {WARM_UP} to warm up; 2 workers × 8 threads; one relay",
            "from just before commit() (outbox: SQLAlchemy session) or send() (Dramatiq: confirms, quorum queue)",
        ],
        [
            *ours,
            *plain,
            Series("outbox p50 - Dramatiq p50", "ms", behind, at_most=4.0),
            ratio("outbox p99 / Dramatiq p99", ours[1], plain[1], at_most=2.0),
        ],
    )


def _start_ours(here: Field) -> None:
    processes.workers(here)
    processes.relay(here)


def _start_plain(here: Field) -> None:
    processes.plain_dramatiq(here)


def _latencies(ground: Ground, system: str, start: Callable[[Field], None], count: int) -> tuple[float, float, float]:
    """Milliseconds: p50 and p99 from before the call, p50 from after it."""
    with ground.round() as here:
        start(here)
        here.run("-m", "bench.pacer", system, "1", "1")
        until(lambda: stamp.count(here.stamps) >= 1, "the first task has run", here=here)
        sent = json.loads(here.run("-m", "bench.pacer", system, str(WARM_UP + count), str(PACE)))
        until(lambda: stamp.count(here.stamps) >= 1 + WARM_UP + count, "every task has run", here=here)
        started = dict(stamp.read(here.stamps))
    measured = sent[WARM_UP:]
    from_before = [(started[number] - before) * 1000 for number, before, _ in measured]
    from_after = [(started[number] - after) * 1000 for number, _, after in measured]
    return quantile(from_before, 0.5), quantile(from_before, 0.99), quantile(from_after, 0.5)
