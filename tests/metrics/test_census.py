"""The census: what the relay counts in the database, what it costs, and that nobody waits for it or is misled by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import dramatiq.broker
import psycopg
import pytest
from awaiting import await_that
from outbox_rows import Outbox

from outbox import census, database, reads
from outbox.census import Census
from outbox.ledger import Conn
from tests.ledger.plans import add_finished, add_tasks, add_workers, plan, scans, touched


@pytest.fixture(scope="module")
def whole(new_database: Callable[[str], str], migrated_template: str) -> Iterator[Outbox]:
    outbox = Outbox(new_database(migrated_template))
    yield outbox
    outbox.close()


@pytest.fixture
def outbox(whole: Outbox) -> Outbox:
    whole.empty()
    return whole


@pytest.fixture(autouse=True)
def no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages here are for actors that nobody declares, whatever other tests have imported."""
    monkeypatch.setattr(dramatiq.broker, "global_broker", None)


Make = Callable[..., Census]


@pytest.fixture
def make(outbox: Outbox) -> Iterator[Make]:
    """A census at work, by default of this database."""
    made = []

    def start(connect: Callable[[], Conn] = outbox.connect) -> Census:
        made.append(Census("outbox", connect))
        made[-1].start()
        return made[-1]

    yield start
    for each in made:
        each.stop()


def told(counting: Census) -> dict[tuple[str, ...], float]:
    """{(name, label values…): value} as Prometheus would read it now."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in counting.collect()
        for sample in family.samples
    }


def await_count(counting: Census) -> dict[tuple[str, ...], float]:
    return await_that(lambda: (found := told(counting)).get(("outbox_database_up",)) and found)


def join(outbox: Outbox, kind: str, *queues: str) -> None:
    outbox.ledger.join(
        outbox.conn,
        worker=uuid4(),
        kind=kind,
        host="here",
        pid=1,
        queues=queues,
        threads=1,
        lease=timedelta(seconds=10),
    )


def test_backlog_lag_listeners_and_processes_are_told(outbox: Outbox, make: Make) -> None:
    for _ in range(3):
        outbox.add()
    outbox.add(delay=timedelta(hours=1))
    outbox.conn.execute("update outbox.task set due_at = clock_timestamp() - interval '90 s' where state = 'pending'")
    add_finished(outbox.conn, "dead", "dead", 2)
    join(outbox, "worker", "mail", "heavy")
    join(outbox, "relay")
    outbox.conn.execute(
        "insert into outbox.schedule (name, actor, queue, cron, fired_through, paused)"
        " values ('nightly', 'a', 'heavy', '0 3 * * *', now(), false), ('held', 'a', 'heavy', '0 3 * * *', now(), true)"
    )
    outbox.ledger.pause_queue(outbox.conn, "heavy", who="a test")
    found = await_count(make())
    assert found["outbox_backlog_tasks", "mail", "pending"] == 3
    assert found["outbox_backlog_tasks", "mail", "scheduled"] == 1
    assert found["outbox_oldest_due_seconds", "mail"] >= 90
    assert (found["outbox_queue_workers", "mail"], found["outbox_queue_workers", "heavy"]) == (1, 1)
    assert (found["outbox_queue_paused", "mail"], found["outbox_queue_paused", "heavy"]) == (0, 1)
    assert [found["outbox_processes", kind] for kind in ("relay", "worker", "scheduler")] == [1, 1, 0]
    assert found["outbox_dead_tasks",] == 2
    assert found["outbox_schedules",] == 1
    assert abs(found["outbox_clock_offset_seconds",]) < 5


def test_a_process_whose_heartbeats_stopped_is_not_alive(outbox: Outbox, make: Make) -> None:
    join(outbox, "worker", "mail")
    outbox.conn.execute("update outbox.worker set beat_at = clock_timestamp() - interval '30 s'")
    assert await_count(make())["outbox_processes", "worker"] == 0


def test_counts_stop_at_the_cap(outbox: Outbox, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "CAP", 5)
    monkeypatch.setattr(census, "CAP", 5)
    add_tasks(outbox.conn, "pending", 40)
    add_finished(outbox.conn, "dead", "dead", 40)
    found = await_count(make())
    assert found["outbox_backlog_tasks", "mail", "pending"] == 5
    assert found["outbox_dead_tasks",] == 5


def test_without_the_database_its_figures_are_absent_and_nobody_waits(make: Make) -> None:
    def refused() -> Conn:
        raise psycopg.OperationalError("no server")

    assert told(make(refused)) == {("outbox_database_up",): 0.0}


def test_a_count_that_is_old_is_told_no_more(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = make()
    await_count(counting)
    monkeypatch.setattr(census, "STALE", 0.0)
    assert told(counting) == {("outbox_database_up",): 0.0}


def test_a_database_that_was_away_is_counted_again(outbox: Outbox, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "PACE", 0.05)
    monkeypatch.setattr(census, "AT_LATEST", 0.05)
    broken = [psycopg.OperationalError("no server")] * 3

    def connect() -> Conn:
        if broken:
            raise broken.pop()
        return outbox.connect()

    counting = make(connect)
    assert await_count(counting)["outbox_processes", "relay"] == 0
    assert broken == []


# ---------------------------------------------------------------------- its cost

READS: dict[str, tuple[str, dict[str, Any]]] = {
    "standing": (census.STANDING, {"more": reads.CAP + 1}),
    "queues": (reads.QUEUES, {"more": reads.CAP + 1}),
    "counts": (reads.QUEUE_COUNTS, {"cap": reads.CAP, "more": reads.CAP + 1}),
}


@pytest.fixture(scope="module")
def crowded(new_database: Callable[[str], str], migrated_template: str) -> Iterator[Outbox]:
    """40,000 tasks, half of them pending, and 12,000 dead ones, well analysed."""
    outbox = Outbox(new_database(migrated_template))
    add_workers(outbox.conn)
    add_tasks(outbox.conn, "pending", 20_000)
    add_tasks(outbox.conn, "published", 8_000)
    add_tasks(outbox.conn, "scheduled", 6_000, lanes=True)
    add_tasks(outbox.conn, "waiting", 5_000)
    add_tasks(outbox.conn, "running", 1_000)
    add_finished(outbox.conn, "dead", "dead", 12_000)
    outbox.conn.execute("vacuum analyze outbox.task, outbox.dead")
    yield outbox
    outbox.close()


@pytest.fixture(scope="module")
def changed(new_database: Callable[[str], str], migrated_template: str) -> Iterator[Outbox]:
    """Statistics of an hour when all tasks were published: what is pending, scheduled or dead came after it."""
    outbox = Outbox(new_database(migrated_template))
    for table in ("task", "dead"):
        outbox.conn.execute(f"alter table outbox.{table} set (autovacuum_enabled = false)")
    add_workers(outbox.conn)
    add_tasks(outbox.conn, "published", 10_000)
    add_finished(outbox.conn, "dead", "dead", 10)
    outbox.conn.execute("analyze")
    for state in ("pending", "scheduled", "waiting", "running"):
        add_tasks(outbox.conn, state, 5_000)
    add_finished(outbox.conn, "dead", "dead", 10_000)
    yield outbox
    outbox.close()


def whole_tables(outbox: Outbox, name: str) -> list[str]:
    """Those that the statement reads without an index."""
    sql, values = READS[name]
    with database.connect(outbox.url, name="test", by_index=True) as conn:  # as the relay's census does
        found = scans(plan(conn, sql, values, how="custom"))
    assert {"task", "dead"} & {scan.table for scan in found}
    return [scan.table for scan in found if scan.index is None and scan.table.startswith(("task", "dead", "history"))]


@pytest.mark.parametrize("name", READS)
def test_no_count_reads_all_tasks(crowded: Outbox, name: str) -> None:
    assert whole_tables(crowded, name) == []


@pytest.mark.parametrize("name", READS)
def test_nor_does_it_when_the_statistics_are_of_another_hour(changed: Outbox, name: str) -> None:
    assert whole_tables(changed, name) == []


def test_a_count_costs_what_the_caps_allow_however_large_the_backlog_is(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "CAP", 50)

    def pages() -> int:
        outbox.conn.execute("vacuum analyze outbox.task, outbox.dead")
        values = {"cap": reads.CAP, "more": reads.CAP + 1}
        return sum(touched(outbox.conn, sql, {key: values[key] for key in wants}) for sql, wants in READS.values())

    add_tasks(outbox.conn, "pending", 2_000)
    add_finished(outbox.conn, "dead", "dead", 500)
    few = pages()
    add_tasks(outbox.conn, "pending", 20_000)
    add_finished(outbox.conn, "dead", "dead", 5_000)
    assert pages() < 2 * few
