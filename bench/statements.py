"""`statements`: what the enqueue and the relay say to PostgreSQL, counted in the server's own log."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import psycopg

from bench import processes, tasks
from bench.figures import Report, Series
from bench.ground import Field, Ground
from bench.waiting import until

#: `log_line_prefix`: application name, then a mark that stands in no statement of ours.
PREFIX = "%a <|> "
LINE = re.compile(r"^(?P<who>.*?) <\|> LOG:  (?:statement|execute [^:]*): (?P<sql>.*)$", re.MULTILINE)


def measure(ground: Ground, *, rounds: int, quick: bool) -> Report:
    count, many = (10_000 if quick else 50_000), 50
    one = Series("enqueue 1 task: INSERTs", "", at_least=1, at_most=1)
    more = Series(f"enqueue {many} tasks in one flush: INSERTs", "", at_least=1, at_most=1)
    rest = Series("beyond the same transaction without tasks", "statements", at_most=1)
    relay = Series("relay: statements a task", "", at_most=0.05)
    report = Report(
        "Statements, as PostgreSQL's log has them (log_statement = all)",
        [
            "enqueue: a SQLAlchemy session that inserts a user, then 0, 1 or 50 tasks, and commits; with its NOTIFY apart",
            f"relay: everything that its connections say, BEGIN and COMMIT too, from start to the last of {count} tasks",
        ],
        [one, more, rest, relay],
    )
    _prefix(ground, PREFIX)
    try:
        for _ in range(min(rounds, 3)):
            with ground.round() as here:
                said = {number: _enqueue(ground, here, number) for number in (0, 1, many)}
                one.values.append(_inserts(said[1]))
                more.values.append(_inserts(said[many]))
                rest.values.append(max(len(said[1]), len(said[many])) - len(said[0]))
            with ground.round() as here:
                counted = _relay(ground, here, count)
                relay.values.append(counted.total() / count)
        report.notes.append("relay, the last round: " + ", ".join(f"{n} {what}" for what, n in counted.most_common(8)))
    finally:
        _prefix(ground, None)
    return report


def _enqueue(ground: Ground, here: Field, count: int) -> list[str]:
    """What one transaction of the application said."""
    with here.connect() as conn:
        conn.execute("create table if not exists bench_user (id bigserial primary key, email text)")
    _log_statements(here)
    log = _Log(ground)
    here.run("-m", "bench.enqueuer", str(count), DATABASE_URL=f"{here.database_url}?application_name=enqueuer")
    return [sql for who, sql in log.read() if who == "enqueuer" and not sql.startswith("notify")]


def _inserts(said: list[str]) -> int:
    return sum("insert into outbox.task" in sql for sql in said)


def _relay(ground: Ground, here: Field, count: int) -> Counter[str]:
    """Statements of the relay's connections, by connection and first words."""
    with here.connect() as conn:
        tasks.make_pending(conn, count)
        _log_statements(here)
        log = _Log(ground)
        processes.relay(here, window=10 * count)
        until(lambda: tasks.none_pending(conn), f"{count} tasks are published", here=here)
        said = log.read()
    return Counter(
        f"{re.sub(r' [0-9]+$', '', who)}: {sql.split()[0]}" for who, sql in said if who.startswith("outbox relay")
    )


class _Log:
    """The server's log, from now on."""

    def __init__(self, ground: Ground) -> None:
        self._path: Path = ground.postgres_log
        self._from = self._path.stat().st_size

    def read(self) -> list[tuple[str, str]]:
        """(application name, statement in one line) of each."""
        with self._path.open("rb") as log:
            log.seek(self._from)
            text = log.read().decode(errors="replace")
        joined = text.replace("\n\t", " ")  # how PostgreSQL continues a statement of several lines
        return [(each["who"], " ".join(each["sql"].split())) for each in LINE.finditer(joined)]


def _log_statements(here: Field) -> None:
    """For connections to this database that are made from now on."""
    with here.connect() as conn:
        name = conn.info.dbname
        conn.execute(f"alter database \"{name}\" set log_statement = 'all'")
        conn.execute(f'alter database "{name}" set log_parameter_max_length = 0')


def _prefix(ground: Ground, prefix: str | None) -> None:
    with psycopg.connect(ground.postgres.url, autocommit=True) as conn:
        if prefix is None:
            conn.execute("alter system reset log_line_prefix")
        else:
            conn.execute(f"alter system set log_line_prefix = '{prefix}'")
        conn.execute("select pg_reload_conf()")
