"""Short transactions of an actor's own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import dramatiq
from sqlalchemy.orm import Session

from outbox import OutboxBroker

__all__ = ["transaction"]


@contextmanager
def transaction() -> Iterator[Session]:
    """A transaction apart from the run's: to read before the world is asked, and to keep what an attempt that failed
    has learned. It commits at the end of the block, and is never open while the world is waited for."""
    engine = cast(OutboxBroker, dramatiq.get_broker()).engine()
    with Session(engine, expire_on_commit=False) as session, session.begin():
        yield session
