"""`outbox db`: the application's own alembic.ini where there is one, else what the package carries."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from outbox import db
from tests.cli.conftest import Cli


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_an_alembic_ini_the_outbox_alone_is_migrated_up_down_and_up(
    empty_database_url: str, elsewhere: Path, cli: Cli
) -> None:
    env = {"DATABASE_URL": empty_database_url}
    told = cli("db", "current", env=env)
    assert told.stdout.splitlines()[0].split("\t") == ["outbox_0001", "missing"]
    assert cli("db", "check", env=env).exit_code == 1
    assert json.loads(cli("db", "upgrade", "--json", env=env).stdout)["applied"][0] == "outbox_0001"
    assert cli("db", "upgrade", env=env).stderr.endswith("Nothing was missing.\n")
    assert cli("db", "check", env=env).exit_code == 0
    assert "missing" not in cli("db", "current", env=env).stdout
    told = cli("db", "downgrade", "base", env=env, stdin="n\n")
    assert (told.exit_code, "Nothing was done." in told.stderr) == (1, True)
    assert cli("db", "downgrade", "base", "--yes", env=env).exit_code == 0
    with psycopg.connect(empty_database_url) as conn:
        assert conn.execute("select to_regclass('outbox.task')").fetchone() == (None,)
    assert cli("db", "upgrade", env=env).exit_code == 0
    assert cli("tasks", "list", env=env).exit_code == 0


def test_a_table_changed_by_hand_is_noticed(empty_database_url: str, elsewhere: Path, cli: Cli) -> None:
    env = {"DATABASE_URL": empty_database_url}
    cli("db", "upgrade", env=env)
    with psycopg.connect(empty_database_url) as conn:
        conn.execute("alter table outbox.queue add column extra text")
    told = cli("db", "check", "--json", env=env)
    assert told.exit_code == 1
    assert "extra" in json.loads(told.stdout)["differences"][0]


def test_the_sql_needs_no_database_and_makes_the_same_tables(
    empty_database_url: str, elsewhere: Path, cli: Cli
) -> None:
    told = cli("db", "sql", env={"DATABASE_URL": "postgresql://127.0.0.1:1/none"})
    assert told.exit_code == 0
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        conn.execute(told.stdout.encode())
    env = {"DATABASE_URL": empty_database_url}
    assert cli("db", "current", env=env).stdout.splitlines() == ["outbox_0003\tapplied"]
    assert cli("db", "check", env=env).exit_code == 0


def test_an_alembic_ini_without_the_outbox_does_not_hide_it(empty_database_url: str, elsewhere: Path, cli: Cli) -> None:
    (elsewhere / "alembic.ini").write_text("[alembic]\nscript_location = theirs\n")
    versions = elsewhere / "theirs" / "versions"
    versions.mkdir(parents=True)
    (elsewhere / "theirs" / "env.py").write_text("raise AssertionError('nobody asked for theirs')\n")
    (versions / "one.py").write_text("revision, down_revision = 'theirs_1', None\ndef upgrade(): ...\n")
    env = {"DATABASE_URL": empty_database_url}
    assert json.loads(cli("db", "upgrade", "--json", env=env).stdout)["applied"] == [
        "outbox_0001",
        "outbox_0002",
        "outbox_0003",
    ]
    assert cli("tasks", "list", env=env).exit_code == 0


def test_each_migration_is_told_as_it_begins(empty_database_url: str, elsewhere: Path, cli: Cli) -> None:
    env = {"DATABASE_URL": empty_database_url}
    told = cli("db", "upgrade", env=env).stderr.splitlines()
    assert (told[0].split(",")[0], told[-1]) == (
        "Running upgrade  -> outbox_0001",
        "Applied outbox_0001, outbox_0002, outbox_0003.",
    )
    told = cli("db", "downgrade", "base", "--yes", "--json", env=env)
    assert json.loads(told.stdout) == {"taken_back": ["outbox_0003", "outbox_0002", "outbox_0001"], "current": []}
    assert told.stderr.startswith("Running downgrade outbox_0003 -> outbox_0002")


def test_the_help_names_the_variables(cli: Cli) -> None:
    told = cli("db", "--help").stdout
    assert "DATABASE_URL" in told
    assert "OUTBOX_SCHEMA" in told


def test_an_unknown_revision_is_told_in_a_sentence(database_url: str, elsewhere: Path, cli: Cli) -> None:
    told = cli("db", "upgrade", "nonsense")
    assert told.exit_code == 78
    assert "nonsense" in told.stderr
    assert "Traceback" not in told.stderr


def test_revisions_of_other_branches_are_not_missed(database_url: str, elsewhere: Path) -> None:
    """The repository's own branches (outbox, app) are applied: the outbox's part is at head."""
    from outbox.settings import Settings

    found = db.revisions(db.configuration(), Settings.model_validate({"DATABASE_URL": database_url}))
    assert found.at_head
    assert len(found.heads) == 1
