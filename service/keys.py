"""API keys: 256 random bits, shown once, kept as a digest."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from service.tables import ApiKey

__all__ = ["ROLES", "NewKey", "Role", "create", "digest_of", "every", "revoke"]

Role = Literal["reader", "writer", "operator", "admin"]
#: From the least to the most that a key may do.
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made. `secret` is known here and never again."""

    id: UUID
    secret: str


def digest_of(key: str) -> bytes:
    """What is kept of a key. Plain SHA-256 suffices: nobody guesses 256 random bits."""
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


def create(session: Session, *, name: str, role: Role) -> NewKey:
    secret = f"obk_{secrets.token_urlsafe(32)}"
    row = ApiKey(name=name, role=role, digest=digest_of(secret), hint=secret[:8])
    session.add(row)
    session.flush()
    return NewKey(row.id, secret)


def every(session: Session) -> Sequence[ApiKey]:
    """All keys, the revoked ones too, the oldest first."""
    return session.scalars(select(ApiKey).order_by(ApiKey.id)).all()


def revoke(session: Session, id: UUID) -> bool:
    """From the commit on, the key is refused. False if there is no such key in force."""
    found = session.execute(
        update(ApiKey)
        .where(ApiKey.id == id, ApiKey.revoked_at.is_(None))
        .values(revoked_at=func.clock_timestamp())
        .returning(ApiKey.id)
    )
    return found.first() is not None
