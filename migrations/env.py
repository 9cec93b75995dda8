"""Alembic's entry: the same for this repository's two branches (outbox, app) and for the wheel's one."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from alembic import context
from sqlalchemy import MetaData, create_engine
from sqlalchemy.pool import NullPool

from outbox.settings import Settings

config = context.config
settings = Settings()

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

if context.is_offline_mode():
    context.configure(
        url=settings.sqlalchemy_url,
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},  # else every % of a script is doubled
        **options,
    )
    with context.begin_transaction():
        context.run_migrations()
elif (given := config.attributes.get("connection")) is not None:
    context.configure(connection=given, **options)
    with context.begin_transaction():
        context.run_migrations()
else:
    # A role that is named like the schema would otherwise make the schema its default one, unseen by the comparison.
    engine = create_engine(
        settings.sqlalchemy_url, poolclass=NullPool, connect_args={"options": "-c search_path=public"}
    )
    with engine.connect() as connection:
        context.configure(connection=connection, **options)
        with context.begin_transaction():
            context.run_migrations()
