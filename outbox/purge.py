"""Retention: days of the history that are over go as whole partitions, dead tasks and the audit after a longer time.

Nothing here can touch an unfinished task (I2): they stand in another table.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from psycopg import errors, sql

from outbox.ledger import Conn, Ledger

__all__ = ["Plan", "Step", "look", "purge"]

#: How long a partition's removal may wait for its lock, and so hold up those behind it; and how often it tries.
LOCK_TIMEOUT, TRIES = timedelta(seconds=1), 5
#: Rows of one DELETE.
BATCH = 5000


@dataclass(frozen=True, slots=True)
class Plan:
    """What is over: partitions by name, and what ended before these instants in the other tables."""

    partitions: list[str]
    history_before: datetime
    dead_before: datetime


@dataclass(frozen=True, slots=True)
class Step:
    """One step done. `busy`: somebody held the lock all the while; the next purge tries again."""

    what: Literal["partition", "default", "dead", "audit", "minute", "quarter", "bulk"]
    name: str
    outcome: Literal["dropped", "busy", "deleted"]
    rows: int = 0


def look(conn: Conn, ledger: Ledger, *, history: timedelta, dead: timedelta) -> Plan:
    """What a purge would remove now, by the database's clock."""
    now = conn.execute("select clock_timestamp()").fetchall()[0][0].astimezone(UTC)
    partitions = ledger.old_partitions(conn, before=now - history)
    left = conn.execute(DETACHED, {"schema": ledger.schema, "day": f"{now - history:%Y%m%d}"}).fetchall()
    return Plan(sorted({*partitions, *(name for (name,) in left)}), now - history, now - dead)


def purge(conn: Conn, ledger: Ledger, plan: Plan, *, pause: Callable[[float], None] = time.sleep) -> Iterator[Step]:
    """Carry out a plan, a step at a time. `conn` is in autocommit: each step is a transaction of its own.

    A partition is first detached, then dropped, with a short lock timeout: a settle that runs meanwhile is held up
    for less than that, never refused. Stopping between two steps leaves nothing half done.
    """
    for name in plan.partitions:
        yield _drop(conn, ledger.schema, name, pause)
    while rows := ledger.purge_default(conn, before=plan.history_before, limit=BATCH):
        yield Step("default", "history_default", "deleted", rows)
    while rows := ledger.purge_dead(conn, before=plan.dead_before, limit=BATCH):
        yield Step("dead", "dead", "deleted", rows)
    while rows := _purge(conn, PURGE_AUDIT, ledger.schema, "audit", plan.dead_before):
        yield Step("audit", "audit", "deleted", rows)
    while rows := _purge(conn, PURGE_MINUTE, ledger.schema, "minute", plan.history_before):
        yield Step("minute", "minute", "deleted", rows)
    while rows := _purge(conn, PURGE_QUARTER, ledger.schema, "quarter", plan.dead_before):
        yield Step("quarter", "quarter", "deleted", rows)
    while rows := _purge(conn, PURGE_BULK, ledger.schema, "bulk", plan.dead_before):
        yield Step("bulk", "bulk", "deleted", rows)


def _purge(conn: Conn, statement: str, schema: str, table: str, before: datetime) -> int:
    query = sql.SQL(statement).format(sql.Identifier(schema, table))
    return conn.execute(query, {"before": before, "limit": BATCH}).rowcount


def _drop(conn: Conn, schema: str, name: str, pause: Callable[[float], None]) -> Step:
    history, partition = sql.Identifier(schema, "history"), sql.Identifier(schema, name)
    for attempt in range(TRIES):
        try:
            if _attached(conn, schema, name):
                _with_short_lock(conn, sql.SQL("alter table {} detach partition {}").format(history, partition))
            _with_short_lock(conn, sql.SQL("drop table if exists {}").format(partition))
            return Step("partition", name, "dropped")
        except (errors.LockNotAvailable, errors.UndefinedTable):  # a reader holds it, or another purge was faster
            if attempt < TRIES - 1:
                pause(random.uniform(0.5, 1.5) * 2**attempt)  # noqa: S311
    return Step("partition", name, "busy")


def _with_short_lock(conn: Conn, statement: sql.Composed) -> None:
    with conn.transaction():
        conn.execute(sql.SQL("set local lock_timeout = {}").format(int(LOCK_TIMEOUT.total_seconds() * 1000)))
        conn.execute(statement)


def _attached(conn: Conn, schema: str, name: str) -> bool:
    return bool(conn.execute(ATTACHED, {"schema": schema, "name": name}).fetchall())


ATTACHED = """
select 1
from pg_inherits i
join pg_class c on c.oid = i.inhrelid
join pg_namespace n on n.oid = c.relnamespace
where n.nspname = %(schema)s
and c.relname = %(name)s
"""

# What a purge that was killed between detaching and dropping has left.
DETACHED = """
select c.relname
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where n.nspname = %(schema)s
and c.relkind = 'r'
and not c.relispartition
and c.relname ~ '^history_[0-9]{8}$'
and substr(c.relname, 9) < %(day)s
"""

# What operators did to a task is kept for as long as the task may be kept dead.
PURGE_AUDIT = """
delete from {0} a
where a.id = any(array(
    select old.id
    from {0} old
    where old.at < %(before)s
    order by old.id
    limit %(limit)s))
"""

# Figures of minutes are kept as long as the history that they were made of, of quarters of an hour as long as what people did.
PURGE_MINUTE = """
delete from {0} m
where m.ctid = any(array(select old.ctid from {0} old where old.minute < %(before)s limit %(limit)s))
"""

PURGE_QUARTER = """
delete from {0} q
where q.ctid = any(array(select old.ctid from {0} old where old.quarter < %(before)s limit %(limit)s))
"""

PURGE_BULK = """
delete from {0} b
where b.ctid = any(array(select old.ctid from {0} old where old.finished_at < %(before)s limit %(limit)s))
"""
