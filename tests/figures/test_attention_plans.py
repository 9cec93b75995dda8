"""I12: what needs attention is found in a few entries of each index, however many tasks there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from outbox import attention
from outbox.ledger import Conn
from tests.ledger.plans import add_finished, add_tasks, add_workers, plan, scans

STATEMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "dead": (attention.DEAD, {"within": timedelta(hours=1), "more": 101}),
    "failing": (attention.FAILING, {"within": timedelta(minutes=15), "more": 100}),
    "held up": (attention.HELD_UP, {"most": 100}),
}


@pytest.fixture(scope="module")
def crowded(new_database: Callable[[str], str], migrated_template: str) -> Iterator[Conn]:
    """16,000 unfinished tasks and 4,000 dead ones, well analysed."""
    with psycopg.connect(new_database(migrated_template), autocommit=True) as conn:
        add_workers(conn)
        add_tasks(conn, "pending", 8_000)
        add_tasks(conn, "scheduled", 8_000, lanes=True)
        add_finished(conn, "dead", "dead", 4_000)
        conn.execute("update outbox.dead set lane_holds = hashtext(id::text) % 50 = 0")
        conn.execute("analyze")
        yield conn


@pytest.mark.parametrize("name", STATEMENTS)
def test_no_statement_reads_all_tasks(crowded: Conn, name: str) -> None:
    sql, values = STATEMENTS[name]
    found = scans(plan(crowded, sql, values, how="custom"))
    assert [scan for scan in found if scan.index is None and scan.table in ("task", "dead")] == []


def test_every_statement_is_watched_here() -> None:
    written = {
        sql for name, sql in vars(attention).items() if name.isupper() and isinstance(sql, str) and "select" in sql
    }
    assert written - {sql for sql, _ in STATEMENTS.values()} == {attention.PROCESSES}  # which reads no task
