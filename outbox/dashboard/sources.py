"""Where the dashboard's connections come from: a SQLAlchemy engine, or a URL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import cast

from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from outbox import database
from outbox.ledger import Conn

__all__ = ["Source", "connections"]

#: An autocommit connection, for as long as the block lasts.
Source = Callable[[], AbstractContextManager[Conn]]


def connections(where: Engine | str | Source) -> Source:
    """A source of connections. An engine lends its own; of a URL each question opens one."""
    if isinstance(where, Engine):
        return lambda: _lent(where)
    if isinstance(where, str):
        url = make_url(where).set(drivername="postgresql").render_as_string(hide_password=False)
        return lambda: _opened(url)
    return where


@contextmanager
def _lent(engine: Engine) -> Iterator[Conn]:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield cast(Conn, connection.connection.driver_connection)


@contextmanager
def _opened(url: str) -> Iterator[Conn]:
    with database.connect(url, name="dashboard") as conn:
        yield conn
