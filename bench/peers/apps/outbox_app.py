"""Ours, in the caller's transaction."""

from __future__ import annotations

from sqlalchemy.orm import Session

from bench.apps.ours import noop
from outbox import enqueue

ENQUEUE = "sync"


def send_in(session: Session, number: int, **more: str) -> None:
    enqueue(session, noop.message(number, **more))
