"""`memory`: what the relay and a worker hold in RAM, after start and while a backlog runs through them."""

from __future__ import annotations

from bench import processes, tasks
from bench.apps import stamp
from bench.cores import resident
from bench.figures import Report, Series
from bench.ground import Ground
from bench.waiting import until
from deploy.local.child import Child


def measure(ground: Ground, *, rounds: int, quick: bool) -> Report:
    count = 20_000 if quick else 100_000
    relay, worker = Series("relay, most", "MiB", at_most=100), Series("worker, most", "MiB", at_most=150)
    relay_grew, worker_grew = (
        Series(f"{name}: at the end / after a fifth", "×", at_most=1.1) for name in ("relay", "worker")
    )
    for _ in range(min(rounds, 1 if quick else 2)):
        of_relay, of_worker = _samples(ground, count)
        for most, grew, samples in ((relay, relay_grew, of_relay), (worker, worker_grew, of_worker)):
            most.values.append(max(samples))
            grew.values.append(samples[-1] / samples[len(samples) // 5])
    return Report(
        "Memory: resident, while a backlog runs through",
        [
            f"{count} tasks, pending → recorded; one relay, 2 workers × 8 threads, default settings",
            "VmRSS, twenty samples on the way; the application is one actor that does nothing",
        ],
        [relay, worker, relay_grew, worker_grew],
    )


def _samples(ground: Ground, count: int) -> tuple[list[float], list[float]]:
    """MiB of the relay and of one worker, at each twentieth of the way."""
    with ground.round() as here, here.connect() as conn:
        tasks.make_pending(conn, count)
        worker, *_ = processes.workers(here)
        relay = processes.relay(here)
        of_relay, of_worker = [], []
        for part in range(1, 21):
            until(lambda part=part: stamp.count(here.stamps) >= count * part // 20, f"{part}/20 are done", here=here)  # type: ignore[misc]
            of_relay.append(_resident(relay))
            of_worker.append(_resident(worker))
    return of_relay, of_worker


def _resident(child: Child) -> float:
    if child.pid is None:
        raise RuntimeError(f"{child.name} does not run")
    return resident(child.pid)
