"""The outbox: tasks, history, dead, queues, workers, schedules, audit.

Revision ID: outbox_0001
"""

from __future__ import annotations

from pathlib import Path

from alembic import context, op

revision = "outbox_0001"
down_revision = None
branch_labels = ("outbox",)
depends_on = None


def _script(name: str) -> str:
    schema = context.config.attributes.get("outbox_schema", "outbox")
    text = (Path(__file__).parent / "sql" / name).read_text(encoding="utf-8")
    return text.replace("outbox.", f"{schema}.").replace("schema outbox", f"schema {schema}")


def _run(script: str) -> None:
    if context.is_offline_mode():
        op.execute(script)
    else:
        op.get_bind().connection.driver_connection.execute(script)


def upgrade() -> None:
    _run(_script("0001_up.sql"))


def downgrade() -> None:
    _run(_script("0001_down.sql"))
