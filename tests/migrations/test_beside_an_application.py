"""The outbox beside an application that has its own Alembic: whichever runs, and however often, disturbs the other nowhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.config import Config

from deploy.local.place import ROOT
from outbox import db
from outbox.settings import Settings

ENV = """
import os
from alembic import context
from sqlalchemy import create_engine

engine = create_engine(os.environ["DATABASE_URL"].replace("postgresql:", "postgresql+psycopg:"))
with engine.connect() as connection:
    context.configure(connection=connection, OPTIONS)
    with context.begin_transaction():
        context.run_migrations()
"""
ONE = """
from alembic import op
revision, down_revision = "theirs_1", None


def upgrade():
    op.execute("create table theirs ()")


def downgrade():
    op.execute("drop table theirs")
"""

MakeTheirs = Callable[..., Config]


@pytest.fixture
def url(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty database that the environment names."""
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    return empty_database_url


@pytest.fixture
def theirs(tmp_path: Path) -> MakeTheirs:
    """Writes an application's Alembic into this test's directory; answers its configuration."""

    def make(*, options: str = "", with_ours: bool = False) -> Config:
        (tmp_path / "theirs" / "versions").mkdir(parents=True)
        (tmp_path / "theirs" / "env.py").write_text(ENV.replace("OPTIONS", options))
        (tmp_path / "theirs" / "versions" / "one.py").write_text(ONE)
        ours = f":{ROOT}/migrations/outbox" if with_ours else ""
        (tmp_path / "alembic.ini").write_text(
            f"[alembic]\nscript_location = {tmp_path}/theirs\npath_separator = :\n"
            f"version_locations = {tmp_path}/theirs/versions{ours}\n"
        )
        return Config(str(tmp_path / "alembic.ini"))

    return make


def versions(url: str, table: str = "alembic_version") -> list[str]:
    with psycopg.connect(url) as conn:
        return [row for (row,) in conn.execute(f"select version_num from {table} order by 1").fetchall()]  # type: ignore[arg-type]


def there(url: str, *tables: str) -> list[bool]:
    with psycopg.connect(url) as conn:
        return [conn.execute("select to_regclass(%s) is not null", [each]).fetchall()[0][0] for each in tables]


def test_two_histories_in_one_database_each_go_up_twice_and_down(url: str, theirs: MakeTheirs, tmp_path: Path) -> None:
    application, ours = theirs(), db.configuration(tmp_path)
    for _ in range(2):
        command.upgrade(application, "heads")
        db.upgrade(ours)
    assert there(url, "theirs", "outbox.task") == [True, True]
    assert (versions(url), versions(url, "outbox_alembic_version")) == (["theirs_1"], ["outbox_0003"])
    assert db.check(ours) == []
    db.downgrade(ours, to="base")
    assert there(url, "theirs", "outbox.task") == [True, False]
    db.upgrade(ours)
    command.downgrade(application, "base")
    assert there(url, "theirs", "outbox.task") == [False, True]
    assert db.revisions(ours, Settings()).at_head


def test_an_alembic_ini_that_includes_the_outbox_decides(url: str, theirs: MakeTheirs, tmp_path: Path) -> None:
    theirs(with_ours=True)
    both = db.configuration(tmp_path)
    for _ in range(2):
        db.upgrade(both)
    assert there(url, "theirs", "outbox.task", "outbox_alembic_version") == [True, True, False]
    assert db.revisions(both, Settings()).current == ["outbox_0003", "theirs_1"]


def test_an_alembic_ini_without_scripts_is_nobody_s(url: str, tmp_path: Path) -> None:
    (tmp_path / "alembic.ini").write_text("[tenants]\nscript_location = elsewhere\n")
    db.upgrade(db.configuration(tmp_path))
    assert there(url, "outbox.task") == [True]


@pytest.mark.parametrize(
    "options", ["version_table='theirs_versions'", "version_table_schema='kept'"], ids=["name", "schema"]
)
def test_an_application_s_own_version_table_is_found_from_its_directory_and_from_elsewhere(
    url: str, theirs: MakeTheirs, tmp_path: Path, options: str
) -> None:
    with psycopg.connect(url) as conn:
        conn.execute("create schema kept")
    theirs(options=options, with_ours=True)
    db.upgrade(db.configuration(tmp_path))
    for config in (db.configuration(tmp_path), db.packaged()):
        db.upgrade(config)
        assert db.revisions(config, Settings()).at_head
    assert there(url, "outbox_alembic_version", "alembic_version") == [False, False]


def test_what_was_upgraded_through_the_shared_table_goes_on_there_and_leaves_the_others_alone(
    url: str, theirs: MakeTheirs
) -> None:
    earlier, ours = db.packaged(), db.packaged()
    earlier.attributes["alone"] = False
    db.upgrade(earlier)
    with psycopg.connect(url) as conn:
        conn.execute("insert into alembic_version values ('theirs_1')")
    db.upgrade(ours)
    assert db.revisions(ours, Settings()).at_head
    assert db.check(ours) == []
    assert there(url, "outbox_alembic_version") == [False]
    db.downgrade(ours, to="base")
    assert (there(url, "outbox.task"), versions(url)) == ([False], ["theirs_1"])
    db.upgrade(ours)
    assert (versions(url), versions(url, "outbox_alembic_version")) == (["theirs_1"], ["outbox_0003"])


def test_each_schema_has_a_history_of_its_own(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for schema in ("outbox", "other", "outbox", "other"):
        monkeypatch.setenv("OUTBOX_SCHEMA", schema)
        db.upgrade(db.packaged())
    assert there(url, "outbox.task", "other.task") == [True, True]
    db.downgrade(db.packaged(), to="base")
    assert there(url, "outbox.task", "other.task") == [True, False]


def test_a_database_ahead_of_the_program_misses_nothing(url: str) -> None:
    ours = db.packaged()
    db.upgrade(ours)
    with psycopg.connect(url) as conn:
        conn.execute("update outbox_alembic_version set version_num = 'outbox_9999'")
    found = db.revisions(ours, Settings())
    assert (found.current, found.missing) == (["outbox_9999"], [])
