"""Idempotency-Key: a request that was carried out is answered again, not carried out again.

The key is taken by an INSERT in the transaction of the work itself. Whoever comes second waits on that row until the
first commits (then reads its answer) or rolls back (then does the work); no crash leaves a key without its work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

import psycopg
from fastapi import Depends, Header, Request, Response
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from actors import outside
from service.access import Admin, Operator, Principal, Writer
from service.bodies import RawBody
from service.problems import Problem

__all__ = ["AdminOnce", "Once", "OperatorOnce", "WriterOnce"]

REPLAYED = "Idempotency-Replayed"
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="A random name for this request: whatever happens, repeating it with the same key and the same "
        "body does the work once. Kept for 24 hours.",
    ),
]


@dataclass(frozen=True, slots=True)
class Once:
    """One request's claim to be carried out once. `recall` first, `keep` last, both in the work's transaction."""

    principal: Principal
    route: str
    key: str | None
    digest: bytes

    def recall(self, session: Session) -> Response | None:
        """None: the work is ours to do. Else the answer that it got before.

        Raises Problem: the key came with another body, or the same request is still under way after a while.
        """
        if self.key is None or self._taken(session):
            return None
        row = session.execute(_RECALL, self._name).first()
        if row is None:
            raise _in_flight()
        if row.digest != self.digest:
            raise Problem("key-reused", "The Idempotency-Key was used for another body; a new request needs a new key.")
        answer = self._open(row.answer) if row.sealed else row.answer
        return Response(answer, row.status, {REPLAYED: "true"}, "application/json")

    def keep(self, session: Session, status: int, answer: BaseModel, *, secret: bool = False) -> Response:
        """The answer, stored to be given again. `secret`: it is encrypted at rest."""
        content = answer.model_dump_json().encode()
        if self.key is not None:
            kept = self._seal(content) if secret else content
            session.flush()
            session.execute(_KEEP, {**self._name, "status": status, "answer": kept, "sealed": secret})
        return Response(content, status, media_type="application/json")

    @property
    def _name(self) -> dict[str, Any]:
        return {"principal": self.principal.id, "route": self.route, "key": self.key}

    def _taken(self, session: Session) -> bool:
        try:
            return session.execute(_TAKE, {**self._name, "digest": self.digest}).first() is not None
        except OperationalError as error:
            if isinstance(error.orig, psycopg.errors.LockNotAvailable):
                raise _in_flight() from None
            raise

    def _seal(self, content: bytes) -> bytes:
        return outside.vault().seal(content.decode(), owner=self._owner)

    def _open(self, sealed: bytes) -> bytes:
        return outside.vault().open(sealed, owner=self._owner).encode()

    @property
    def _owner(self) -> str:
        return f"idempotency {self.principal.id} {self.route} {self.key}"


def _in_flight() -> Problem:
    return Problem("in-flight", "A request with this Idempotency-Key is being answered.", headers={"Retry-After": "2"})


def _once(principal: Principal, request: Request, raw: bytes, key: str | None) -> Once:
    if len(request.headers.getlist("idempotency-key")) > 1:
        raise Problem("bad-request", "There is more than one Idempotency-Key.")
    route = f"{request.method} {request.url.path}"
    return Once(principal, route, key, hashlib.sha256(raw).digest())


async def _writer_once(principal: Writer, request: Request, raw: RawBody, key: Key = None) -> Once:
    return _once(principal, request, raw, key)


async def _operator_once(principal: Operator, request: Request, raw: RawBody, key: Key = None) -> Once:
    return _once(principal, request, raw, key)


async def _admin_once(principal: Admin, request: Request, raw: RawBody, key: Key = None) -> Once:
    return _once(principal, request, raw, key)


def _depends(on: Callable[..., Awaitable[Once]]) -> Any:
    return Depends(on)


WriterOnce = Annotated[Once, _depends(_writer_once)]
OperatorOnce = Annotated[Once, _depends(_operator_once)]
AdminOnce = Annotated[Once, _depends(_admin_once)]


# Takes the key, also over an expired one, and clears away a few more of those.
_TAKE = text("""
with expired as (
    select principal, route, key
    from app.idempotency_key
    where created_at < clock_timestamp() - interval '24 hours'
    and (principal, route, key) <> (:principal, :route, :key)
    order by created_at
    limit 20
    for update skip locked
),
cleared as (
    delete from app.idempotency_key k
    using expired e
    where (k.principal, k.route, k.key) = (e.principal, e.route, e.key)
)
insert into app.idempotency_key as k (principal, route, key, digest)
values (:principal, :route, :key, :digest)
on conflict (principal, route, key) do update
set digest = excluded.digest, status = null, answer = null, sealed = false, created_at = clock_timestamp()
where k.created_at < clock_timestamp() - interval '24 hours'
returning k.key
""")

_RECALL = text("""
select digest, status, answer, sealed
from app.idempotency_key
where principal = :principal and route = :route and key = :key
""")

_KEEP = text("""
update app.idempotency_key
set status = :status, answer = :answer, sealed = :sealed
where principal = :principal and route = :route and key = :key
""")
