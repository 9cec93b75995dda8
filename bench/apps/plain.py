"""The actor on Dramatiq's own RabbitMQ broker: quorum queue, publisher confirms, its default middleware."""

from __future__ import annotations

import os
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from bench.apps.stamp import Stamps


class QuorumBroker(RabbitmqBroker):
    def _build_queue_arguments(self, queue_name: str) -> dict[str, Any]:
        return {**super()._build_queue_arguments(queue_name), "x-queue-type": "quorum"}  # type: ignore[no-untyped-call]


broker = QuorumBroker(url=os.environ["RABBITMQ_URL"], confirm_delivery=True)
dramatiq.set_broker(broker)
stamps = Stamps(os.environ.get("BENCH_STAMPS", "."))


@dramatiq.actor(queue_name="bench")
def noop(number: int, *, email: str = "", name: str = "") -> None:
    stamps.perform(number)
