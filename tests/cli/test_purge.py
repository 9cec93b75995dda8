"""Retention: what is over goes, in whole days; nothing else does, and nobody is held up."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from outbox import purge
from tests.cli.conftest import Cli, Scene, lines

MONTH = timedelta(days=30)


def _day(scene: Scene, days_ago: int) -> str:
    """A partition of the history for that day, with one task in it."""
    day = datetime.now(UTC).date() - timedelta(days=days_ago)
    name = f"history_{day:%Y%m%d}"
    scene.conn.execute(
        f"create table if not exists outbox.{name} partition of outbox.history"
        f" for values from ('{day}T00:00:00Z') to ('{day + timedelta(days=1)}T00:00:00Z')"
    )
    _finished(scene, "history", "succeeded", days_ago)
    return name


def _finished(scene: Scene, table: str, state: str, days_ago: float) -> None:
    scene.conn.execute(
        f"""
        insert into outbox.{table} (id, state, queue, actor, args, kwargs, options, priority, created_at, due_at,
            finished_at, lane_holds, failures, crashes, losses, attempts)
        select gen_random_uuid(), %s, 'default', 'act', '[]', '{{}}', '{{}}', 0, t, t, t, false, 0, 0, 0, '[]'
        from (select now() - %s * interval '1 day' as t) d
        """,
        [state, days_ago],
    )


def _partitions(scene: Scene) -> list[str]:
    found = scene.conn.execute(
        "select relname from pg_class where relname ~ '^history_[0-9]{8}$' order by 1"
    ).fetchall()
    return [name for (name,) in found]


def _count(scene: Scene, table: str) -> int:
    return int(scene.conn.execute(f"select count(*) from outbox.{table}").fetchall()[0][0])


def test_days_that_are_over_go_and_the_others_stay(scene: Scene, cli: Cli) -> None:
    over, last, young = _day(scene, 40), _day(scene, 31), _day(scene, 29)
    unfinished = [*scene.pending(), *scene.scheduled(), *scene.running()]
    scene.conn.execute("update outbox.task set created_at = now() - interval '400 days'")
    before = set(_partitions(scene))
    told = cli("purge", "--yes")
    assert told.exit_code == 0
    assert lines(told.stdout) == [["partition", name, "dropped", "0"] for name in (over, last)]
    assert before - set(_partitions(scene)) == {over, last}
    assert young in _partitions(scene)
    assert len([id for id in unfinished if scene.state(id)]) == 3


def test_dead_tasks_have_their_own_longer_time(scene: Scene, cli: Cli) -> None:
    for days in (170, 181, 400):
        _finished(scene, "dead", "dead", days)
    told = cli("purge", "--yes", "--json")
    assert json.loads(told.stdout)["steps"] == [{"what": "dead", "name": "dead", "outcome": "deleted", "rows": 2}]
    assert _count(scene, "dead") == 1
    cli("purge", "--yes", "--dead-days", "100")
    assert _count(scene, "dead") == 0


def test_the_audit_is_kept_for_as_long_as_dead_tasks_are(scene: Scene, cli: Cli) -> None:
    for days in (179, 181, 400):
        scene.conn.execute(
            "insert into outbox.audit (at, who, action, subject) values (now() - %s * interval '1 day', 'ada', 'retry', 'x')",
            [days],
        )
    told = cli("purge", "--yes", "--json")
    assert json.loads(told.stdout)["steps"] == [{"what": "audit", "name": "audit", "outcome": "deleted", "rows": 2}]
    assert _count(scene, "audit") == 1


def test_rows_without_a_day_of_their_own_go_too(scene: Scene, cli: Cli) -> None:
    _finished(scene, "history", "cancelled", 60)
    _finished(scene, "history", "cancelled", 20)
    assert _count(scene, "history_default") == 2
    cli("purge", "--yes")
    assert _count(scene, "history_default") == 1


def test_a_dry_run_and_a_no_remove_nothing(scene: Scene, cli: Cli) -> None:
    name = _day(scene, 50)
    assert lines(cli("purge", "--dry-run").stdout) == [[name]]
    told = cli("purge", stdin="n\n")
    assert (told.exit_code, "Nothing was done." in told.stderr) == (1, True)
    assert name in _partitions(scene)


def test_a_reader_of_the_history_makes_purge_try_later_and_holds_up_no_settle(scene: Scene, cli: Cli) -> None:
    name = _day(scene, 50)
    plan = purge.look(scene.conn, scene.ledger, history=MONTH, dead=MONTH)
    waits: list[float] = []
    with psycopg.connect(scene.url) as reader:
        reader.execute("select count(*) from outbox.history")
        (step,) = purge.purge(scene.conn, scene.ledger, plan, pause=waits.append)
    assert (step.outcome, step.name) == ("busy", name)
    assert len(waits) == purge.TRIES - 1
    assert name in _partitions(scene)
    assert cli("purge", "--yes").exit_code == 0
    assert name not in _partitions(scene)


def test_a_settle_behind_a_waiting_purge_goes_on_within_its_lock_timeout(scene: Scene) -> None:
    _day(scene, 50)
    (claim,) = scene.claimed()
    plan = purge.look(scene.conn, scene.ledger, history=MONTH, dead=MONTH)
    began, stop = threading.Event(), threading.Event()

    def remove() -> None:
        with psycopg.connect(scene.url, autocommit=True) as conn:
            began.set()
            list(purge.purge(conn, scene.ledger, plan, pause=lambda _: stop.wait(0.05)))

    with psycopg.connect(scene.url) as reader, psycopg.connect(scene.url, autocommit=True) as settler:
        reader.execute("select count(*) from outbox.history")
        thread = threading.Thread(target=remove)
        thread.start()
        began.wait(5)
        settler.execute("set statement_timeout = '4s'")
        from outbox.ledger import Finished

        assert scene.ledger.record_successes(settler, [Finished(claim.id, claim.run_id, 0.1, 0.0)]) == [claim.id]
    thread.join(30)
    assert not thread.is_alive()


def test_what_a_killed_purge_left_detached_is_removed(scene: Scene) -> None:
    name = _day(scene, 50)
    scene.conn.execute(f"alter table outbox.history detach partition outbox.{name}")
    plan = purge.look(scene.conn, scene.ledger, history=MONTH, dead=MONTH)
    assert [step.name for step in purge.purge(scene.conn, scene.ledger, plan)] == [name]
    assert name not in _partitions(scene)


@pytest.mark.parametrize("days", ["0", "-1", "x"])
def test_a_retention_that_makes_no_sense_is_refused(scene: Scene, cli: Cli, days: str) -> None:
    name = _day(scene, 50)
    assert cli("purge", "--yes", "--history-days", days).exit_code == 2
    assert name in _partitions(scene)
