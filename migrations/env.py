"""Alembic's entry: the same for this repository's two branches (outbox, app) and for the wheel's one."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from alembic import context
from sqlalchemy import Connection, MetaData, create_engine, event
from sqlalchemy.pool import NullPool

from outbox import db
from outbox.settings import Settings

config = context.config
settings = Settings()
alone = config.attributes.get("alone", False)

names = [name.strip() for name in (config.get_main_option("metadata") or "outbox.models:metadata").split(",")]


def where_it_is(metadata: MetaData) -> MetaData:
    """The tables as models say, the outbox's in the schema that OUTBOX_SCHEMA gives them."""
    if metadata.schema != "outbox" or settings.schema_name == "outbox":
        return metadata
    moved = MetaData(schema=settings.schema_name)
    for table in metadata.sorted_tables:
        table.to_metadata(moved, schema=settings.schema_name)
    return moved


target_metadata = [
    where_it_is(getattr(import_module(module), attribute)) for module, attribute in (name.split(":") for name in names)
]
schemas = {metadata.schema for metadata in target_metadata}


def ours(name: str | None, kind: str, parents: dict[str, str | None]) -> bool:
    if kind == "schema":
        return name in schemas
    own = parents.get("schema_name") == settings.schema_name
    return not (kind == "table" and name is not None and own and name.startswith("history_"))


options: dict[str, Any] = {"target_metadata": target_metadata, "include_schemas": True, "include_name": ours}


def history(connection: Connection | None) -> dict[str, str]:
    """Alone, the outbox keeps its history apart; among the branches of an alembic.ini it shares that one's."""
    if not alone:
        return {}
    begun = connection is not None and connection.in_transaction()
    found = (
        db.version_table(connection, settings.schema_name) if connection else db.VersionTable.own(settings.schema_name)
    )
    if connection and not begun:
        connection.rollback()  # Alembic commits only a transaction that it opened
    return {"version_table": found.name, "version_table_schema": found.schema}


def migrate(connection: Connection) -> None:
    context.configure(connection=connection, **options, **history(connection))
    if alone:  # in a table shared with others, theirs are unknown here, and stay untouched
        migration = context.get_context()
        read = migration.get_current_heads
        migration.get_current_heads = lambda: tuple(filter(db.is_ours, read()))
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    context.configure(
        url=settings.sqlalchemy_url,
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},  # else every % of a script is doubled
        **options,
        **history(None),
    )
    with context.begin_transaction():
        context.run_migrations()
elif (given := config.attributes.get("connection")) is not None:
    migrate(given)
else:
    # PgBouncer in transaction mode takes neither prepared statements nor start-up options.
    engine = create_engine(settings.sqlalchemy_url, poolclass=NullPool, connect_args={"prepare_threshold": None})

    # A role that is named like the schema would otherwise make the schema its default one, unseen by the comparison.
    @event.listens_for(engine, "begin")
    def look_in_public(connection: Connection) -> None:
        connection.exec_driver_sql("set local search_path = public")
        # Who waits for a table has everybody wait behind it: `outbox db` lets go, and tries again.
        connection.exec_driver_sql("set local lock_timeout = '1s'")

    with engine.connect() as connection:
        engine.dialect.default_schema_name = "public"  # the dialect asked for it before it began anything
        migrate(connection)
