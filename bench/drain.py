"""`relay`: a backlog from pending to published, against the same publisher without a database and against `send()`."""

from __future__ import annotations

import json

from bench import processes, tasks
from bench.cores import Meter
from bench.figures import Report, Series, rate, ratio
from bench.ground import Field, Ground
from bench.waiting import until

WINDOW = 1_000_000
PUBLISHED_AT = "select extract(epoch from published_at)::float8 from outbox.task where state = 'published'"


def measure(ground: Ground, *, rounds: int, quick: bool) -> Report:
    rows, sends = (20_000, 2_000) if quick else (60_000, 5_000)
    relay, raw, send = (Series(name, "/s") for name in ("relay", "raw publisher", "Dramatiq send()"))
    report = Report(
        "Relay: pending → published and marked",
        [
            f"{rows} pending tasks of about 100 bytes of arguments, one `outbox relay`, window {WINDOW}",
            "raw: the same publisher, bodies and queue without a database; batch 1000, 2 in flight",
            f"send(): {sends} × actor.send(), confirm_delivery, quorum queue, one thread",
            "rate between 5 % and 95 % done, one after the other in each round",
        ],
    )
    for _ in range(rounds):
        relay.values.append(relay_rate(ground, rows, report))
        with ground.round() as here, here.connect() as conn:
            tasks.make_pending(conn, rows)
            raw.values.append(rate(json.loads(here.run("-m", "bench.raw_publisher"))))
        with ground.round() as here:
            send.values.append(rate(json.loads(here.run("-m", "bench.plain_sender", str(sends)))))
    report.series = [
        relay,
        raw,
        send,
        ratio("relay / raw publisher", relay, raw, at_least=0.85),
        ratio("relay / send()", relay, send, at_least=8),
    ]
    return report


def relay_rate(ground: Ground, rows: int, report: Report) -> float:
    with ground.round() as here, here.connect() as conn:
        tasks.make_pending(conn, rows)
        process = processes.relay(here, window=WINDOW)
        meter = Meter({"relay": [process.pid], "postgres": [ground.postgres.pid], "rabbitmq": [ground.rabbitmq.pid]})
        meter.start()
        until(lambda: tasks.none_pending(conn), f"{rows} tasks are published", here=here)
        meter.stop()
        report.notes.append(meter.per_task(rows))
        return published_rate(here, rows)


def published_rate(here: Field, rows: int) -> float:
    with here.connect() as conn:
        instants = [at for (at,) in conn.execute(PUBLISHED_AT)]
    if len(instants) != rows:
        raise RuntimeError(f"{len(instants)} of {rows} tasks are published")
    return rate(instants)
