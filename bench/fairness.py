"""`fairness`: one endpoint that hangs, with a long queue, beside 99 healthy ones. What do those feel of it?"""

from __future__ import annotations

from bench import processes, sinks
from bench.figures import Report, Series, quantile
from bench.firstbyte import latencies
from bench.ground import Field, Ground
from bench.waiting import until

PACE, HEALTHY, THREADS, DEADLINE = 50, 99, 16, "2"
#: What a healthy endpoint's p95 may become: this many times what it was, or this many milliseconds more.
TIMES, MORE = 1.2, 100.0
ATTEMPTED = "select from app.delivery where event_type = 'bench.hanging' and attempts > 0 limit 1"


def measure(ground: Ground, *, rounds: int, quick: bool) -> Report:
    queued, count = (1000, 4 * PACE) if quick else (10_000, 20 * PACE)
    alone = [Series(f"{name}, healthy alone", "ms") for name in ("p50", "p95")]
    beside = [Series(f"{name}, beside the hanging one", "ms") for name in ("p50", "p95")]
    for _ in range(rounds):
        for series, hanging in ((alone, 0), (beside, queued)):
            taken = _healthy(ground, hanging, count)
            series[0].values.append(quantile(taken, 0.50))
            series[1].values.append(quantile(taken, 0.95))
    permitted = [max(TIMES * was, was + MORE) for was in alone[1].values]
    share = [now / most for now, most in zip(beside[1].values, permitted, strict=True)]
    return Report(
        f"Fairness: {HEALTHY} healthy endpoints, and one that hangs with {queued} deliveries queued",
        [
            f"{count} events at {PACE}/s, each to the next healthy endpoint: commit → first byte at the receiver",
            f"one relay, one worker × {THREADS} threads, WEBHOOK_DEADLINE={DEADLINE}, each endpoint's limit the default",
            f"permitted: {TIMES} × the p95 alone, or {MORE:.0f} ms more, whichever is longer",
        ],
        [*alone, *beside, Series("p95 beside / what is permitted", "×", share, at_most=1.0)],
    )


def _healthy(ground: Ground, hanging: int, count: int) -> list[float]:
    """Milliseconds of the healthy endpoints' deliveries, while so many wait for the one that hangs."""
    with ground.round() as here:
        app = sinks.APP | {"BENCH_RECEIVER": sinks.http(here), "WEBHOOK_DEADLINE": DEADLINE}
        if hanging:
            here.run("-m", "bench.outgoing", "hanging", str(hanging), **app)
        processes.workers(here, 1, threads=THREADS, queues="webhooks", app=app)
        processes.relay(here, app=app)
        if hanging:
            _await_first_failure(here)
        return latencies(here, app, count, pace=PACE, endpoints=HEALTHY)


def _await_first_failure(here: Field) -> None:
    """From then on the hanging endpoint holds all the threads that it can get."""
    with here.connect() as conn:
        until(lambda: conn.execute(ATTEMPTED).fetchone() is not None, "an attempt at the hanging one failed", here=here)
