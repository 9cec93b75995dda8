"""Who calls, and what they may do: `Authorization: Bearer <API key>`, four roles, each including the one before."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from typing import Annotated, Any, cast

from fastapi import Depends, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import Engine, select
from starlette.datastructures import State

from service.keys import ROLES, Role, digest_of
from service.pace import Paces, Turn
from service.problems import Problem
from service.settings import Settings
from service.tables import ApiKey

__all__ = ["Admin", "Operator", "Principal", "Reader", "Writer", "admit", "recognised"]

_bearer = HTTPBearer(auto_error=False, description="An API key, made by `python -m service keys create`.")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller: the key's id (idempotency keys are theirs alone), its name (for the audit), its role."""

    id: str
    name: str
    role: Role


async def admit(request: Request) -> None:
    """Know the caller, and hold it to its pace, before anything of the body is read. Sets `request.state.principal`.

    Raises Problem: 401, or 429 for a key that comes too often and for an address that sends too many refused ones.
    """
    credentials = await _bearer(request)
    if credentials is None or not credentials.credentials:
        raise _unknown()
    digest = digest_of(credentials.credentials)
    principal = await recognised(digest, state=request.app.state, host=request.client.host if request.client else "")
    turn = request.app.state.paces.callers.take(digest)
    if not turn.granted:
        raise _too_many(turn, "This key has used up what it may send for now.")
    request.state.principal = principal
    request.state.pace = turn.headers


async def recognised(digest: bytes, *, state: State, host: str) -> Principal:
    """Whose key this is. `state` is the API's; `host`, where it comes from. Raises Problem: 401, 429."""
    return _bootstrap(state.settings, digest) or await _looked_up(digest, state, host)


def _bootstrap(settings: Settings, digest: bytes) -> Principal | None:
    if settings.bootstrap_key is None:
        return None
    expected = digest_of(settings.bootstrap_key.get_secret_value())
    return Principal("bootstrap", "bootstrap", "admin") if hmac.compare_digest(expected, digest) else None


async def _looked_up(digest: bytes, state: State, host: str) -> Principal:
    """The owner of a stored key. The database is not asked while the answer would be 429 anyway.

    A key that was served before is not held to its address's pace: its neighbours' guesses lock nobody out.
    """
    paces: Paces = state.paces
    address = _neighbourhood(host) if host else ""
    if digest in paces.callers:
        turn, why = paces.callers.look(digest), "This key has used up what it may send for now."
    else:
        turn, why = paces.guesses.look(address), "Too many keys that are not in force came from this address."
    if not turn.granted:
        raise _too_many(turn, why)
    principal = await run_in_threadpool(_stored, state.engine, digest)
    if principal is None:
        paces.callers.forget(digest)
        paces.guesses.charge(address)
        raise _unknown()
    return principal


def _neighbourhood(host: str) -> str:
    """The address; of IPv6 its /64: whoever has one of these addresses has them all."""
    try:
        address = ip_address(host)
    except ValueError:  # a proxy may name its caller as it likes
        return host
    if isinstance(address, IPv4Address) or address.ipv4_mapped is not None:
        return host
    return f"{int(address) >> 64:x}/64"


def _stored(engine: Engine, digest: bytes) -> Principal | None:
    """On a connection of its own that is given back at once: no request waits for a second one while it holds one."""
    query = select(ApiKey.id, ApiKey.name, ApiKey.role).where(ApiKey.digest == digest, ApiKey.revoked_at.is_(None))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        row = connection.execute(query).first()
    return Principal(str(row.id), row.name, row.role) if row else None


def _unknown() -> Problem:
    return Problem("unauthorized", "The API key is missing or not in force.", headers={"WWW-Authenticate": "Bearer"})


def _too_many(turn: Turn, detail: str) -> Problem:
    return Problem("too-many", detail, headers={**turn.headers, "Retry-After": str(max(1, turn.wait))})


async def _principal(request: Request, _documented: Credentials) -> Principal:
    """Whom `admit` let in; a route that does not ask it answers nobody."""
    return cast(Principal, request.state.principal)


def _at_least(role: Role) -> Callable[[Principal], Awaitable[Principal]]:
    async def allowed(principal: Annotated[Principal, Depends(_principal)]) -> Principal:
        if ROLES.index(principal.role) < ROLES.index(role):
            raise Problem("forbidden", f"This needs a key with the role {role}.")
        return principal

    return allowed


def _needs(role: Role) -> Any:
    return Security(_at_least(role), scopes=[role])  # so the document names the role


Reader = Annotated[Principal, _needs("reader")]
Writer = Annotated[Principal, _needs("writer")]
Operator = Annotated[Principal, _needs("operator")]
Admin = Annotated[Principal, _needs("admin")]
