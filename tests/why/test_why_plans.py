"""I12: asking why reads a few entries of each index, however many tasks there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from outbox import why
from outbox.ledger import Conn
from tests.ledger.plans import add_finished, add_tasks, add_workers, plan, scans

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OF_A_QUEUE: dict[str, Any] = {"queue": "mail", "priority": 1, "due_at": NOW, "published_at": NOW, "more": 10_001}
STATEMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "facts": (why.FACTS, {"id": uuid4()}),
    "lane": (why.LANE, {"lane": "order/7", "position": 700, "more": 10_001}),
    "limited lane": (why.LANE, {"lane": "limit/7", "position": 700, "more": 10_001}),
    "pending before": (why.PENDING_BEFORE, OF_A_QUEUE),
    "published before": (why.PUBLISHED_BEFORE, OF_A_QUEUE),
}


@pytest.fixture(scope="module")
def crowded(new_database: Callable[[str], str], migrated_template: str) -> Iterator[Conn]:
    """30,000 unfinished tasks and 2,000 dead ones, well analysed."""
    with psycopg.connect(new_database(migrated_template), autocommit=True) as conn:
        add_workers(conn)
        for state in ("pending", "published", "waiting"):
            add_tasks(conn, state, 8_000)
        add_tasks(conn, "scheduled", 6_000, lanes=True)
        add_finished(conn, "dead", "dead", 2_000)
        conn.execute("analyze")
        yield conn


@pytest.mark.parametrize("name", STATEMENTS)
def test_no_statement_reads_all_tasks(crowded: Conn, name: str) -> None:
    sql, values = STATEMENTS[name]
    found = scans(plan(crowded, sql, values, how="custom"))
    assert [scan for scan in found if scan.index is None and scan.table in ("task", "dead")] == []


def test_every_statement_is_watched_here() -> None:
    written = {sql for name, sql in vars(why).items() if name.isupper() and isinstance(sql, str) and "select" in sql}
    assert written - {sql for sql, _ in STATEMENTS.values()} == {why.PROCESSES}  # which reads no task
