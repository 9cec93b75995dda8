"""`scaling`: what a second relay and more workers add on this machine, and where the broker is the limit."""

from __future__ import annotations

import json

from bench import processes, tasks
from bench.drain import WINDOW, published_rate
from bench.e2e import FINISHED_AT
from bench.figures import Report, Series, rate, ratio
from bench.ground import Ground
from bench.waiting import until

WORKERS = (1, 2, 4)


def measure(ground: Ground, *, rounds: int, quick: bool) -> Report:
    rows, count = (20_000, 6_000) if quick else (60_000, 20_000)
    raw, one, two = (Series(name, "/s") for name in ("raw publisher", "1 relay", "2 relays"))
    workers = {number: Series(f"{number} workers", "/s") for number in WORKERS}
    for _ in range(rounds):
        with ground.round() as here, here.connect() as conn:
            tasks.make_pending(conn, rows)
            raw.values.append(rate(json.loads(here.run("-m", "bench.raw_publisher"))))
        one.values.append(_relayed(ground, rows, 1))
        two.values.append(_relayed(ground, rows, 2))
        for number, series in workers.items():
            series.values.append(_worked(ground, count, number))
    relays = [ratio("2 relays / 1 relay", two, one), ratio("2 relays / raw publisher", two, raw)]
    more = [ratio(f"{number} workers / 1 worker", workers[number], workers[1]) for number in WORKERS[1:]]
    return Report(
        "Scaling: relays and workers",
        [
            f"relays: {rows} pending tasks published, no workers; the raw publisher is the broker's limit from one process",
            f"workers: {count} tasks, pending → recorded, one relay, workers × {processes.THREADS} threads",
            "all of them share the cores with PostgreSQL and RabbitMQ: what a core more would give is not seen here",
        ],
        [raw, one, two, *relays, *workers.values(), *more],
    )


def _relayed(ground: Ground, rows: int, relays: int) -> float:
    with ground.round() as here, here.connect() as conn:
        tasks.make_pending(conn, rows)
        for number in range(1, relays + 1):
            here.python(f"relay-{number}", "-m", "outbox.cli", "relay", OUTBOX_RELAY_WINDOW=str(WINDOW))
        until(lambda: tasks.none_pending(conn), f"{rows} tasks are published", here=here)
        return published_rate(here, rows)


def _worked(ground: Ground, count: int, workers: int) -> float:
    with ground.round() as here, here.connect() as conn:
        tasks.make_pending(conn, count)
        processes.workers(here, workers)
        processes.relay(here)
        until(lambda: tasks.finished(conn) >= count, f"{count} outcomes are recorded", here=here, every=0.5)
        return rate(at for (at,) in conn.execute(FINISHED_AT))
