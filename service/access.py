"""Who calls, and what they may do: `Authorization: Bearer <API key>`, three roles, each including the one before."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import Engine, select

from service.keys import ROLES, Role, digest_of
from service.problems import Problem
from service.settings import Settings
from service.tables import ApiKey

__all__ = ["Admin", "Principal", "Reader", "Writer"]

_bearer = HTTPBearer(auto_error=False, description="An API key, made by `python -m service keys create`.")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller: the key's id (idempotency keys are theirs alone), its name (for the audit), its role."""

    id: str
    name: str
    role: Role


async def _principal(request: Request, credentials: Credentials) -> Principal:
    state = request.app.state
    if credentials is None or not credentials.credentials:
        raise _unknown()
    key = credentials.credentials
    known = _bootstrap(state.settings, key) or await run_in_threadpool(_stored, state.engine, key)
    if known is None:
        raise _unknown()
    return known


def _bootstrap(settings: Settings, key: str) -> Principal | None:
    if settings.bootstrap_key is None:
        return None
    expected = digest_of(settings.bootstrap_key.get_secret_value())
    return Principal("bootstrap", "bootstrap", "admin") if hmac.compare_digest(expected, digest_of(key)) else None


def _stored(engine: Engine, key: str) -> Principal | None:
    """On a connection of its own that is given back at once: no request waits for a second one while it holds one."""
    query = select(ApiKey.id, ApiKey.name, ApiKey.role).where(
        ApiKey.digest == digest_of(key), ApiKey.revoked_at.is_(None)
    )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        row = connection.execute(query).first()
    return Principal(str(row.id), row.name, row.role) if row else None


def _unknown() -> Problem:
    return Problem("unauthorized", "The API key is missing or not in force.", headers={"WWW-Authenticate": "Bearer"})


def _at_least(role: Role) -> Callable[[Principal], Awaitable[Principal]]:
    async def allowed(principal: Annotated[Principal, Depends(_principal)]) -> Principal:
        if ROLES.index(principal.role) < ROLES.index(role):
            raise Problem("forbidden", f"This needs a key with the role {role}.")
        return principal

    return allowed


def _needs(role: Role) -> Any:
    return Depends(_at_least(role))


Reader = Annotated[Principal, _needs("reader")]
Writer = Annotated[Principal, _needs("writer")]
Admin = Annotated[Principal, _needs("admin")]
