"""Failures by their kind: what is counted, of whom, since when; found by a query, shown without secrets, read by an index."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from outbox import failures
from outbox.errors import ArgumentError
from outbox.failures import GROUPS, Failures
from outbox.fingerprint import fingerprint_of
from outbox.query import Query, parse
from outbox.reads import CAP, Count, Reader
from outbox.search import COUNT, FIND, values_of
from tests.cli.conftest import Cli, Scene, lines
from tests.ledger.plans import add_finished, add_tasks, plan, scans

KINDS = Failures()


def test_tasks_that_failed_alike_are_one_group_whatever_the_values(scene: Scene) -> None:
    ids = {scene.dead(actor="send", error=f"order {n} is gone")[0] for n in range(3)}
    (again,) = scene.retrying(actor="fetch", error="order 9 is gone")
    scene.dead(actor="send", error="no money")
    first, second = KINDS.groups(scene.conn)
    assert (first.count, first.dead, first.retrying, first.actors) == (Count(4), 3, 1, ["fetch", "send"])
    assert (first.error, first.example) == ("order 9 is gone", again)
    assert (sum(first.hours), first.hours[-1], len(first.hours)) == (4, 4, 24)
    assert (second.count, second.error) == (Count(1), "no money")
    assert {task.id for task in scene.reader.tasks(scene.conn, parse(first.query))[0]} == {*ids, again}


def test_a_failure_is_found_in_every_table_by_its_last_attempt(scene: Scene) -> None:
    kind = fingerprint_of("boom", "")
    (dead,), (again,) = scene.dead(), scene.retrying()
    scene.dead(error="other")
    query = Query(failure=kind)
    assert {task.id for task in scene.reader.tasks(scene.conn, query)[0]} == {dead, again}
    assert scene.reader.count(scene.conn, query) == Count(2)
    scene.ledger.cancel(scene.conn, again, reason="no longer wanted")
    assert {task.id for task in scene.reader.tasks(scene.conn, query)[0]} == {dead, again}
    assert [task.id for task in scene.reader.tasks(scene.conn, parse(f"state:dead failure:{kind}"))[0]] == [dead]


def test_a_crash_has_its_kind(scene: Scene) -> None:
    scene.running()
    scene.ledger.rescue(scene.conn, worker=scene.worker, beat=1, max_crashes=1)
    kind = fingerprint_of("its worker died", None)
    assert scene.reader.count(scene.conn, Query(failure=kind)) == Count(1)


def test_groups_are_of_what_failed_since_and_of_what_has_a_kind(scene: Scene) -> None:
    (old,) = scene.dead(error="old")
    scene.conn.execute("update outbox.dead set finished_at = now() - interval '30 hours' where id = %s", [old])
    scene.dead(error="young")
    (bare,) = scene.dead(error="bare")
    scene.conn.execute('update outbox.dead set attempts = \'[{"outcome": "dead"}]\' where id = %s', [bare])
    assert [each.error for each in KINDS.groups(scene.conn, since=timedelta(hours=1))] == ["young"]
    assert {each.error: sum(each.hours) for each in KINDS.groups(scene.conn)} == {"young": 1, "old": 0}
    assert len(KINDS.groups(scene.conn, limit=1)) == 1
    with pytest.raises(ArgumentError):
        KINDS.groups(scene.conn, limit=0)


def test_a_snooze_is_no_failure(scene: Scene) -> None:
    (id,) = scene.retrying()
    scene.conn.execute(
        "update outbox.task set attempts = jsonb_set(attempts, '{-1,outcome}', '\"snoozed\"') where id = %s", [id]
    )
    assert KINDS.groups(scene.conn) == []


def test_one_group_has_a_traceback_without_secrets(scene: Scene) -> None:
    scene.dead(error="cannot reach amqp://ann:hunter2@host/")
    (listed,) = KINDS.groups(scene.conn)
    one = KINDS.group(scene.conn, listed.failure)
    assert one is not None
    assert one.traceback == "Traceback\n  cannot reach amqp://[redacted]@host/"
    assert "hunter2" not in repr((listed, one))
    assert KINDS.group(scene.conn, "0" * 12) is None
    with pytest.raises(ArgumentError):
        KINDS.group(scene.conn, "x")


def test_counts_say_where_they_are_at_least(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "CAP", 2)
    scene.dead(2)
    assert KINDS.groups(scene.conn)[0].count == Count(2)
    scene.dead(2)
    assert KINDS.groups(scene.conn)[0].count == Count(3, at_least=True)


# ---------------------------------------------------------------------- on the command line


def test_the_command_line_lists_shows_and_retries_a_kind(scene: Scene, cli: Cli) -> None:
    ids = {str(scene.dead(actor="send", error=f"order {n} is gone")[0]) for n in range(2)}
    scene.dead(actor="send", error="no money")
    kind = fingerprint_of("order 1 is gone", "")
    assert lines(cli("failures", "list").stdout)[0][:3] == [kind, "2", "2"]
    shown = json.loads(cli("failures", "show", kind, "--json").stdout)
    assert (shown["failure"], shown["count"], shown["traceback"]) == (kind, 2, "Traceback\n  order 1 is gone")
    assert cli("failures", "show", "0" * 12).exit_code == 3
    assert cli("failures", "show", "x").exit_code == 2
    assert json.loads(cli("failures", "list", "--json").stdout)["items"][0]["failure"] == kind
    result = cli("failures", "retry", kind, "--yes", "--json")
    assert {each["id"] for each in json.loads(result.stdout)["results"]} == ids
    assert [scene.reader.count(scene.conn, parse(f"state:{state}")) for state in ("dead", "pending")] == [
        Count(1),
        Count(2),
    ]


# ---------------------------------------------------------------------- what is read


@pytest.fixture(scope="module")
def crowded(new_database: Callable[[str], str], migrated_template: str) -> Iterator[psycopg.Connection[Any]]:
    """40,000 unfinished tasks, 40,000 dead of 500 kinds, well analysed."""
    with psycopg.connect(new_database(migrated_template), autocommit=True) as conn:
        add_tasks(conn, "pending", 20_000)
        add_tasks(conn, "scheduled", 20_000)
        add_finished(conn, "dead", "dead", 40_000)
        conn.execute(
            """update outbox.dead set attempts = jsonb_build_array(jsonb_build_object(
            'outcome', 'dead', 'failure', lpad(to_hex(abs(hashtext(id::text)) % 500), 12, '0')))"""
        )
        conn.execute("vacuum analyze")
        yield conn


@pytest.mark.parametrize("statement", [FIND, COUNT], ids=["find", "count"])
def test_the_dead_of_a_kind_are_read_from_their_index(crowded: psycopg.Connection[Any], statement: str) -> None:
    values = values_of(parse(f"state:dead failure:{7:012x}"), Reader().now(crowded), before=None, limit=51)
    found = scans(plan(crowded, statement, values, how="custom"))
    assert {scan.index for scan in found if scan.table == "dead"} == {"dead_failure"}


@pytest.mark.parametrize("failure", [None, f"{7:012x}"], ids=["all", "one"])
def test_groups_read_no_table_as_a_whole(crowded: psycopg.Connection[Any], failure: str | None) -> None:
    values = {"since": None, "now": Reader().now(crowded), "failure": failure, "cap": CAP, "more": CAP + 1}
    found = [(scan.table, scan.index) for scan in scans(plan(crowded, GROUPS, values, how="custom"))]
    assert [table for table, index in found if index is None and table in ("task", "dead")] == []
    assert ("dead", "dead_failure" if failure else "dead_finished") in found
    assert KINDS.group(crowded, uuid4().hex[:12]) is None
