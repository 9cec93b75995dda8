"""A session in the transaction that the dashboard opened for an act: what the API's functions do is committed with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from sqlalchemy import Engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from outbox.dashboard import Ask, NotThere, Refused
from outbox.ledger import Conn, Ledger
from service.problems import Problem

__all__ = ["lent"]


@contextmanager
def lent(engine: Engine, ask: Ask) -> Iterator[Session]:
    """A session on the dashboard's own connection: no act waits for a second one while it holds one. `engine` lent it.

    Raises NotThere or Refused with the words of the API.
    """
    pool = NullPool(lambda: cast(Any, _InTransaction(ask.conn)), reset_on_return=None, dialect=engine.dialect)
    bind = Engine(pool, engine.dialect, engine.url, hide_parameters=True)
    try:
        with Session(bind, info={"outbox": _WokenLater(ask.ledger)}) as session, session.begin():
            yield session
    except Problem as problem:
        raise (NotThere if problem.status_code == 404 else Refused)(problem.detail) from None


class _WokenLater:
    """Where the session's tasks go. The dashboard wakes the relays when it has committed."""

    max_payload = 1_048_576

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def committed(self, _session: Session) -> None: ...


class _InTransaction:
    """The connection while its owner's transaction is open, which alone commits it, or rolls it back."""

    autocommit = False

    def __init__(self, conn: Conn) -> None:
        self._conn = conn

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)

    def commit(self) -> None: ...

    def rollback(self) -> None: ...

    def close(self) -> None: ...
