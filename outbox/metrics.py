"""Prometheus metrics of a worker process, in its own registry: no files, no fork. A relay's are in `outbox/relay_metrics.py`."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from outbox.run import Run
    from outbox.station import Station

__all__ = [
    "DEAD_THREADS",
    "IN_HAND",
    "LATE_OUTCOMES",
    "OUTCOMES",
    "OUTLAWED",
    "REPEATS_SKIPPED",
    "RUN_SECONDS",
    "THREADS",
    "count_outcome",
    "tell_of",
]

_LONG = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)

OUTCOMES = Counter("outbox_outcomes", "Runs by recorded outcome.", ["actor", "outcome"])
RUN_SECONDS = Histogram("outbox_run_seconds", "Duration of runs.", ["actor"], buckets=_LONG)
REPEATS_SKIPPED = Counter("outbox_repeats_skipped", "Copies of messages that came too late and were not run.")
LATE_OUTCOMES = Counter("outbox_late_outcomes", "Outcomes of runs whose task was somebody else's by then.")
DEAD_THREADS = Counter("outbox_dead_threads", "Worker threads that died and were replaced.")
OUTLAWED = Counter("outbox_outlawed", "How often this process was declared dead while it lived.")
THREADS = Gauge("outbox_worker_threads", "Threads that run tasks here.")
IN_HAND = Gauge("outbox_worker_tasks", "Tasks in this worker's hands.", ["state"])


def tell_of(station: Station) -> None:
    """The gauges are those of this station from now on, computed when somebody asks."""
    THREADS.set_function(lambda: station.threads)
    IN_HAND.labels("held").set_function(lambda: station.in_hand()[0])
    IN_HAND.labels("running").set_function(lambda: station.in_hand()[1])


def count_outcome(run: Run, outcome: str) -> None:
    """A run's outcome is recorded: committed, and not that of a run whose task was somebody else's by then."""
    actor = run.message.actor_name
    _outcomes_of(actor, outcome).inc()
    if run.started is not None and run.finished is not None:
        _run_seconds_of(actor).observe(run.finished - run.started)


# `labels()` costs more than the count itself, and settling is the worker's hot path.
@cache
def _outcomes_of(actor: str, outcome: str) -> Counter:
    return OUTCOMES.labels(actor, outcome)


@cache
def _run_seconds_of(actor: str) -> Histogram:
    return RUN_SECONDS.labels(actor)
