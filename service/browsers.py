"""Who is signed in to the dashboard: a browser that showed an API key, or opened a link that signs in once.

A browser's cookie is 256 random bits, kept as a digest, for half a day. It ends with its key, and when somebody signs out.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import Literal, cast
from uuid import UUID

from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Engine, delete, func, or_, select
from sqlalchemy.orm import Session
from starlette.datastructures import State
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from outbox.dashboard import Gate, Page, Visitor
from outbox.dashboard import Role as Seen
from outbox.dashboard.gate import Render, comes_from_here
from outbox.dashboard.render import queried
from outbox.dashboard.requests import base_of, below, form_of, is_secure, within
from service.access import Principal, recognised
from service.keys import Role, digest_of
from service.problems import Problem
from service.tables import ApiKey, Browser

__all__ = ["COOKIE", "Browsers", "new_link"]

COOKIE = "outbox_browser"
LASTS, LINK_LASTS = timedelta(hours=12), timedelta(minutes=10)

#: Whoever signed in with the key of the environment: for as long as there is one.
BOOTSTRAP = "bootstrap"

#: What each role of a key may do in the dashboard. A writer creates through the API, and sees here.
SEEN: dict[Role, Seen] = {"reader": "viewer", "writer": "viewer", "operator": "operator", "admin": "admin"}


class Browsers(Gate):
    """The gate of the service. `state` is the API's: its engine, its settings, its paces."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def visitor(self, request: HTTPConnection) -> Visitor | None:
        cookie = request.cookies.get(COOKIE)
        if not cookie:
            return None
        known = await run_in_threadpool(_signed_in, self._state.engine, digest_of(cookie))
        return known if known is None or known.name != BOOTSTRAP or self._state.settings.bootstrap_key else None

    def turned_away(self, request: HTTPConnection) -> Response:
        to = queried("/sign-in", next=below(request) if request.scope.get("method") == "GET" else None)
        return RedirectResponse(base_of(request) + to, 303, {"Cache-Control": "no-store"})

    def leaves_by(self, _visitor: Visitor) -> str:
        return "/sign-out"

    def doors(self, render: Render) -> Sequence[BaseRoute]:
        async def ask(request: Request) -> Response:
            return render(_sign_in(request.query_params.get("next", "/"), request.query_params.get("link")), request)

        async def sign_in(request: Request) -> Response:
            _from_here(request)
            form = {name: values[0].strip() for name, values in (await form_of(request)).items()}
            to = within(form.get("next", "/"))
            try:
                cookie = await self._admitted(request, form)
            except Problem as problem:
                return render(_sign_in(to, None, told=problem.detail, status=problem.status_code), request)
            response = RedirectResponse(base_of(request) + to, 303, {"Cache-Control": "no-store"})
            response.set_cookie(
                COOKIE, cookie, max_age=int(LASTS.total_seconds()), path=base_of(request) or "/", httponly=True,
                samesite="lax", secure=_over_tls(request),
            )  # fmt: skip
            return response

        async def sign_out(request: Request) -> Response:
            _from_here(request)
            if cookie := request.cookies.get(COOKIE):
                await run_in_threadpool(_forget, self._state.engine, digest_of(cookie))
            response = RedirectResponse(f"{base_of(request)}/sign-in", 303, {"Cache-Control": "no-store"})
            response.delete_cookie(COOKIE, path=base_of(request) or "/")
            return response

        return [
            Route("/sign-in", ask, methods=["GET"]),
            Route("/sign-in", sign_in, methods=["POST"]),
            Route("/sign-out", sign_out, methods=["POST"]),
        ]

    async def _admitted(self, request: Request, form: dict[str, str]) -> str:
        """A new cookie. Raises Problem: 401, 429."""
        if link := form.get("link"):
            return await run_in_threadpool(_by_link, self._state.engine, digest_of(link))
        host = request.client.host if request.client else ""
        principal = await recognised(digest_of(form.get("key", "")), state=self._state, host=host)
        return await run_in_threadpool(_remembered, self._state.engine, principal)


def _sign_in(to: str, link: str | None, *, told: str | None = None, status: int = 200) -> Page:
    return Page("sign_in.html", "Sign in", {"next": within(to), "link": link, "told": told}, status)


def _over_tls(request: Request) -> bool:
    """Whether the browser speaks TLS, be it to us or to a proxy before us: it says so itself."""
    return is_secure(request) or request.headers.get("origin", "").startswith("https://")


def _from_here(request: Request) -> None:
    if not comes_from_here(request):
        raise HTTPException(403, "This was not sent by a page of this dashboard, so nothing was done.")


# ---------------------------------------------------------------------- what is kept


def new_link(session: Session, *, name: str, role: Role) -> str:
    """What a link carries that signs in one browser, once, within ten minutes. The name stands in the audit."""
    return _kept(session, "link", name, role, None, LINK_LASTS)


def _signed_in(engine: Engine, digest: bytes) -> Visitor | None:
    """On a connection of its own that is given back at once, as `service.access` does."""
    query = (
        select(Browser.name, Browser.role)
        .outerjoin(ApiKey, ApiKey.id == Browser.key_id)
        .where(Browser.digest == digest, Browser.kind == "session", Browser.expires_at > func.clock_timestamp())
        .where(or_(Browser.key_id.is_(None), ApiKey.revoked_at.is_(None)))
    )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        row = connection.execute(query).first()
    return Visitor(row.name, SEEN[cast(Role, row.role)]) if row else None


def _remembered(engine: Engine, principal: Principal) -> str:
    key_id = None if principal.id == BOOTSTRAP else UUID(principal.id)
    with Session(engine) as session, session.begin():
        session.execute(delete(Browser).where(Browser.expires_at < func.clock_timestamp()))
        return _kept(session, "session", principal.name, principal.role, key_id, LASTS)


def _by_link(engine: Engine, digest: bytes) -> str:
    with Session(engine) as session, session.begin():
        used = session.execute(
            delete(Browser)
            .where(Browser.digest == digest, Browser.kind == "link", Browser.expires_at > func.clock_timestamp())
            .returning(Browser.name, Browser.role)
        ).first()
        if used is None:
            raise Problem("unauthorized", "This link was used already, or is too old: ask for another.")
        return _kept(session, "session", used.name, used.role, None, LASTS)


def _kept(
    session: Session, kind: Literal["session", "link"], name: str, role: str, key_id: UUID | None, lasts: timedelta
) -> str:
    secret = secrets.token_urlsafe(32)
    session.add(
        Browser(
            digest=digest_of(secret), kind=kind, name=name, role=role, key_id=key_id,
            expires_at=func.clock_timestamp() + lasts,
        )
    )  # fmt: skip
    session.flush()
    return secret


def _forget(engine: Engine, digest: bytes) -> None:
    with Session(engine) as session, session.begin():
        session.execute(delete(Browser).where(Browser.digest == digest))
