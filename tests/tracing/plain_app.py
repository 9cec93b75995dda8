"""An application without OpenTelemetry: `OUTBOX_APP` of processes in which it cannot be imported."""

from __future__ import annotations

import sys

import dramatiq

from outbox import OutboxBroker

broker = OutboxBroker()
dramatiq.set_broker(broker)


@dramatiq.actor
def parent() -> None:
    child.send()


@dramatiq.actor
def child() -> None:
    assert not [name for name, module in sys.modules.items() if name.startswith("opentelemetry") and module]
