"""Who looks, and what they may do. Nobody, unless the application says who: a dashboard without a gate is closed."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute

if TYPE_CHECKING:
    from outbox.dashboard.page import Page

__all__ = ["ROLES", "Asked", "Closed", "Gate", "Render", "Role", "Visitor", "basic", "comes_from_here"]

Role = Literal["viewer", "operator", "admin"]
#: From the least to the most: who sees; who retries, cancels and pauses too; who also changes what a task carries.
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who looks. The name stands in the audit beside everything that they do."""

    name: str
    role: Role

    def may(self, role: Role) -> bool:
        """Whether they may do what needs this role."""
        return ROLES.index(self.role) >= ROLES.index(role)


#: Makes a page for somebody who may be nobody.
Render = Callable[["Page", Request], Response]


class Gate:
    """Knows visitors by their request. Subclass it, or give `Dashboard` an async function that does what `visitor` does."""

    async def visitor(self, request: HTTPConnection) -> Visitor | None:
        """Who this is; None: nobody that may look."""
        raise NotImplementedError

    def turned_away(self, _request: HTTPConnection) -> Response | None:
        """The answer to nobody: where to sign in, say. None: a page that says so, with status 401."""
        return None

    def leaves_by(self, _visitor: Visitor) -> str | None:
        """The path, below the dashboard, to which signing out is posted; None: there is no signing out."""
        return None

    def doors(self, _render: Render) -> Sequence[BaseRoute]:
        """Routes below the dashboard that are open to everybody: where to sign in, and out. `render` makes their pages."""
        return ()


class Closed(Gate):
    """Nobody enters."""

    async def visitor(self, _request: HTTPConnection) -> Visitor | None:
        return None


class Asked(Gate):
    """An application's own function."""

    def __init__(self, visitor: Callable[[HTTPConnection], Awaitable[Visitor | None]]) -> None:
        self._ask = visitor

    async def visitor(self, request: HTTPConnection) -> Visitor | None:
        return await self._ask(request)


def basic(users: Mapping[str, tuple[str, Role]]) -> Gate:
    """HTTP Basic: {name: (password, role)}. Over HTTPS, or on this machine. Raises ValueError for a password that is no secret."""
    if any(len(password) < 12 for password, _ in users.values()):
        raise ValueError("a dashboard's password has at least 12 characters")
    return _Basic(users)


class _Basic(Gate):
    def __init__(self, users: Mapping[str, tuple[str, Role]]) -> None:
        self._users = users

    async def visitor(self, request: HTTPConnection) -> Visitor | None:
        name, given = _credentials(request.headers.get("authorization", ""))
        password, role = self._users.get(name, ("", "viewer"))
        right = hmac.compare_digest(given.encode(), password.encode())
        return Visitor(name, role) if right and password else None

    def turned_away(self, _request: HTTPConnection) -> Response | None:
        headers = {"WWW-Authenticate": 'Basic realm="outbox", charset="UTF-8"'}
        return Response("Sign in.", 401, headers, "text/plain")


def _credentials(header: str) -> tuple[str, str]:
    scheme, _, value = header.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        name, _, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return "", ""
    return name, password


def comes_from_here(request: HTTPConnection) -> bool:
    """Whether a page of this very origin sent it: what no other site's page, nor one of a sibling's subdomain, can feign.

    By what the browser says itself: `Sec-Fetch-Site`, and where a browser or a plain-HTTP page has none, `Origin`.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc == request.headers.get("host")
