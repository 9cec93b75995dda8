"""Short transactions of an actor's own, and the outbox's ledger for those that act on tasks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import dramatiq
from sqlalchemy.orm import Session

from outbox import OutboxBroker
from outbox.ledger import Conn, Ledger

__all__ = ["driver_connection", "ledger", "transaction"]


@contextmanager
def transaction() -> Iterator[Session]:
    """A transaction apart from the run's: to read before the world is asked, and to keep what an attempt that failed
    has learned. It commits at the end of the block, and is never open while the world is waited for."""
    with Session(_broker().engine(), expire_on_commit=False) as session, session.begin():
        yield session


def ledger() -> Ledger:
    return _broker().ledger


def driver_connection(session: Session) -> Conn:
    """The session's own connection, in its transaction, for the ledger."""
    return cast(Conn, session.connection().connection.driver_connection)


def _broker() -> OutboxBroker:
    return cast(OutboxBroker, dramatiq.get_broker())
