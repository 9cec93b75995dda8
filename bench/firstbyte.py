"""`firstbyte`: commit → the first byte of the delivery at its receiver, at 100 a second."""

from __future__ import annotations

import json

from bench import processes, sinks
from bench.apps import stamp
from bench.figures import Report, Series, quantile
from bench.ground import Field, Ground
from bench.waiting import until

PACE, WARM_UP, ENDPOINTS, THREADS = 100, 200, 20, 16


def measure(ground: Ground, *, rounds: int, quick: bool) -> Report:
    count = PACE * (5 if quick else 20)
    p50, p95 = Series("p50", "ms"), Series("p95", "ms", at_most=150.0)
    for _ in range(rounds):
        with ground.round() as here:
            app = sinks.APP | {"BENCH_RECEIVER": sinks.http(here)}
            processes.workers(here, 1, threads=THREADS, queues="webhooks", app=app)
            processes.relay(here, app=app)
            taken = latencies(here, app, count, pace=PACE, endpoints=ENDPOINTS)
        p50.values.append(quantile(taken, 0.5))
        p95.values.append(quantile(taken, 0.95))
    return Report(
        "First byte: commit → first byte of the delivery at its receiver",
        [
            f"{count} events at {PACE}/s in each round, after {WARM_UP} to warm up, each to one of {ENDPOINTS} endpoints",
            f"one relay, one worker × {THREADS} threads; from just before commit(); the receiver runs on the same cores",
        ],
        [p50, p95],
    )


def latencies(here: Field, app: dict[str, str], count: int, *, pace: float, endpoints: int) -> list[float]:
    """Milliseconds from before the commit to the first byte, of each delivery after the warm-up."""
    words = ["pace", str(WARM_UP + count), str(pace), str(endpoints)]
    sent = json.loads(here.run("-m", "bench.outgoing", *words, **app))
    until(lambda: stamp.count(here.stamps) >= WARM_UP + count, "every delivery has arrived", here=here)
    arrived = dict(reversed(stamp.read(here.stamps)))  # of a delivery that came twice, the first
    return [(arrived[number] - before) * 1000 for number, before, _ in sent[WARM_UP:]]
