"""The API. `uvicorn service.app:app`, or `python -m service api`, or `create_app(settings)`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, ProcessCollector

from actors import outside
from outbox.logs import configure
from outbox.signals import closed_by_signals
from service import (
    bulk,
    dashboard,
    deliveries,
    docs,
    endpoints,
    events,
    failures,
    health,
    insight,
    mail_events,
    mails,
    openapi,
    orders,
    outgoing,
    problems,
    queues,
    replay,
    schedules,
    signups,
    stream,
    suppressions,
    tasks,
    unsubscribe,
)
from service.database import engine_for
from service.limit import BodyLimit
from service.pace import paces_for
from service.requests import RequestMetrics, Witness
from service.settings import Settings
from service.watch import Watch

__all__ = ["app", "check_surroundings", "create_app"]


def create_app(settings: Settings) -> FastAPI:
    """The application, with an engine of its own; it connects to the database when the first request comes."""
    api = FastAPI(
        title="Background tasks that cannot be lost",
        version="1",
        description="A 2xx means: committed, and it will be carried out.",
        openapi_tags=openapi.TAGS,
        license_info=openapi.LICENSE,
        webhooks=outgoing.routes,
        docs_url=None,  # FastAPI's page loads from a third party
        redoc_url=None,
        redirect_slashes=False,  # the address would be made of what the caller says the host is
        lifespan=_lifespan,
        generate_unique_id_function=openapi.operation_id,
    )
    registry = CollectorRegistry()
    api.state.settings = settings
    api.state.registry = registry
    api.state.engine = engine_for(settings)
    api.state.paces = paces_for(settings)
    api.state.watch = Watch(api.state.engine, schema=settings.outbox_schema, most=settings.streams)
    ProcessCollector(registry=registry)
    health.DatabaseUp(registry, api.state.engine)
    api.add_middleware(BodyLimit, octets=settings.body_limit)
    api.add_middleware(Witness, metrics=RequestMetrics(registry))
    problems.install(api)
    for each in (
        signups,
        orders,
        events,
        mails,
        unsubscribe,
        suppressions,
        mail_events,
        endpoints,
        deliveries,
        replay,
        tasks,
        failures,
        bulk,
        queues,
        schedules,
        insight,
        stream,
        health,
        docs,
    ):
        api.include_router(each.routes)
    openapi.describe(api)
    api.state.dashboard = dashboard.mount(api)
    return api


def check_surroundings() -> None:
    """Raise SecretKeyMissing or ValueError, naming the variable, for settings of mails and webhooks that make no sense."""
    outside.vault()
    outside.sender()
    outside.signer()
    outside.return_path()
    outside.public_url()
    outside.policy()
    outside.transport()
    outside.domain_limits()


@asynccontextmanager
async def _lifespan(api: FastAPI) -> AsyncIterator[None]:
    check_surroundings()
    _log_in_our_style(api.state.settings)
    current_default_thread_limiter().total_tokens = api.state.settings.threads
    with closed_by_signals(api.state.watch.close):
        yield
    api.state.dashboard.close()
    await api.state.watch.end()
    api.state.engine.dispose()


def _log_in_our_style(settings: Settings) -> None:
    """Unless logs were configured: plain uvicorn configures its own loggers alone, and LOG_FORMAT would mean nothing."""
    if logging.getLogger().handlers:
        return
    configure(settings.log_format, settings.log_level)
    for name, heard in (("uvicorn", True), ("uvicorn.access", False)):  # each request has a line of ours
        theirs = logging.getLogger(name)
        theirs.handlers[:], theirs.propagate = [], heard


app = create_app(Settings())
