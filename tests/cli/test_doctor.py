"""`outbox doctor`: each trouble is found and comes with its mend."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from outbox import database, topology
from outbox.ledger import Ledger
from tests.cli.conftest import Cli, Scene

NOWHERE = {"RABBITMQ_URL": "amqp://127.0.0.1:1/"}


def findings(cli: Cli, **env: str) -> dict[str, dict[str, Any]]:
    told = cli("doctor", "--json", env={**NOWHERE, **env})
    found = json.loads(told.stdout)["findings"]
    assert all(each["mend"] for each in found if each["status"] != "ok")
    return {each["name"]: each for each in found}


def statuses(cli: Cli, **env: str) -> dict[str, str]:
    return {name: found["status"] for name, found in findings(cli, **env).items()}


def test_all_is_well(scene: Scene, cli: Cli, amqp_url: str, queue_prefix: str) -> None:
    scene.join(kind="relay", queues=())
    scene.join(kind="scheduler", queues=())
    scene.pending()
    connection = topology.connect(amqp_url, name="test")
    topology.Topology(prefix=queue_prefix, ledger=Ledger()).ensure(
        connection, lambda: database.connect(scene.url, name="test"), "default"
    )
    connection.close()
    env = {"RABBITMQ_URL": amqp_url, "OUTBOX_QUEUE_PREFIX": queue_prefix, "OUTBOX_APP": "json"}
    told = cli("doctor", env=env)
    assert (told.exit_code, told.stderr) == (0, "")
    assert {line.split("\t")[0] for line in told.stdout.splitlines()} == {"ok"}


def test_queues_missing_in_the_broker_are_named(scene: Scene, cli: Cli, amqp_url: str, queue_prefix: str) -> None:
    scene.pending(queue="mail")
    found = findings(cli, RABBITMQ_URL=amqp_url, OUTBOX_QUEUE_PREFIX=queue_prefix)
    assert found["RabbitMQ"]["status"] == "ok"
    assert found["queues"] == {
        "name": "queues", "status": "warning", "told": "not in RabbitMQ: default, mail", "mend": found["queues"]["mend"],
    }  # fmt: skip


def test_without_servers_each_is_told_and_the_exit_code_is_69(scene: Scene, cli: Cli) -> None:
    told = cli("doctor", env={**NOWHERE, "DATABASE_URL": "postgresql://u:secret@127.0.0.1:1/x"})
    assert told.exit_code == 69
    assert [line.split("\t")[:2] for line in told.stdout.splitlines()] == [
        ["warning", "actors"], ["failed", "PostgreSQL"], ["failed", "RabbitMQ"],
    ]  # fmt: skip
    assert "secret" not in told.stdout + told.stderr


def test_missing_migrations_are_told(empty_database_url: str, cli: Cli) -> None:
    found = findings(cli, DATABASE_URL=empty_database_url)
    assert found["migrations"]["status"] == "failed"
    assert found["migrations"]["mend"] == "Run: outbox db upgrade"


def test_dead_processes_and_deserted_queues_are_told(scene: Scene, cli: Cli) -> None:
    scene.pending(queue="mail")
    scene.conn.execute("update outbox.worker set beat_at = now() - interval '1 minute'")
    found = findings(cli)
    assert [found[kind]["status"] for kind in ("relay", "worker", "scheduler")] == ["failed", "failed", "warning"]
    assert found["worker"]["mend"] == "Start: outbox worker"
    assert found["listeners"]["told"] == "no worker listens to mail"


@pytest.mark.parametrize(("age", "status"), [("1 second", "ok"), ("1 minute", "warning"), ("10 minutes", "failed")])
def test_the_age_of_the_backlog_is_judged(scene: Scene, cli: Cli, age: str, status: str) -> None:
    scene.pending()
    scene.conn.execute("update outbox.task set due_at = now() - %s::interval", [age])
    assert statuses(cli)["backlog"] == status


def test_a_paused_queue_is_told_and_its_backlog_is_nobodys_fault(scene: Scene, cli: Cli) -> None:
    scene.pending()
    scene.conn.execute("update outbox.task set due_at = now() - interval '1 hour'")
    scene.ledger.pause_queue(scene.conn, "default", who="ada")
    found = findings(cli)
    assert found["backlog"]["status"] == "ok"
    assert "paused by ada" in found["paused"]["told"]


def test_partitions_that_run_out_and_stray_rows_are_told(scene: Scene, cli: Cli) -> None:
    assert statuses(cli)["partitions"] == "ok"
    ahead = scene.conn.execute(
        "select relname from pg_class where relkind = 'r' and relname ~ '^history_[0-9]{8}$'"
        " and substr(relname, 9) >= to_char(now() at time zone 'utc', 'YYYYMMDD')"
    ).fetchall()
    for (name,) in ahead:
        scene.conn.execute(f"drop table outbox.{name}")
    scene.succeeded()
    found = statuses(cli)
    assert (found["partitions"], found["history_default"]) == ("warning", "warning")


def test_an_old_transaction_is_told_with_its_name(scene: Scene, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import timedelta

    monkeypatch.setattr("outbox.doctor.LONG_TRANSACTION", timedelta(0))
    with psycopg.connect(scene.url, application_name="a forgotten shell") as old:
        old.execute("set transaction isolation level repeatable read")
        old.execute("select count(*) from outbox.task")
        found = findings(cli)
    assert found["old snapshot"]["status"] == "warning"
    assert "a forgotten shell" in found["old snapshot"]["told"]


def test_autovacuum_switched_off_is_told(scene: Scene, cli: Cli) -> None:
    scene.conn.execute("alter table outbox.task set (autovacuum_enabled = false)")
    assert statuses(cli)["autovacuum"] == "failed"


def test_an_application_that_cannot_be_imported_is_told(scene: Scene, cli: Cli) -> None:
    assert statuses(cli, OUTBOX_APP="no_such_module")["actors"] == "failed"
    assert statuses(cli, OUTBOX_APP="no.such.module")["actors"] == "failed"


def test_doctor_changes_nothing(scene: Scene, cli: Cli) -> None:
    scene.pending(queue="mail")
    before = [scene.conn.execute(f"select * from outbox.{table}").fetchall() for table in ("task", "queue", "audit")]
    findings(cli)
    after = [scene.conn.execute(f"select * from outbox.{table}").fetchall() for table in ("task", "queue", "audit")]
    assert before == after


@pytest.mark.parametrize("action", ["message refused", "message set aside", "forged message refused"])
def test_whatever_is_kept_aside_is_told(scene: Scene, cli: Cli, action: str) -> None:
    assert "kept aside" not in findings(cli)
    Ledger().audit(scene.conn, who="worker", action=action, subject="queue mail", body_base64="")
    assert findings(cli)["kept aside"]["told"].startswith("1 messages")
