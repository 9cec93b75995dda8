"""Is it alive, is it ready, how is it doing. Never asks the broker: the API works without it."""

from __future__ import annotations

import time
from threading import Lock

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from service.problems import Problem

__all__ = ["DatabaseUp", "routes"]

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
    """Requests, and whether the database answers, in the text format of Prometheus."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)


class DatabaseUp(Collector):
    """Whether the database answers. What is in it the relay tells, which counts it once for all.

    Anyone may ask, without a key: the database is asked once a second at most, by one thread.
    """

    def __init__(self, registry: CollectorRegistry, engine: Engine) -> None:
        self._engine = engine
        self._asking = Lock()
        self._up = False
        self._until = 0.0
        registry.register(self)

    def describe(self) -> list[Metric]:
        return [_up()]

    def collect(self) -> list[Metric]:
        with self._asking:
            if time.monotonic() >= self._until:
                self._up = self._answers()
                self._until = time.monotonic() + 1
            return [_up(float(self._up))]

    def _answers(self) -> bool:
        try:
            with self._engine.connect() as connection:
                return bool(connection.execute(text("select true")).scalar_one())
        except SQLAlchemyError:
            return False


def _up(value: float | None = None) -> Metric:
    return GaugeMetricFamily("api_database_up", "1 while the database answers this API.", value=value)


_MISSING = text("select exists (select from unnest(cast(:tables as text[])) t where to_regclass(t) is null)")
