"""The task on Celery: acknowledged late, no results. Runs in a venv of its own, so it imports nothing else of ours."""

from __future__ import annotations

import os

from celery import Celery  # type: ignore[import-not-found]
from stamp import Stamps  # type: ignore[import-not-found]  # beside this file: sys.path is this directory

app = Celery("bench", broker=os.environ["RABBITMQ_URL"])
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=64,
    worker_send_task_events=False,
    task_default_queue="bench",
    broker_connection_retry_on_startup=True,
)
stamps = Stamps(os.environ["BENCH_STAMPS"])


@app.task(name="noop")  # type: ignore[untyped-decorator]
def noop(number: int, email: str = "", name: str = "") -> None:
    stamps.put(number)
