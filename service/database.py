"""The session of a request. Routes open its transaction themselves, so that COMMIT precedes every 2xx (I1)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Annotated, cast

from fastapi import Depends, Request
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.orm import Session

from outbox.database import answered
from outbox.fastapi import OutboxTasks, outbox_depends
from outbox.ledger import Conn
from service.settings import Settings

__all__ = ["Db", "Tasks", "driver_connection", "engine_for", "get_session"]

_STATEMENT, _ANSWER = timedelta(seconds=15), timedelta(seconds=20)
_LOCK = timedelta(seconds=8)
_IDLE_IN_TRANSACTION = timedelta(seconds=30)


def engine_for(settings: Settings) -> Engine:
    """As many connections as requests answered at once, opened when needed; a silent server is given up in seconds.

    PgBouncer in transaction mode takes neither start-up options nor prepared statements: set the time-outs for the role.
    """
    url = settings.sqlalchemy_url
    arguments: dict[str, object] = {
        "connect_timeout": 5,
        "application_name": "api",
        "client_encoding": "utf8",
        "keepalives_idle": 10,
        "keepalives_interval": 3,
        "keepalives_count": 3,
        "tcp_user_timeout": 15_000,
    }
    if settings.pooled:
        arguments["prepare_threshold"] = None
    elif "options" not in url.query:
        arguments["options"] = (
            f"-c statement_timeout={_milliseconds(_STATEMENT)} -c lock_timeout={_milliseconds(_LOCK)} "
            f"-c idle_in_transaction_session_timeout={_milliseconds(_IDLE_IN_TRANSACTION)}"
        )
    engine = create_engine(
        url,
        pool_size=settings.threads,
        max_overflow=2,
        pool_timeout=5,
        pool_pre_ping=True,
        hide_parameters=True,  # an error in the log tells nobody's address
        connect_args=arguments,
    )
    return answered(engine, within=_ANSWER)


async def get_session(request: Request) -> AsyncIterator[Session]:
    """A session for the route's own thread. Nothing here waits: the route's transaction has ended when it is closed."""
    with Session(request.app.state.engine, expire_on_commit=False) as session:
        yield session


def driver_connection(connection: Connection) -> Conn:
    """The psycopg connection inside, for what the library reads and does in the same transaction."""
    return cast(Conn, connection.connection.driver_connection)


def _milliseconds(span: timedelta) -> int:
    return int(span.total_seconds() * 1000)


Db = Annotated[Session, Depends(get_session, scope="function")]
#: A route that takes it answers 2xx only if the tasks of its session were committed.
Tasks = Annotated[OutboxTasks, outbox_depends(get_session)]
