"""Lanes can be held.

Revision ID: outbox_0002
"""

from __future__ import annotations

from pathlib import Path

from outbox.db import run_script

revision = "outbox_0002"
down_revision = "outbox_0001"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent / "sql"


def upgrade() -> None:
    run_script(SQL / "0002_up.sql")


def downgrade() -> None:
    run_script(SQL / "0002_down.sql")
