"""Connections to PostgreSQL for the processes: autocommit, named, quick to notice a silent server."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from datetime import timedelta
from typing import Any, cast

import psycopg
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

__all__ = [
    "ANSWER",
    "PROMPT",
    "QUICK",
    "SILENT_CLIENT",
    "UNLIMITED",
    "PromptConnection",
    "answered",
    "connect",
    "driver_error",
    "passes",
]

#: For statements that take milliseconds: an answer that takes longer will not come any more.
PROMPT = timedelta(seconds=10)
#: For those that take milliseconds too, except where much is to be done: after such a silence the next one is given ANSWER.
QUICK = timedelta(seconds=20)
#: For all others. The server itself ends a statement after a minute.
ANSWER = timedelta(seconds=65)

#: For what is not ours to limit.
UNLIMITED = timedelta.max

#: The server drops a client whose machine is gone within half a minute, and its locks with it.
SILENT_CLIENT = (
    "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3 -c tcp_user_timeout=20000"
)


def connect(
    conninfo: str,
    *,
    name: str,
    idle_in_transaction: timedelta | None = None,
    lock_timeout: timedelta = timedelta(seconds=30),
    by_index: bool = False,
    pooled: bool = False,
    unhurried: bool = False,
    within: timedelta = ANSWER,
) -> PromptConnection:
    """An autocommit connection; transactions are opened where they are meant, in READ COMMITTED: the ledger's guards
    rely on seeing what was committed before each statement, whatever the database's default is.

    `idle_in_transaction` bounds how long a stalled process can keep its row locks. `by_index`: for statements that name
    their few rows, whose prepared plan must not be one that was made when the table was empty. `pooled`: through PgBouncer in
    transaction mode, which takes neither start-up options nor prepared statements: set the time-outs for the role.
    `unhurried`: commits do not wait for the disk, nor for a standby; for what is done again if a crash of the server undoes it.
    `within`: as PromptConnection has it.
    """
    settings = r"-c default_transaction_isolation=read\ committed"
    settings += f" -c statement_timeout=60000 -c lock_timeout={_milliseconds(lock_timeout)} {SILENT_CLIENT}"
    if idle_in_transaction is not None:
        settings += f" -c idle_in_transaction_session_timeout={_milliseconds(idle_in_transaction)}"
    if unhurried:
        settings += " -c synchronous_commit=off"
    if by_index:
        settings += " -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off"
    conn = PromptConnection.connect(
        conninfo,
        autocommit=True,
        connect_timeout=5,
        application_name=f"outbox {name}",
        client_encoding="utf8",
        options=None if pooled else settings,
        prepare_threshold=None if pooled else 5,
        keepalives_idle=10,
        keepalives_interval=3,
        keepalives_count=3,
        tcp_user_timeout=15_000,
    )
    conn.within = within
    return conn


class PromptConnection(psycopg.Connection[Any]):
    """A connection on which each request is answered `within` that time, or which ends.

    TCP's own limits notice a machine that is gone, but not one behind a proxy or a load balancer that goes on taking bytes:
    a heartbeat would wait for its answer for ever, and the worker with it.
    """

    within = ANSWER

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **options: Any) -> Any:
        return super().wait(self._prompt(gen), *args, **options)

    def _prompt(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        until = time.monotonic() + self.within.total_seconds()
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > until:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"no answer within {self.within.total_seconds():g} s")
                wanted = gen.send(ready)
        except StopIteration as end:
            return end.value


def answered(engine: Engine, *, within: timedelta = UNLIMITED, at_rest: timedelta = PROMPT) -> Engine:
    """The engine, whose connections of psycopg 3 end when a request is not answered in time: a statement `within` that time, a
    COMMIT in ANSWER at most; a ROLLBACK, and what the pool asks to see whether a connection still lives, `at_rest`.

    Give it more than its `statement_timeout`, so that the server ends first what it is still at. With `pool_pre_ping`, a
    connection that fell silent in the pool is replaced, and takes along the others of its age.
    """

    def connect(_dialect: object, _record: object, words: Sequence[Any], options: dict[str, Any]) -> PromptConnection:
        conn = PromptConnection.connect(*words, **options)
        conn.within = at_rest
        return conn

    def lend(conn: PromptConnection, *_: object) -> None:
        conn.within = within

    def take_back(conn: PromptConnection, *_: object) -> None:
        conn.within = at_rest

    def begin(conn: Connection) -> None:
        if driver := _driver_of(conn):
            driver.within = within

    def commit(conn: Connection) -> None:
        if driver := _driver_of(conn):
            driver.within = min(driver.within, ANSWER)

    def roll_back(conn: Connection) -> None:
        if driver := _driver_of(conn):
            driver.within = at_rest

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "checkout", lend)
    event.listen(engine, "reset", take_back)
    event.listen(engine, "begin", begin)
    event.listen(engine, "commit", commit)
    event.listen(engine, "rollback", roll_back)
    return engine


def _driver_of(conn: Connection) -> PromptConnection | None:
    """None once it was lost in its transaction: to ask for it then would be an error, instead of the one that lost it."""
    return None if conn.invalidated else cast(PromptConnection, conn.connection.driver_connection)


def _milliseconds(span: timedelta) -> int:
    return int(span.total_seconds() * 1000)


def driver_error(error: BaseException) -> BaseException:
    """What psycopg said, where SQLAlchemy wrapped it."""
    return (error.orig or error) if isinstance(error, DBAPIError) else error


def passes(error: BaseException) -> bool:
    """Whether this error of the database is trouble that passes; everything else, it would refuse again."""
    orig = driver_error(error)
    if isinstance(orig, (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout)):
        return True
    # A server that was demoted to a standby in the middle of a failover refuses writes.
    return isinstance(orig, psycopg.errors.ReadOnlySqlTransaction) or (
        isinstance(error, DBAPIError) and error.connection_invalidated
    )
