"""Lanes can be held.

Revision ID: outbox_0002
"""

from __future__ import annotations

import re
from pathlib import Path

from alembic import context, op

from outbox.settings import Settings

revision = "outbox_0002"
down_revision = "outbox_0001"
branch_labels = None
depends_on = None


def _script(name: str) -> str:
    text = (Path(__file__).parent / "sql" / name).read_text(encoding="utf-8")
    return re.sub(r"\boutbox\b", Settings().schema_name, text)


def _run(script: str) -> None:
    """As it stands: many statements, their `%` and `:` untouched, also through an application's own env.py."""
    if context.is_offline_mode():
        op.get_context().impl.static_output(script)
    else:
        op.get_bind().exec_driver_sql(script, execution_options={"no_parameters": True})


def upgrade() -> None:
    _run(_script("0002_up.sql"))


def downgrade() -> None:
    _run(_script("0002_down.sql"))
