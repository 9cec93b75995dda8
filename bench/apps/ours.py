"""The actor on an OutboxBroker."""

from __future__ import annotations

import os

import dramatiq

from bench.apps.stamp import Stamps
from outbox import OutboxBroker

broker = OutboxBroker()
dramatiq.set_broker(broker)
stamps = Stamps(os.environ.get("BENCH_STAMPS", "."))


@dramatiq.actor(queue_name="bench")
def noop(number: int, *, email: str = "", name: str = "") -> None:
    stamps.perform(number)
