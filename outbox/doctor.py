"""A checklist of everything that must be in order, each with what to do when it is not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import Any, Literal

import psycopg

from outbox import db, topology
from outbox.database import connect
from outbox.ledger import Conn, Ledger
from outbox.reads import QueueView, Reader
from outbox.settings import Settings

__all__ = ["Finding", "examine"]

Status = Literal["ok", "warning", "failed", "skipped"]

#: A due task older than this makes a warning, older than that a failure.
LATE, TOO_LATE = timedelta(seconds=30), timedelta(minutes=5)
#: A transaction open for longer keeps dead rows of the task table from being cleaned.
LONG_TRANSACTION = timedelta(minutes=5)
OLDEST_POSTGRESQL = 140000


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the checklist. `mend` says what to do, where there is something to do."""

    name: str
    status: Status
    told: str
    mend: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Every check, in the order in which a cause comes before its effects. Changes nothing."""
    yield _app(settings)
    try:
        conn = connect(settings.conninfo, name="doctor", pooled=settings.pooled)
    except psycopg.Error as error:
        yield Finding(
            "PostgreSQL", "failed", f"not reachable at {_shown(settings)}: {_line(error)}",
            "Check DATABASE_URL, the server, and the network between.",
        )  # fmt: skip
        yield from _broker(settings, [])
        return
    with conn:
        yield from _postgres(conn, settings)
        tables = _migrations(settings)
        yield tables
        if tables.status == "failed":
            yield from _broker(settings, [])
            return
        reader = Reader(settings.schema_name)
        queues = reader.queues(conn)
        yield from _broker(settings, [queue.name for queue in queues])
        yield from _alive(conn, reader, queues)
        yield from _foreign(conn, settings)
        yield from _flow(queues)
        yield from _history(conn, settings)
        yield from _cleaning(conn, settings)


# ---------------------------------------------------------------------- settings and servers


def _app(settings: Settings) -> Finding:
    if not settings.app:
        return Finding(
            "actors", "warning", "no module of actors is named: this machine can run no worker and no scheduler",
            "Set OUTBOX_APP, or give --app MODULE.",
        )  # fmt: skip
    try:
        found = find_spec(settings.app)
    except (ImportError, ValueError) as error:
        return Finding("actors", "failed", f"{settings.app} cannot be imported: {error}", "Mend OUTBOX_APP.")
    if found is None:
        return Finding("actors", "failed", f"there is no module {settings.app}", "Mend OUTBOX_APP, or run elsewhere.")
    return Finding("actors", "ok", f"module {settings.app}")


def _postgres(conn: Conn, settings: Settings) -> Iterator[Finding]:
    before = datetime.now(UTC)
    version, told, there = conn.execute(
        "select current_setting('server_version_num')::int, current_setting('server_version'), clock_timestamp()"
    ).fetchall()[0]
    skew = there - before - (datetime.now(UTC) - before) / 2
    where = f"{told.split()[0]} at {_shown(settings)}"
    if version < OLDEST_POSTGRESQL:
        yield Finding("PostgreSQL", "failed", f"{where} is too old", "Use PostgreSQL 14 or newer.")
    else:
        yield Finding("PostgreSQL", "ok", where)
    if abs(skew) > timedelta(seconds=5):
        yield Finding(
            "clocks", "warning", f"this machine is {abs(skew).total_seconds():.0f} s off the database's clock",
            "Due times are the database's clock. Let NTP set both.",
        )  # fmt: skip
    else:
        yield Finding("clocks", "ok", f"{abs(skew).total_seconds() * 1000:.0f} ms apart")


def _migrations(settings: Settings) -> Finding:
    found = db.revisions(db.packaged(), settings)
    if found.missing:
        return Finding("migrations", "failed", f"missing: {', '.join(found.missing)}", "Run: outbox db upgrade")
    return Finding("migrations", "ok", f"at {', '.join(found.heads)}")


def _broker(settings: Settings, queues: list[str]) -> Iterator[Finding]:
    try:
        connection = topology.connect(settings.rabbitmq_url, name="outbox doctor")
    except Exception as error:
        yield Finding(
            "RabbitMQ", "failed", f"not reachable: {type(error).__name__} {_line(error)}".rstrip(),
            "Check RABBITMQ_URL and the server. Nothing is lost meanwhile: tasks wait in PostgreSQL.",
        )  # fmt: skip
        return
    try:
        server: Any = connection._impl.server_properties or {}
        yield Finding("RabbitMQ", "ok", f"{server.get('version', 'of unknown version')}")
        yield from _queues(connection, settings, queues)
    finally:
        connection.close()


def _queues(connection: Any, settings: Settings, names: list[str]) -> Iterator[Finding]:
    broker = topology.Topology(prefix=settings.queue_prefix, ledger=Ledger(settings.schema_name))
    missing = [name for name in names if topology.depth(connection, broker.queue(name)) is None]
    letters = {name: topology.depth(connection, broker.dead_letters(name)) for name in names}
    if missing:
        yield Finding(
            "queues", "warning", f"not in RabbitMQ: {', '.join(missing)}",
            "A relay or worker declares them when it next needs them: see that one runs.",
        )  # fmt: skip
    else:
        yield Finding("queues", "ok", f"{len(names)} there, prefix {settings.queue_prefix}")
    waiting = {name: depth for name, depth in letters.items() if depth}
    if waiting:
        told = ", ".join(f"{name} {depth}" for name, depth in waiting.items())
        yield Finding("dead letters", "warning", told, "The relay reads them back: see that one runs.")


# ---------------------------------------------------------------------- who lives, what flows


def _alive(conn: Conn, reader: Reader, queues: list[QueueView]) -> Iterator[Finding]:
    living = [each for each in reader.workers(conn) if each.alive]
    for kind, without in (
        ("relay", "tasks are not published"),
        ("worker", "tasks are not run"),
        ("scheduler", "cron schedules do not fire"),
    ):
        number = sum(each.kind == kind for each in living)
        if number:
            yield Finding(kind, "ok", f"{number} alive")
        else:
            status: Status = "warning" if kind == "scheduler" else "failed"
            yield Finding(kind, status, f"none alive: {without}", f"Start: outbox {kind}")
    deserted = [queue.name for queue in queues if not queue.workers and queue.counts]
    if deserted:
        yield Finding(
            "listeners", "failed", f"no worker listens to {', '.join(deserted)}",
            "Start: outbox worker --queues " + ",".join(deserted),
        )  # fmt: skip


def _flow(queues: list[QueueView]) -> Iterator[Finding]:
    due = {queue.name: queue.oldest_due for queue in queues if queue.oldest_due is not None and not queue.paused}
    if due:
        name, oldest = max(due.items(), key=lambda each: each[1])
        status: Status = "failed" if oldest > TOO_LATE else "warning" if oldest > LATE else "ok"
        mend = "" if status == "ok" else "See that relay and RabbitMQ are well, and whether workers keep up."
        yield Finding("backlog", status, f"the oldest due task waits {_seconds(oldest)} s, in {name}", mend)
    else:
        yield Finding("backlog", "ok", "nothing due waits")
    for queue in queues:
        if queue.paused:
            since = f"{queue.paused_at:%Y-%m-%d %H:%M %Z}" if queue.paused_at else "some time ago"
            told = f"{queue.name} is paused by {queue.paused_by} since {since}"
            yield Finding("paused", "warning", told, f"When it may go on: outbox queues resume {queue.name}")


def _foreign(conn: Conn, settings: Settings) -> Iterator[Finding]:
    """What OUTBOX_FOREIGN says here; workers and relays read their own."""
    kept = conn.execute(_of(settings, KEPT_ASIDE)).fetchall()[0][0]
    if settings.foreign == "adopt":
        yield Finding(
            "foreign messages", "warning", "are adopted: whoever can write to RabbitMQ can run any actor",
            "Set OUTBOX_FOREIGN=refuse once every producer uses the outbox.",
        )  # fmt: skip
    elif not kept:
        yield Finding("foreign messages", "ok", "are refused")
    if kept:
        yield Finding(
            "kept aside", "warning", f"{kept} messages in RabbitMQ were none of a relay, within a day",
            "See outbox.audit, subject 'queue NAME': body_base64 holds each. Find who sends them; change RabbitMQ's password.",
        )  # fmt: skip


def _seconds(span: timedelta) -> str:
    return f"{span.total_seconds():.0f}" if span > timedelta(seconds=10) else f"{span.total_seconds():.1f}"


# ---------------------------------------------------------------------- the database's housekeeping


def _history(conn: Conn, settings: Settings) -> Iterator[Finding]:
    ahead, over, stray = conn.execute(
        _of(settings, HISTORY), {"schema": settings.schema_name, "keep": settings.history_days}
    ).fetchall()[0]
    if ahead < 2:
        yield Finding(
            "partitions", "warning", f"{ahead} days of the history are prepared",
            "The relay prepares a week ahead: see that one runs, as the tables' owner.",
        )  # fmt: skip
    else:
        yield Finding("partitions", "ok", f"{ahead} days prepared")
    if stray:
        more = "+" if stray > 1000 else ""
        yield Finding(
            "history_default", "warning", f"{min(stray, 1000)}{more} rows came before their day's partition",
            "Harmless; the relay moves them when it prepares the day, outbox purge removes them in time.",
        )  # fmt: skip
    if over > 1:
        yield Finding("retention", "warning", f"{over} days of the history are over", "Run: outbox purge")


def _cleaning(conn: Conn, settings: Settings) -> Iterator[Finding]:
    held = conn.execute(HELD, {"limit": LONG_TRANSACTION}).fetchall()
    for what, who, since in held:
        yield Finding(
            "old snapshot", "warning", f"{what} {who} has kept dead rows from being cleaned for {_seconds(since)} s",
            "End it: dead rows of the task table pile up and slow every claim.",
        )  # fmt: skip
    if not held:
        yield Finding("old snapshot", "ok", "no transaction is open for long")
    on, dead, live = conn.execute(_of(settings, VACUUM), {"schema": settings.schema_name}).fetchall()[0]
    if not on:
        yield Finding("autovacuum", "failed", "is switched off", "Switch autovacuum on, and track_counts with it.")
    elif dead > 50_000 and dead > 2 * live:
        yield Finding(
            "autovacuum", "warning", f"the task table has {dead} dead rows beside {live} live ones",
            "Autovacuum does not keep up: look for an old snapshot, or give it more workers.",
        )  # fmt: skip
    else:
        yield Finding("autovacuum", "ok", f"{dead} dead rows in the task table")


def _of(settings: Settings, statement: str) -> str:
    return statement.replace("outbox.", f"{settings.schema_name}.")


def _shown(settings: Settings) -> str:
    url = settings.sqlalchemy_url
    return f"{url.host or 'the local socket'}:{url.port or 5432}/{url.database or ''}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


KEPT_ASIDE = """
select count(*)
from outbox.audit
where subject like 'queue %'
and action in ('message refused', 'forged message refused', 'message set aside')
and at > clock_timestamp() - interval '1 day'
"""

HISTORY = """
select
    count(*) filter (where substr(c.relname, 9) > to_char(clock_timestamp() at time zone 'utc', 'YYYYMMDD')),
    count(*) filter (where substr(c.relname, 9)
        < to_char(clock_timestamp() at time zone 'utc' - %(keep)s * interval '1 day', 'YYYYMMDD')),
    (select count(*) from (select from outbox.history_default limit 1001) d)
from pg_inherits i
join pg_class c on c.oid = i.inhrelid
join pg_class p on p.oid = i.inhparent
join pg_namespace n on n.oid = p.relnamespace
where p.relname = 'history' and n.nspname = %(schema)s
and c.relname ~ '^history_[0-9]{8}$'
"""

# Whatever holds the oldest snapshot: an open transaction, a prepared one, a replication slot.
HELD = """
select 'session', coalesce(nullif(a.application_name, ''), 'pid') || ' (pid ' || a.pid || ', ' || a.state || ')',
    clock_timestamp() - a.xact_start
from pg_stat_activity a
where a.xact_start < clock_timestamp() - %(limit)s
and a.datname = current_database()
and a.pid <> pg_backend_pid()
and (a.backend_xmin is not null or a.backend_xid is not null)
and a.backend_type = 'client backend'
union all
select 'prepared transaction', p.gid, clock_timestamp() - p.prepared
from pg_prepared_xacts p
where p.prepared < clock_timestamp() - %(limit)s
union all
select 'replication slot', s.slot_name, interval '0'
from pg_replication_slots s
where not s.active and age(coalesce(s.xmin, s.catalog_xmin)) > 100000
"""

VACUUM = """
select current_setting('autovacuum')::boolean and current_setting('track_counts')::boolean
    and not coalesce('autovacuum_enabled=false' = any(c.reloptions), false),
    coalesce(s.n_dead_tup, 0), coalesce(s.n_live_tup, 0)
from pg_class c
left join pg_stat_user_tables s on s.relid = c.oid
where c.oid = to_regclass('outbox.task')
"""
