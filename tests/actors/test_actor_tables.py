"""The tables of the actors: their migration makes what the models say, and can be taken back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from actors import tables

ROOT = Path(__file__).parents[2]


def alembic(url: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": url},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def connected(url: str) -> Connection:
    return create_engine(make_url(url).set(drivername="postgresql+psycopg"), poolclass=NullPool).connect()


def test_the_migrated_tables_are_those_of_the_models(database_url: str) -> None:
    ours = {table.name for table in tables.metadata.sorted_tables}

    def mine(name: str | None, kind: str, parents: dict[str, str | None]) -> bool:
        return name == "app" if kind == "schema" else kind != "table" or name in ours

    with connected(database_url) as connection:
        context = MigrationContext.configure(
            connection, opts={"include_schemas": True, "include_name": mine, "compare_server_default": True}
        )
        assert compare_metadata(context, tables.metadata) == []
        for table in tables.metadata.sorted_tables:
            found = {c["name"] for c in inspect(connection).get_check_constraints(table.name, schema="app")}
            assert found == {c.name for c in table.constraints if "Check" in type(c).__name__}


def test_the_migration_can_be_taken_back_and_made_again(empty_database_url: str) -> None:
    alembic(empty_database_url, "upgrade", "app@head")
    alembic(empty_database_url, "downgrade", "app@base")
    with connected(empty_database_url) as connection:
        assert inspect(connection).get_table_names(schema="app") == []
    alembic(empty_database_url, "upgrade", "app@head")
    with connected(empty_database_url) as connection:
        assert set(inspect(connection).get_table_names(schema="app")) >= {t.name for t in tables.metadata.sorted_tables}


def test_subscriptions_are_found_by_their_index(database_url: str) -> None:
    with connected(database_url) as connection:
        connection.execute(
            text(
                "insert into app.endpoint (id, url, event_types) "
                "select gen_random_uuid(), 'https://a.com/', array['t' || n] from generate_series(1, 20000) n"
            )
        )
        connection.execute(text("analyze app.endpoint"))
        plan = connection.execute(
            text("explain select * from app.endpoint where enabled and event_types && array['*', 't7', 't.*']")
        ).scalars()
        assert "endpoint_event_types" in "\n".join(plan)
