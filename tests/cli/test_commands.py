"""`outbox queues`, `workers`, `schedules`, `stats`, and what all commands have in common."""

from __future__ import annotations

import json
from uuid import UUID

import pytest

from tests.cli.conftest import Cli, Scene, lines


def test_queues_are_listed_with_and_without_the_word(scene: Scene, cli: Cli) -> None:
    scene.pending(2, queue="mail")
    for words in (["queues"], ["queues", "list"]):
        rows = {row[0]: row for row in lines(cli(*words).stdout)}
        assert rows["mail"][:4] == ["mail", "no", "0", "2"]
    document = json.loads(cli("queues", "--json").stdout)
    mail = next(item for item in document["items"] if item["name"] == "mail")
    assert mail["counts"] == {"pending": {"number": 2, "at_least": False}}


def test_a_queue_is_paused_and_resumed_by_whoever_says_so(scene: Scene, cli: Cli) -> None:
    (id,) = scene.published(queue="mail")
    assert cli("queues", "pause", "mail", "--who", "ada").exit_code == 0
    assert scene.state(id) == "pending"
    assert json.loads(cli("queues", "--json").stdout)["items"][1]["paused_by"] == "ada"
    assert cli("queues", "resume", "mail").exit_code == 0
    again = cli("queues", "resume", "mail")
    assert (again.exit_code, "not paused" in again.stderr) == (4, True)
    assert cli("queues", "pause", "mial").exit_code == 3


def test_the_default_name_in_the_audit_is_user_at_host(scene: Scene, cli: Cli) -> None:
    (id,) = scene.dead()
    cli("tasks", "retry", str(id))
    ((who, _, _),) = scene.audit()
    assert who.count("@") == 1


def test_workers_are_listed(scene: Scene, cli: Cli) -> None:
    (row,) = lines(cli("workers").stdout)
    assert row[:5] == [str(scene.worker), "worker", "here", "42", "yes"]
    (item,) = json.loads(cli("workers", "--json").stdout)["items"]
    assert (item["id"], item["lease"], item["running"]) == (str(scene.worker), 10, [])


def test_stats_total_first_then_by_actor(scene: Scene, cli: Cli) -> None:
    scene.succeeded(3, actor="send")
    scene.dead(actor="draw")
    total, send, draw = lines(cli("stats").stdout)
    assert (total[:5], send[:5], draw[:5]) == (
        ["*", "3", "1", "0", "1"], ["send", "3", "0", "0", "0"], ["draw", "0", "1", "0", "1"],
    )  # fmt: skip
    assert json.loads(cli("stats", "--since", "2h", "--json").stdout)["total"]["succeeded"] == 3
    assert cli("stats", "--since", "soon").exit_code == 2


def test_schedules_are_listed_run_paused_and_resumed(scene: Scene, cli: Cli) -> None:
    scene.conn.execute(
        "insert into outbox.schedule (name, actor, queue, cron, zone, fired_through)"
        " values ('nightly', 'report', 'default', '0 2 * * *', 'Europe/Paris', clock_timestamp())"
    )
    (row,) = lines(cli("schedules").stdout)
    assert row[:7] == ["nightly", "report", "default", "0 2 * * *", "Europe/Paris", "active", ""]
    assert row[8]
    told = cli("schedules", "run", "nightly", "--who", "ada")
    assert scene.state(UUID(told.stdout.strip())) == "pending"
    assert cli("schedules", "pause", "nightly").exit_code == 0
    (item,) = json.loads(cli("schedules", "list", "--json").stdout)["items"]
    assert (item["paused"], item["next_fire_at"], item["last_outcome"]) == (True, None, "by hand")
    assert cli("schedules", "resume", "nightly").exit_code == 0
    assert cli("schedules", "resume", "nightly").exit_code == 4
    for act in ("run", "pause", "resume"):
        assert cli("schedules", act, "no_such").exit_code == 3
    assert [action for _, action, _ in scene.audit()] == ["run schedule", "pause schedule", "resume schedule"]


NOWHERE = "postgresql://u:secret@127.0.0.1:1/none"


@pytest.mark.parametrize(
    "words", [["tasks", "list"], ["queues"], ["workers"], ["stats"], ["schedules"], ["purge", "--yes"], ["db", "current"]]
)  # fmt: skip
def test_without_postgresql_every_command_says_so_and_exits_69(cli: Cli, words: list[str]) -> None:
    told = cli(*words, env={"DATABASE_URL": NOWHERE})
    assert (told.exit_code, told.stdout) == (69, "")
    assert told.stderr.startswith("error: PostgreSQL is not available")
    assert "next:" in told.stderr
    assert "secret" not in told.stderr


def test_without_the_tables_the_next_step_is_named(empty_database_url: str, cli: Cli) -> None:
    told = cli("tasks", "list", env={"DATABASE_URL": empty_database_url})
    assert told.exit_code == 78
    assert "outbox db upgrade" in told.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [("OUTBOX_LEASE", "soon"), ("OUTBOX_RELAY_BATCH", "0"), ("OUTBOX_SCHEMA", "drop table"), ("LOG_FORMAT", "xml"),
     ("DATABASE_URL", "not a url")],
)  # fmt: skip
def test_a_setting_that_makes_no_sense_is_named(cli: Cli, name: str, value: str) -> None:
    told = cli("tasks", "list", env={name: value})
    assert told.exit_code == 78
    assert f"{name}" in told.stderr
    assert "Traceback" not in told.stderr


def test_debug_shows_the_traceback(cli: Cli) -> None:
    told = cli("--debug", "tasks", "list", env={"DATABASE_URL": NOWHERE})
    assert type(told.exception).__name__ == "OperationalError"


def test_a_bug_of_ours_is_told_in_one_sentence(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outbox.reads.Reader.workers", lambda *_: 1 / 0)
    told = cli("workers")
    assert (told.exit_code, told.stdout) == (1, "")
    assert (
        told.stderr
        == "error: ZeroDivisionError: division by zero\nnext:  Run it again with --debug: outbox --debug …\n"
    )


@pytest.mark.parametrize(
    "words",
    [["relay"], ["worker"], ["scheduler"], ["db"], ["db", "upgrade"], ["db", "current"], ["db", "check"],
     ["db", "downgrade"], ["db", "sql"], ["tasks"], ["tasks", "list"], ["tasks", "show"], ["tasks", "retry"],
     ["tasks", "cancel"], ["tasks", "reschedule"], ["queues"], ["queues", "list"], ["queues", "pause"],
     ["queues", "resume"], ["workers"], ["schedules"], ["schedules", "list"], ["schedules", "run"],
     ["schedules", "pause"], ["schedules", "resume"], ["stats"], ["doctor"], ["purge"]],
)  # fmt: skip
def test_every_command_explains_itself(cli: Cli, words: list[str]) -> None:
    told = cli(*words, "--help", env={"DATABASE_URL": NOWHERE})
    assert told.exit_code == 0
    assert "Usage: outbox" in told.stdout


@pytest.mark.parametrize("name", ["relay", "worker", "scheduler"])
def test_the_help_of_a_process_lists_every_variable(cli: Cli, name: str) -> None:
    from outbox.settings import Settings

    told = cli(name, "--help").stdout
    for field, options in Settings.model_fields.items():
        assert str(options.validation_alias or f"OUTBOX_{field.upper()}") in told


def test_the_exit_codes_stand_in_the_help(cli: Cli) -> None:
    from outbox.cli.exits import Exit

    told = " ".join(cli("--help").stdout.split())
    for code in Exit:
        assert f" {code.value} " in told
