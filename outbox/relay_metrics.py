"""Prometheus metrics of a relay, in the process's own registry. What only the database knows is in `outbox/census.py`."""

from __future__ import annotations

import time
from datetime import datetime

from prometheus_client import Counter, Gauge, Histogram

__all__ = [
    "CONFIRM_SECONDS",
    "LOST",
    "PUBLISHED",
    "PUBLISH_SECONDS",
    "REFUSED",
    "RELAY_READY",
    "RESCUED",
    "UNCONFIRMED",
    "note_publish",
]

_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15)
_LONG = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 3600)

RELAY_READY = Gauge("outbox_relay_ready", "1 while the broker takes messages from this relay.")
PUBLISHED = Counter("outbox_published", "Messages confirmed by the broker.")
REFUSED = Counter("outbox_refused", "Messages that the broker refused.")
UNCONFIRMED = Gauge("outbox_unconfirmed_messages", "Messages that were published and have no answer yet.")
CONFIRM_SECONDS = Histogram("outbox_confirm_seconds", "From publishing a batch to its last confirm.", buckets=_SHORT)
PUBLISH_SECONDS = Histogram(
    "outbox_publish_seconds", "From when the first task of a batch was due to its confirm.", buckets=_LONG
)
LOST = Counter("outbox_lost", "Messages that the broker lost and that are published again.", ["how"])
RESCUED = Counter("outbox_rescued", "Tasks taken from a dead worker.", ["became"])

# Those of which one is bad news are there from the start: the first one of a series that begins with it is no increase.
for _how in ("epoch", "overtaken", "empty", "dead letter"):
    LOST.labels(_how)
for _became in ("rescued", "dead", "cancelled", "unlisted"):
    RESCUED.labels(_became)


def note_publish(due_at: str, *, ahead: float) -> None:
    """A batch is confirmed whose first task was due then, as PostgreSQL wrote it; by `ahead` seconds its clock is ahead

    of ours. A time that is written otherwise than by default, or is none, is left out.
    """
    try:
        since = datetime.fromisoformat(due_at).timestamp()
    except ValueError:
        return
    PUBLISH_SECONDS.observe(max(0.0, time.time() + ahead - since))
