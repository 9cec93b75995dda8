"""The migrations: up, down and up again make the same tables, those that the models say, in any schema and by any road."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from outbox_rows import Outbox
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

from deploy.local.place import ROOT
from outbox import OutboxBroker, db, models, purge
from outbox.reads import Reader

#: Everything that makes a table what it is, a line each, without the days of the history.
SHAPE = """
select format('column %%s.%%s %%s %%s %%s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
    a.attnotnull, pg_get_expr(d.adbin, d.adrelid))
from pg_attribute a
join pg_class c on c.oid = a.attrelid
left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
where c.relnamespace = %(schema)s::regnamespace and c.relkind in ('r', 'p') and a.attnum > 0 and not a.attisdropped
and c.relname !~ '^history_'
union all
select format('constraint %%s.%%s %%s', c.relname, k.conname, pg_get_constraintdef(k.oid))
from pg_constraint k
join pg_class c on c.oid = k.conrelid
where k.connamespace = %(schema)s::regnamespace and k.contype <> 'n' and c.relname !~ '^history_'
union all
select format('index %%s', pg_get_indexdef(i.indexrelid))
from pg_index i
join pg_class c on c.oid = i.indrelid
where c.relnamespace = %(schema)s::regnamespace and c.relname !~ '^history_'
order by 1
"""
MORE = """
select format('function %%s %%s', proname, prosrc) from pg_proc where pronamespace = %(schema)s::regnamespace
union all
select format('trigger %%s', pg_get_triggerdef(t.oid)) from pg_trigger t
join pg_class c on c.oid = t.tgrelid
where c.relnamespace = %(schema)s::regnamespace and not t.tgisinternal
union all
select format('partition %%s', relname) from pg_class
where relnamespace = %(schema)s::regnamespace and relispartition and relkind = 'r'
order by 1
"""


def shape(url: str, schema: str, *, more: bool = False) -> list[str]:
    with psycopg.connect(url, options="-c search_path=pg_catalog") as conn:
        rows = conn.execute(SHAPE, {"schema": schema}).fetchall()
        rows += conn.execute(MORE, {"schema": schema}).fetchall() if more else []
    return [row for (row,) in rows]


def relations(url: str) -> list[str]:
    """Tables, sequences and functions outside the system's schemas."""
    with psycopg.connect(url) as conn:
        rows = conn.execute("""
            select relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where n.nspname !~ '^pg_' and n.nspname <> 'information_schema' and relkind in ('r', 'p', 'S', 'v')
            union all
            select proname::text from pg_proc p join pg_namespace n on n.oid = p.pronamespace
            where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
            order by 1
        """).fetchall()
    return [name for (name,) in rows]


@pytest.fixture
def url(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty database that the environment names."""
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    return empty_database_url


@pytest.fixture
def config() -> Config:
    """The repository's own two branches."""
    return db.configuration(ROOT)


@pytest.fixture
def packaged(tmp_path: Path) -> Config:
    """The outbox's branch alone, as an application without an alembic.ini has it."""
    return db.configuration(tmp_path)


# ---------------------------------------------------------------------- up, down, up


def test_both_branches_go_up_down_and_up_to_the_same_tables(url: str, config: Config) -> None:
    db.upgrade(config)
    first = [shape(url, schema, more=True) for schema in ("outbox", "app")]
    assert all(first)
    db.downgrade(config, to="base")
    assert relations(url) == ["alembic_version"]
    db.upgrade(config)
    assert [shape(url, schema, more=True) for schema in ("outbox", "app")] == first


def test_each_step_goes_down_and_up_by_itself(url: str, config: Config) -> None:
    db.upgrade(config)
    before = [shape(url, schema, more=True) for schema in ("outbox", "app")]
    revisions = {"outbox": "outbox@-1", "app": "app@-1"}
    for step in revisions.values():
        db.downgrade(config, to=step)
        assert [shape(url, schema, more=True) for schema in ("outbox", "app")] != before
        db.upgrade(config)
        assert [shape(url, schema, more=True) for schema in ("outbox", "app")] == before


def test_the_outbox_s_branch_stands_without_the_application_s(url: str, config: Config) -> None:
    db.upgrade(config, to="outbox@head")
    assert shape(url, "outbox")
    with psycopg.connect(url) as conn:
        assert conn.execute("select to_regnamespace('app')").fetchone() == (None,)


def test_a_downgrade_takes_tables_full_of_tasks_and_days_of_history(url: str, packaged: Config) -> None:
    db.upgrade(packaged)
    outbox = Outbox(url)
    outbox.add()
    outbox.add(ordering_key="k")
    outbox.succeed(outbox.must_claim(outbox.add(), outbox.a_worker()))
    outbox.close()
    db.downgrade(packaged, to="base")
    assert relations(url) == ["outbox_alembic_version"]


def test_an_upgrade_that_fails_leaves_nothing_behind(url: str, packaged: Config) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("create schema outbox")
        conn.execute("create table outbox.audit ()")
    with pytest.raises(Exception, match="already exists"):
        db.upgrade(packaged)
    assert "task" not in relations(url)
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("drop table outbox.audit")
    db.upgrade(packaged)


# ---------------------------------------------------------------------- no drift


def test_the_tables_are_those_of_the_models(url: str, config: Config) -> None:
    db.upgrade(config)
    assert db.check(config) == []


def test_so_are_what_alembic_does_not_compare_checks_defaults_and_partial_indexes(
    url: str, packaged: Config, new_database: Callable[[str], str]
) -> None:
    db.upgrade(packaged)
    other = new_database("template1")
    engine = create_engine(make_url(other).set(drivername="postgresql+psycopg"))
    with engine.begin() as conn:
        conn.exec_driver_sql("create schema outbox")
        models.metadata.create_all(conn)
    engine.dispose()
    assert shape(url, "outbox") == shape(other, "outbox")


# ---------------------------------------------------------------------- another schema


@pytest.fixture
def broker(url: str, monkeypatch: pytest.MonkeyPatch) -> OutboxBroker:
    """A broker of a service whose environment says OUTBOX_SCHEMA=other."""
    monkeypatch.setenv("OUTBOX_SCHEMA", "other")
    return OutboxBroker()


@pytest.fixture
def elsewhere(url: str, broker: OutboxBroker, packaged: Config) -> Iterator[Outbox]:
    db.upgrade(packaged)
    outbox = Outbox(url, schema="other")
    yield outbox
    outbox.close()


def test_in_another_schema_a_task_goes_all_the_way(elsewhere: Outbox, packaged: Config) -> None:
    conn, ledger = elsewhere.conn, elsewhere.ledger
    assert conn.execute("select to_regnamespace('outbox')").fetchall() == [(None,)]
    id, follower = elsewhere.add(ordering_key="k"), elsewhere.add(ordering_key="k")
    again = elsewhere.add(unique_key="once")
    assert elsewhere.add(unique_key="once") == again
    assert elsewhere.state(follower) == "waiting"
    with conn.transaction():
        queues = ledger.register_queues(conn)
        due = [each.id for each in ledger.claim_due(conn, room=dict.fromkeys(queues, 10), batch=10)]
        assert ledger.mark_published(conn, due, epochs=dict.fromkeys(queues, 0)) == 2
    worker = elsewhere.a_worker()
    elsewhere.succeed(elsewhere.must_claim(id, worker))
    elsewhere.end_dead(elsewhere.must_claim(again, worker))
    assert elsewhere.fail(elsewhere.must_claim(follower, worker)) == [follower]
    assert (elsewhere.promote(), elsewhere.sweep()) == (1, 0)
    with conn.transaction():
        assert ledger.retry(conn, again)
        assert ledger.cancel(conn, follower, reason="x") == "cancelled"
        ledger.audit(conn, who="me", action="cancel", subject=str(follower))
    assert [elsewhere.state(each) for each in (id, follower, again)] == ["succeeded", "cancelled", "pending"]
    assert Reader("other").task(conn, id) is not None


def test_in_another_schema_the_days_are_kept_and_purged(elsewhere: Outbox) -> None:
    conn, month = elsewhere.conn, timedelta(days=30)
    assert elsewhere.ledger.keep_partitions(conn, days_ahead=8) == 1
    conn.execute(
        "create table other.history_20250102 partition of other.history"
        " for values from ('2025-01-02T00:00:00Z') to ('2025-01-03T00:00:00Z')"
    )
    plan = purge.look(conn, elsewhere.ledger, history=month, dead=month)
    assert [step.name for step in purge.purge(conn, elsewhere.ledger, plan)] == ["history_20250102"]


def test_in_another_schema_there_is_no_drift_and_a_downgrade_leaves_nothing(
    elsewhere: Outbox, packaged: Config, new_database: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert db.check(packaged) == []
    with psycopg.connect(elsewhere.url, autocommit=True) as conn:
        conn.execute("alter table other.queue add column extra text")
        assert "extra" in "".join(db.check(packaged))
        conn.execute("alter table other.queue drop column extra")
    named = [line.replace("other.", "outbox.") for line in shape(elsewhere.url, "other", more=True)]
    db.downgrade(packaged, to="base")
    assert relations(elsewhere.url) == ["other_alembic_version"]
    monkeypatch.delenv("OUTBOX_SCHEMA")
    db.upgrade(packaged)
    assert sorted(named) == sorted(shape(elsewhere.url, "outbox", more=True))


# ---------------------------------------------------------------------- other roads


@pytest.mark.parametrize("schema", ["outbox", "other"])
def test_the_sql_of_both_branches_makes_the_same_tables_as_the_upgrade(
    url: str, new_database: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, schema: str
) -> None:
    monkeypatch.setenv("OUTBOX_SCHEMA", schema)
    db.upgrade(db.configuration(ROOT))
    told, by_hand = io.StringIO(), new_database("template1")
    config = db.configuration(ROOT)
    config.output_buffer = told
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:1/none")
    db.sql(config)
    with psycopg.connect(by_hand, autocommit=True) as conn:
        conn.execute(told.getvalue().encode())
    assert [shape(by_hand, name, more=True) for name in (schema, "app")] == [
        shape(url, name, more=True) for name in (schema, "app")
    ]


def test_the_sql_of_a_downgrade_leaves_nothing(url: str, packaged: Config) -> None:
    db.upgrade(packaged)
    packaged.output_buffer = told = io.StringIO()
    command.downgrade(packaged, "outbox_0003:base", sql=True)
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(told.getvalue().encode())
    assert relations(url) == ["outbox_alembic_version"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as the wheel lays it out, by what pyproject.toml says of it."""
    site = tmp_path_factory.mktemp("site")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    for source, target in [*((name, name) for name in wheel["packages"]), *wheel["force-include"].items()]:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, site / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, site / target)
    return site


def run(installed: Path, cwd: Path, *arguments: str) -> None:
    told = subprocess.run(
        [sys.executable, "-P", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert told.returncode == 0, told.stderr


def test_an_installed_package_migrates_from_an_empty_directory(url: str, installed: Path, tmp_path: Path) -> None:
    run(installed, tmp_path, "-m", "outbox.cli", "db", "upgrade")
    assert shape(url, "outbox", more=True)
    assert list(tmp_path.iterdir()) == []


ENV_SYNC = """
import os
from alembic import context
from sqlalchemy import create_engine

engine = create_engine(os.environ["DATABASE_URL"].replace("postgresql:", "postgresql+psycopg:"))
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
ENV_ASYNC = """
import asyncio, os
from alembic import context
from sqlalchemy.ext.asyncio import create_async_engine


def migrate(connection):
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()


async def run():
    engine = create_async_engine(os.environ["DATABASE_URL"].replace("postgresql:", "postgresql+psycopg:"))
    async with engine.connect() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()


asyncio.run(run())
"""
THEIRS = """
from alembic import op
revision, down_revision = "theirs_1", None


def upgrade():
    op.execute("create table theirs ()")
"""


@pytest.mark.parametrize(("env", "schema"), [(ENV_SYNC, "outbox"), (ENV_ASYNC, "other")], ids=["sync", "async"])
def test_an_application_migrates_the_outbox_among_its_own_tables(
    url: str, installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env: str, schema: str
) -> None:
    """With `outbox:migrations/versions` among its version_locations, whatever its own env.py looks like."""
    monkeypatch.setenv("OUTBOX_SCHEMA", schema)
    (tmp_path / "theirs" / "versions").mkdir(parents=True)
    (tmp_path / "theirs" / "env.py").write_text(env)
    (tmp_path / "theirs" / "versions" / "one.py").write_text(THEIRS)
    (tmp_path / "alembic.ini").write_text(
        "[alembic]\nscript_location = theirs\npath_separator = space\n"
        "version_locations = theirs/versions outbox:migrations/versions\n"
    )
    run(installed, tmp_path, "-m", "alembic", "upgrade", "heads")
    assert shape(url, schema, more=True)
    assert "theirs" in relations(url)
