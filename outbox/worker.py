"""The worker process: one Dramatiq worker, watched; a dead thread is replaced, SIGTERM finishes what runs."""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import dramatiq

from outbox import app, logs
from outbox.errors import ConfigurationError
from outbox.health import Health
from outbox.logs import get_logger
from outbox.settings import Settings
from outbox.signals import StopSignal

if TYPE_CHECKING:
    from outbox.broker import OutboxBroker

__all__ = ["health_of", "main"]

log = get_logger("outbox.worker")

#: What is in a worker's hands is made and gone within moments: collected as often as by default, it is all looked through
#: while it lives, again and again, and a tenth of the processor's time goes into that.
YOUNG = 20_000
#: After the grace: for the outcomes of what ran to its end, and for the connections.
LAST = timedelta(seconds=20)


def main(settings: Settings, queues: Sequence[str] = (), threads: int = 8) -> int:
    """Run the app's actors until SIGTERM or SIGINT. Answers the process's exit code.

    On the first signal nothing more is claimed, what has not started goes to other workers at once, and what runs
    may finish within `shutdown_grace`; a second signal ends the process now: its tasks are rescued.
    """
    logs.configure(settings.log_format, settings.log_level)
    logging.getLogger("dramatiq").setLevel(max(logging.WARNING, logging.getLogger().level))
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])
    broker = app.load(settings.app)
    unknown = set(queues) - broker.get_declared_queues()
    if unknown:
        known = ", ".join(sorted(broker.get_declared_queues())) or "none"
        raise ConfigurationError(f"no actor uses the queue {', '.join(sorted(unknown))}; there are: {known}")

    stop = StopSignal()
    broker.emit_after("process_boot")
    worker = dramatiq.Worker(broker, queues=set(queues) or None, worker_threads=threads, worker_timeout=1000)
    health = broker.health = health_of(broker, worker)
    worker.start()
    health.start()
    log.info("worker started", queues=sorted(worker.consumers), threads=threads)
    stop.wait()
    log.info("worker stops: what runs may finish", grace=settings.shutdown_grace.total_seconds())
    _end_at_the_latest(settings.shutdown_grace + LAST)
    worker.stop(timeout=_milliseconds(settings.shutdown_grace))
    if running := [thread.name for thread in worker.workers if thread.is_alive()]:
        log.warning("worker stopped; tasks that still ran are due again, elsewhere", threads=running)
        os._exit(0)  # now, before another process starts them
    health.stop()
    log.info("worker stopped")
    return 0


def health_of(broker: OutboxBroker, worker: dramatiq.Worker) -> Health:
    """The health of a process that runs this worker, not served yet."""
    return Health(
        broker.settings.health_host,
        broker.settings.health_port,
        live=lambda: _alive(worker) and broker.station.alive,
        ready=lambda: broker.station.lease.valid,
    )


def _end_at_the_latest(span: timedelta) -> None:
    """Dramatiq waits for its event loop without an end. Whoever still runs then is rescued when its lease is over."""
    timer = threading.Timer(span.total_seconds(), os._exit, (0,))
    timer.daemon = True
    timer.start()


def _alive(worker: dramatiq.Worker) -> bool:
    return all(thread.is_alive() for thread in (*worker.workers, *worker.consumers.values()))


def _milliseconds(span: timedelta) -> int:
    return int(span.total_seconds() * 1000)
