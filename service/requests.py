"""What every request gets: an id, a line in the log, its place in the metrics."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils.compat import uuid7

from outbox.logs import get_logger
from service.problems import EVERY_ANSWER, METHODS

__all__ = ["RequestMetrics", "Witness"]

QUIET = frozenset({"/livez", "/readyz", "/metrics"})
#: Routes whose answers last as long as somebody listens: their durations tell nothing.
LASTING = frozenset({"/v1/tasks/{task_id}/stream", "/dashboard/live"})
_ID = re.compile(r"[A-Za-z0-9._\-]{1,128}")

log = get_logger("service.requests")


class RequestMetrics:
    """Requests by route and status; durations by route."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._answered = Counter(
            "http_requests", "Requests answered, by route and status.", ["method", "route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "http_request_duration_seconds", "From the request's head to the end of its answer.", ["route"],
            registry=registry, buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
        )  # fmt: skip

    def observe(self, *, method: str, route: str, status: int, seconds: float) -> None:
        self._answered.labels(method, route, str(status)).inc()
        if route not in LASTING:
            self._seconds.labels(route).observe(seconds)


class Witness:
    """ASGI middleware. The caller's `X-Request-ID` is taken over if it is plain, else made; it is in every answer."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        status, began = 500, time.perf_counter()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(message, scope["state"])
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, noted)
            finally:
                self._tell(scope, status, time.perf_counter() - began)

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        route = _route_of(scope)
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._metrics.observe(method=method, route=route, status=status, seconds=seconds)
        if route not in QUIET:
            log.info("answered", method=method, route=route, status=status, milliseconds=round(seconds * 1000, 1))


def _route_of(scope: Scope) -> str:
    """The route's path; of a mounted application, behind the path where it is mounted."""
    route = getattr(scope.get("route"), "path", "unmatched")
    mounted = str(scope.get("root_path", "")).removeprefix(str(scope.get("app_root_path", "")))
    return route if route == "unmatched" else f"{mounted}{route}"


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _ID.fullmatch(given) else str(uuid7())


def _add_headers(message: Message, state: Mapping[str, Any]) -> None:
    headers = MutableHeaders(scope=message)
    headers["X-Request-ID"] = state["request_id"]
    headers.update(state.get("pace", {}))
    for name, value in EVERY_ANSWER.items():
        headers.setdefault(name, value)
