"""Prometheus metrics of relay and worker, in the process's own registry: no files, no fork."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

__all__ = ["CONFIRM_SECONDS", "LOST", "OUTCOMES", "PUBLISHED", "REFUSED", "RELAY_READY", "RESCUED", "RUN_SECONDS"]

_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15)

RELAY_READY = Gauge("outbox_relay_ready", "1 while the broker takes messages from this relay.")
PUBLISHED = Counter("outbox_published", "Messages confirmed by the broker.")
REFUSED = Counter("outbox_refused", "Messages that the broker refused.")
CONFIRM_SECONDS = Histogram("outbox_confirm_seconds", "From publishing a batch to its last confirm.", buckets=_SHORT)
LOST = Counter("outbox_lost", "Messages that the broker lost and that are published again.", ["how"])
RESCUED = Counter("outbox_rescued", "Tasks taken from a dead worker.", ["became"])
OUTCOMES = Counter("outbox_outcomes", "Runs by recorded outcome.", ["actor", "outcome"])
RUN_SECONDS = Histogram("outbox_run_seconds", "Duration of runs.", ["actor"])
