"""Is it alive, is it ready, how is it doing. Never asks the broker: the API works without it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from threading import Lock

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from outbox.reads import QueueView, Reader
from service.database import driver_connection
from service.problems import Problem

__all__ = ["Backlog", "routes"]

routes = APIRouter(tags=["health"])


@routes.get("/livez")
async def live() -> dict[str, bool]:
    """The process answers. Touches nothing else."""
    return {"live": True}


@routes.get("/readyz")
def ready(request: Request) -> dict[str, bool]:
    """The database answers and holds our tables."""
    tables = [f"{request.app.state.settings.outbox_schema}.task", "app.idempotency_key"]
    with request.app.state.engine.connect() as connection:
        missing = connection.execute(_MISSING, {"tables": tables}).scalar_one()
    if missing:
        raise Problem("unavailable", "The database has not been migrated.", headers={"Retry-After": "5"})
    return {"ready": True}


_TEXT = {"description": "As Prometheus reads it.", "content": {"text/plain": {"schema": {"type": "string"}}}}


@routes.get("/metrics", response_class=Response, responses={200: _TEXT})
def metrics(request: Request) -> Response:
    """Requests and the outbox's backlog, in the text format of Prometheus."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)


class Backlog(Collector):
    """Unfinished tasks by queue and state, each count up to 10,000.

    Anyone may ask, without a key: the database is asked once a second at most, by one thread.
    """

    def __init__(self, registry: CollectorRegistry, engine: Engine, *, schema: str) -> None:
        self._engine = engine
        self._reader = Reader(schema)
        self._counting = Lock()
        self._counted: list[Metric] = []
        self._until = 0.0
        registry.register(self)

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> list[Metric]:
        with self._counting:
            if time.monotonic() >= self._until:
                self._counted = list(self._count())
                self._until = time.monotonic() + 1
            return self._counted

    def _count(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("api_database_up", "Whether the backlog could be counted.")
        tasks = GaugeMetricFamily(
            "outbox_backlog_tasks", "Unfinished tasks; 10000 means so many or more.", labels=["queue", "state"]
        )
        oldest = GaugeMetricFamily(
            "outbox_oldest_due_seconds", "For how long the oldest due task has waited for the relay.", labels=["queue"]
        )
        try:
            queues = self._queues()
        except SQLAlchemyError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        for queue in queues:
            for state, count in queue.counts.items():
                tasks.add_metric([queue.name, state], count.number)
            oldest.add_metric([queue.name], queue.oldest_due.total_seconds() if queue.oldest_due else 0)
        yield from (up, tasks, oldest)

    def _queues(self) -> list[QueueView]:
        with self._engine.connect() as connection:
            return self._reader.queues(driver_connection(connection))


_MISSING = text("select exists (select from unnest(cast(:tables as text[])) t where to_regclass(t) is null)")
