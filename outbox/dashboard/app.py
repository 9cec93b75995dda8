"""The dashboard as an ASGI application: pages, acts, and the stream that keeps pages fresh."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import psycopg
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from outbox.dashboard.gate import Asked, Closed, Gate, Visitor, comes_from_here
from outbox.dashboard.live import Hub, Look
from outbox.dashboard.page import Act, Ask, Done, NotThere, Page, Panel, Refused, View
from outbox.dashboard.pages import ACTS, TABS, VIEWS
from outbox.dashboard.render import ASSETS, POLICY, Pages
from outbox.dashboard.requests import back_of, base_of, below, form_of, is_secure
from outbox.dashboard.sources import Source, connections
from outbox.database import driver_error, passes
from outbox.errors import OutboxError
from outbox.logs import get_logger
from outbox.wake import CHANNEL

__all__ = ["Dashboard"]

#: Pages that one visitor may have open at once: browsers close the streams of those that nobody sees.
OPEN = 60
SAID, THEME = "outbox_said", "outbox_theme"
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_NOT_MIGRATED = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, psycopg.errors.InvalidSchemaName)

log = get_logger("outbox.dashboard")

Handler = Callable[[Request], Awaitable[Response]]


class Dashboard:
    """An ASGI application to mount under any path. `where`: a SQLAlchemy engine (psycopg 3), a URL, or a `Source`.

    `gate` knows the visitors; without one nobody enters. `panels` are what the application adds; `runbooks`, the address of the
    page with the runbooks, to which concerns then link. Every page is read on
    one connection, which is given back before it is sent; nothing is changed but by POST, from a page of its own.
    """

    def __init__(
        self,
        where: Engine | str | Source,
        *,
        gate: Gate | Callable[[HTTPConnection], Awaitable[Visitor | None]] | None = None,
        schema: str = "outbox",
        panels: Sequence[Panel] = (),
        runbooks: str | None = None,
    ) -> None:
        self._source = connections(where)
        self._gate = gate if isinstance(gate, Gate) else Asked(gate) if gate else Closed()
        self._schema = schema
        self._panels = panels
        self._runbooks = runbooks
        self._tabs = [*TABS, *(tab for panel in panels for tab in panel.tabs)]
        self._views = {**VIEWS, **{path: view for panel in panels for path, view in panel.views.items()}}
        self._acts = {**ACTS, **{path: act for panel in panels for path, act in panel.acts.items()}}
        self._pages = Pages([panel.templates for panel in panels if panel.templates is not None])
        self._hub = Hub(self._blocks)
        self._following: Counter[str] = Counter()
        self._routes = [Route(path, self._showing(view), methods=["GET"]) for path, view in self._views.items()]
        self._app = Starlette(
            routes=[
                Route("/live", self._follow, methods=["GET"]),
                Route("/theme", self._choose_theme, methods=["POST"]),
                Route("/static/{name}", self._asset, methods=["GET"]),
                *self._gate.doors(lambda page, request: self._rendered(page, request, None)),
                *(Route(path, self._doing(act), methods=["POST"]) for path, act in self._acts.items()),
                *self._routes,
            ],
            exception_handlers={
                NotThere: self._answer,
                OutboxError: self._answer,
                HTTPException: self._answer,
                psycopg.Error: self._answer,
                SQLAlchemyError: self._answer,
            },
        )
        self._app.router.redirect_slashes = False  # the address would be made of what the caller says the host is

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    def acts(self) -> dict[str, Act]:
        """What can be done here: each path, below the dashboard, and the role that it needs."""
        return dict(self._acts)

    def views(self) -> dict[str, View]:
        """What can be seen here, by path."""
        return dict(self._views)

    def close(self) -> None:
        """End the streams. A server that is told to stop by a signal need not be asked."""
        self._hub.close()

    # ------------------------------------------------------------------ pages

    def _showing(self, view: View) -> Handler:
        async def show(request: Request) -> Response:
            visitor = await self._gate.visitor(request)
            if visitor is None:
                return self._turned_away(request)
            page = await run_in_threadpool(self._made, view, request, visitor)
            return self._rendered(page, request, visitor)

        return show

    def _made(self, view: View, request: Request, visitor: Visitor) -> Page:
        with self._source() as conn:
            return view(self._ask(conn, visitor, base_of(request), request.path_params, request.query_params))

    def _ask(
        self,
        conn: Any,
        visitor: Visitor,
        base: str,
        path: Mapping[str, str],
        params: QueryParams,
        form: Mapping[str, Sequence[str]] | None = None,
    ) -> Ask:
        given = (*path.values(), *params.values(), *(text for texts in (form or {}).values() for text in texts))
        if any("\0" in text for text in given):
            raise HTTPException(400, "No name, id or text has a NUL character in it. Nothing was done.")
        return Ask(conn, visitor, base, path, params, form or {}, self._schema, self._panels)

    def _rendered(self, page: Page, request: Request, visitor: Visitor | None) -> Response:
        said = request.cookies.get(SAID)
        values = self._values(base_of(request), below(request), visitor)
        values |= {"theme": _theme(request), "said": _said(said), "live": True}
        response = HTMLResponse(self._pages.whole(page, values), page.status, HEADERS)
        if said is not None:
            response.delete_cookie(SAID, path=base_of(request) or "/")
        return response

    def _values(self, base: str, here: str, visitor: Visitor | None) -> dict[str, Any]:
        leave = self._gate.leaves_by(visitor) if visitor else None
        return {
            "base": base, "here": here, "visitor": visitor, "tabs": self._tabs, "assets": ASSETS, "leave": leave,
            "runbooks": self._runbooks,
            "may": visitor.may if visitor else lambda _role: False,
        }  # fmt: skip

    def _turned_away(self, request: Request) -> Response:
        found = self._gate.turned_away(request)
        if found is not None:
            return found
        if isinstance(self._gate, Closed):
            told = (
                "This dashboard is closed, because it was mounted without a gate. See “Dashboard” in the documentation."
            )
            return self._rendered(_problem(403, told), request, None)
        return self._rendered(_problem(401, "You are not signed in, or may not look here."), request, None)

    # ------------------------------------------------------------------ acts

    def _doing(self, act: Act) -> Handler:
        async def do(request: Request) -> Response:
            visitor = await self._gate.visitor(request)
            if visitor is None:
                return self._turned_away(request)
            if not comes_from_here(request):
                raise HTTPException(403, "This was not sent by a page of this dashboard, so nothing was done.")
            if not visitor.may(act.needs):
                raise HTTPException(403, f"This needs the role {act.needs}; yours is {visitor.role}. Nothing was done.")
            form = await form_of(request)
            try:
                done = await run_in_threadpool(self._done, act, request, visitor, form)
            except (Refused, OutboxError) as refusal:
                return _sent_on(request, form, Done(str(refusal)), kind="refused")
            return _sent_on(request, form, done, kind="done")

        return do

    def _done(self, act: Act, request: Request, visitor: Visitor, form: Mapping[str, Sequence[str]]) -> Done:
        with self._source() as conn:
            with conn.transaction():
                ask = self._ask(conn, visitor, base_of(request), request.path_params, request.query_params, form)
                done = act.do(ask)
            conn.execute(f"notify {CHANNEL}")
        return done

    async def _choose_theme(self, request: Request) -> Response:
        if not comes_from_here(request):
            raise HTTPException(403, "This was not sent by a page of this dashboard.")
        form = await form_of(request)
        response = RedirectResponse(base_of(request) + back_of(form), 303, HEADERS)
        theme = (form.get("theme") or [""])[0]
        response.set_cookie(
            THEME,
            theme if theme in ("light", "dark") else "",
            max_age=365 * 86400,
            path=base_of(request) or "/",
            samesite="strict",
        )
        return response

    # ------------------------------------------------------------------ freshness

    async def _follow(self, request: Request) -> Response:
        visitor = await self._gate.visitor(request)
        if visitor is None:
            raise HTTPException(401, "You are not signed in.")
        if self._hub.closed or self._hub.full or self._following[visitor.name] >= OPEN:
            raise HTTPException(503, "As many pages are followed as may be at once.")
        at = urlsplit(request.query_params.get("at", ""))
        look = Look(base_of(request), at.path, at.query, visitor.role)
        if self._found(look) is None:
            raise HTTPException(404, "There is no such page.")
        headers = {**HEADERS, "X-Accel-Buffering": "no"}
        return StreamingResponse(self._stream(visitor, look), headers=headers, media_type="text/event-stream")

    async def _stream(self, visitor: Visitor, look: Look) -> AsyncIterator[str]:
        self._following[visitor.name] += 1
        try:
            async for frame in self._hub.follow(look):
                yield frame
        finally:
            self._following[visitor.name] -= 1

    def _found(self, look: Look) -> tuple[View, dict[str, str]] | None:
        scope = {"type": "http", "method": "GET", "path": look.path, "root_path": ""}
        for (_, view), route in zip(self._views.items(), self._routes, strict=True):
            match, found = route.matches(scope)
            if match is Match.FULL:
                return view, found["path_params"]
        return None

    def _blocks(self, look: Look) -> dict[str, str]:
        found = self._found(look)
        if found is None:
            return {}
        view, path = found
        visitor = Visitor("", look.role)
        with self._source() as conn:
            page = view(self._ask(conn, visitor, look.base, path, QueryParams(look.query)))
        here = f"{look.path}?{look.query}" if look.query else look.path
        return self._pages.live(
            page, {**self._values(look.base, here, visitor), "theme": "", "said": None, "live": True}
        )

    # ------------------------------------------------------------------ the rest

    async def _asset(self, request: Request) -> Response:
        for asset in ASSETS.values():
            if asset.name == request.path_params["name"]:
                forever = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
                return Response(asset.content, 200, forever, asset.media_type)
        raise HTTPException(404)

    async def _answer(self, request: Request, error: Exception) -> Response:
        """Every error is a page, which says nothing of what the visitor may not see."""
        page = _problem_of(error)
        if page.status == 500:
            log.error("a page could not be made", path=below(request), exc_info=error)
        elif page.status > 500:
            log.warning("a page could not be made", path=below(request), error=f"{type(error).__name__}: {error}"[:300])
        visitor = await self._known(request)
        return self._rendered(page, request, visitor)

    async def _known(self, request: Request) -> Visitor | None:
        try:
            return await self._gate.visitor(request)
        except (psycopg.Error, SQLAlchemyError):
            return None


def _problem_of(error: Exception) -> Page:
    if isinstance(error, NotThere):
        return _problem(404, str(error))
    if isinstance(error, OutboxError):
        return _problem(400, str(error))
    if isinstance(error, HTTPException):
        usual = HTTPStatus(error.status_code).phrase
        return _problem(error.status_code, f"{usual}." if error.detail == usual else error.detail)
    if passes(error):
        told = "The database cannot be reached just now. Tasks that run go on; this page tries again by itself."
        return _problem(503, told)
    if isinstance(driver_error(error), _NOT_MIGRATED):
        return _problem(503, "Tables are missing, or older than this program: run `outbox db upgrade`.")
    return _problem(500, "This page could not be made. Why not stands in the log of the process that serves it.")


def _problem(status: int, told: str) -> Page:
    return Page("problem.html", HTTPStatus(status).phrase, {"told": told, "status": status}, status)


def _theme(request: HTTPConnection) -> str:
    theme = request.cookies.get(THEME, "")
    return theme if theme in ("light", "dark") else ""


def _sent_on(request: Request, form: Mapping[str, Sequence[str]], done: Done, *, kind: str) -> Response:
    response = RedirectResponse(base_of(request) + (done.to or back_of(form)), 303, HEADERS)
    told = quote(f"{kind}:{done.told}"[:1500])
    response.set_cookie(
        SAID,
        told,
        max_age=30,
        path=base_of(request) or "/",
        httponly=True,
        samesite="strict",
        secure=is_secure(request),
    )
    return response


def _said(cookie: str | None) -> tuple[str, str] | None:
    if cookie is None:
        return None
    kind, _, told = unquote(cookie).partition(":")
    return (kind, told) if kind in ("done", "refused") else None
