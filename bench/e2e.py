"""`e2e`: rows pending → outcomes recorded, against plain Dramatiq, which records nothing.

The other peers, and what they promise: `peers`.
"""

from __future__ import annotations

from collections.abc import Callable

from bench import processes, tasks
from bench.apps import stamp
from bench.cores import Meter
from bench.figures import Report, Series, rate, ratio
from bench.ground import Field, Ground
from bench.waiting import until
from deploy.local.child import Child

FINISHED_AT = "select extract(epoch from finished_at)::float8 from outbox.history where state = 'succeeded'"


def measure(ground: Ground, *, rounds: int, quick: bool) -> Report:
    count = 8_000 if quick else 25_000
    ours, plain = (Series(name, "/s") for name in ("outbox", "Dramatiq"))
    report = Report(
        "End to end: row pending → outcome recorded",
        [
            f"outbox: {count} pending tasks, one relay, 2 workers × 8 threads, default settings",
            f"Dramatiq: {count} messages in a quorum queue, `dramatiq -p 2 -t 8`, default middleware; records nothing",
            "the actor notes its start with one write; rate between 5 % and 95 % done; all on the same cores",
        ],
    )
    for _ in range(rounds):
        ours.values.append(outbox_rate(ground, count, report))
        plain.values.append(dramatiq_rate(ground, count, report))
    report.series = [ours, plain, ratio("outbox / Dramatiq", ours, plain, at_least=1.5)]
    return report


def outbox_rate(ground: Ground, count: int, report: Report) -> float:
    with ground.round() as here, here.connect() as conn:
        tasks.make_pending(conn, count)
        workers = processes.workers(here)
        relay = processes.relay(here)
        meter = _meter(ground, {"relay": [relay], "workers": workers})
        meter.start()
        until(lambda: tasks.finished(conn) >= count, f"{count} outcomes are recorded", here=here, every=0.5)
        meter.stop()
        report.notes.append(f"outbox: {meter.per_task(count)}")
        return rate(at for (at,) in conn.execute(FINISHED_AT))


def dramatiq_rate(ground: Ground, count: int, report: Report) -> float:
    with ground.round() as here:
        here.run("-m", "bench.plain_sender", str(count), "--unconfirmed")
        return _drained(ground, here, count, lambda: processes.plain_dramatiq(here), "Dramatiq", report)


def _drained(ground: Ground, here: Field, count: int, start: Callable[[], Child], name: str, report: Report) -> float:
    process = start()
    meter = _meter(ground, {"workers": [process]})
    meter.start()
    until(lambda: stamp.count(here.stamps) >= count, f"{name} has run {count} tasks", here=here)
    meter.stop()
    report.notes.append(f"{name}: {meter.per_task(count)}")
    return rate(at for _, at in stamp.read(here.stamps))


def _meter(ground: Ground, children: dict[str, list[Child]]) -> Meter:
    servers = {"postgres": [ground.postgres.pid], "rabbitmq": [ground.rabbitmq.pid]}
    return Meter({name: [each.pid for each in group] for name, group in children.items()} | servers)
