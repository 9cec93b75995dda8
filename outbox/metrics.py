"""Prometheus metrics of relay and worker, in the process's own registry: no files, no fork."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from outbox.run import Run

__all__ = [
    "CONFIRM_SECONDS",
    "FOREIGN",
    "LOST",
    "OUTCOMES",
    "PUBLISHED",
    "REFUSED",
    "RELAY_READY",
    "RESCUED",
    "RUN_SECONDS",
    "count_outcome",
]

_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15)
_LONG = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)

RELAY_READY = Gauge("outbox_relay_ready", "1 while the broker takes messages from this relay.")
PUBLISHED = Counter("outbox_published", "Messages confirmed by the broker.")
REFUSED = Counter("outbox_refused", "Messages that the broker refused.")
CONFIRM_SECONDS = Histogram("outbox_confirm_seconds", "From publishing a batch to its last confirm.", buckets=_SHORT)
LOST = Counter("outbox_lost", "Messages that the broker lost and that are published again.", ["how"])
RESCUED = Counter("outbox_rescued", "Tasks taken from a dead worker.", ["became"])
FOREIGN = Counter("outbox_foreign", "Messages in our queues that no relay published.", ["became"])
OUTCOMES = Counter("outbox_outcomes", "Runs by recorded outcome.", ["actor", "outcome"])
RUN_SECONDS = Histogram("outbox_run_seconds", "Duration of runs.", ["actor"], buckets=_LONG)


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
