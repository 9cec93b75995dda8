"""The dashboard of the service, at `/dashboard`: the library's, behind API keys, with endpoints and mail beside the tasks."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI
from fastapi.responses import RedirectResponse

from outbox.dashboard import Dashboard
from service.browsers import Browsers
from service.panels import panel

__all__ = ["PATH", "mount"]

PATH = "/dashboard"

routes = APIRouter(include_in_schema=False)


@routes.get(PATH)
def redirect_to_overview() -> RedirectResponse:
    return RedirectResponse(f"{PATH}/", 308)


def mount(api: FastAPI) -> Dashboard:
    """Serve it. It shares the engine, the settings and the paces of the API."""
    settings = api.state.settings
    dashboard = Dashboard(
        api.state.engine,
        gate=Browsers(api.state),
        schema=settings.outbox_schema,
        panels=[panel(api.state.engine)],
    )
    api.include_router(routes)
    api.mount(PATH, dashboard, name="dashboard")
    return dashboard
