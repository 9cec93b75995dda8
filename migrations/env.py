"""Alembic's entry: the same for this repository's two branches (outbox, app) and for the wheel's one."""

from __future__ import annotations

from importlib import import_module

from alembic import context
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from outbox.settings import Settings

config = context.config
settings = Settings()
config.attributes.setdefault("outbox_schema", settings.schema_name)

names = [name.strip() for name in (config.get_main_option("metadata") or "outbox.models:metadata").split(",")]
target_metadata = [
    getattr(import_module(module), attribute) for module, attribute in (name.split(":") for name in names)
]
schemas = {metadata.schema for metadata in target_metadata}


def ours(name: str | None, kind: str, parents: dict[str, str | None]) -> bool:
    if kind == "schema":
        return name in schemas
    return not (
        kind == "table" and name is not None and parents.get("schema_name") == "outbox" and name.startswith("history_")
    )


options = {"target_metadata": target_metadata, "include_schemas": True, "include_name": ours}

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
