"""Deliveries and mails a second, from a backlog to recorded outcomes, beside a plain loop in as many threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench import processes, tasks
from bench.apps import stamp
from bench.cores import Meter
from bench.e2e import FINISHED_AT
from bench.figures import Report, Series, rate, ratio
from bench.ground import Field, Ground
from bench.sinks import APP
from bench.waiting import until

THREADS = (1, 16, 64)
DELAYS = (0.0, 0.05)


@dataclass(frozen=True)
class Kind:
    """What is measured: `make` commits a backlog of so many, `receiver` starts a receiver and says how to find it."""

    name: str
    queue: str
    make: Callable[[int], list[str]]
    receiver: Callable[[Field, float], dict[str, str]]


def measure(ground: Ground, kind: Kind, *, rounds: int, quick: bool) -> Report:
    report = Report(
        f"{kind.name.capitalize()}: committed → outcome recorded, against a plain loop without an outbox",
        [
            f"one relay, one worker process with 1, 16 or 64 threads; {kind.name} wait in PostgreSQL when they start",
            "plain: the same conversations in as many threads of one process; nothing is kept of them",
            "the receiver, on the same cores, answers at once or after 50 ms; rate between 5 % and 95 % done",
        ],
    )
    for delay in DELAYS:
        for threads in THREADS:
            report.series += _compared(ground, kind, report, rounds, delay=delay, threads=threads, quick=quick)
    return report


def _compared(
    ground: Ground, kind: Kind, report: Report, rounds: int, *, delay: float, threads: int, quick: bool
) -> list[Series]:
    where = f"{threads} thread{'s' if threads > 1 else ''}, {'after 50 ms' if delay else 'at once'}"
    ours, plain = Series(f"{where}: outbox", "/s"), Series(f"{where}: plain", "/s")
    count, used = _count(delay, threads, quick=quick), ""
    for _ in range(rounds):
        reached, used = _outbox_rate(ground, kind, count, delay=delay, threads=threads)
        ours.values.append(reached)
        plain.values.append(_plain_rate(ground, kind, count, delay=delay, threads=threads))
    report.notes.append(f"{where}: {used}")
    return [ours, plain, ratio(f"{where}: outbox / plain", ours, plain)]


def _count(delay: float, threads: int, *, quick: bool) -> int:
    """As many as a few seconds take: one thread that waits 50 ms for each does not get far."""
    if delay and threads == 1:
        return 100 if quick else 300
    return 600 if quick else 4000


def _outbox_rate(ground: Ground, kind: Kind, count: int, *, delay: float, threads: int) -> tuple[float, str]:
    """The rate, and who used the processor meanwhile."""
    with ground.round() as here, here.connect() as conn:
        app = APP | kind.receiver(here, delay)
        here.run("-m", "bench.outgoing", *kind.make(count), **app)
        (worker,) = processes.workers(here, 1, threads=threads, queues=kind.queue, app=app)
        relay = processes.relay(here, app=app)
        servers = {"postgres": [ground.postgres.pid], "rabbitmq": [ground.rabbitmq.pid]}
        meter = Meter({"worker": [worker.pid], "relay": [relay.pid]} | servers)
        meter.start()
        until(lambda: tasks.finished(conn) >= count, f"{count} {kind.name} are recorded", here=here, every=0.5)
        meter.stop()
        return rate(at for (at,) in conn.execute(FINISHED_AT)), meter.per_task(count)


def _plain_rate(ground: Ground, kind: Kind, count: int, *, delay: float, threads: int) -> float:
    with ground.round() as here:
        app = APP | kind.receiver(here, delay)
        here.run("-m", "bench.bare", kind.name, str(count), str(threads), **app)
        return rate(at for _, at in stamp.read(here.stamps))
