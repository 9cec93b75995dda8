"""The outbox: tasks, history, dead, queues, workers, schedules, audit.

Revision ID: outbox_0001
"""

from __future__ import annotations

from pathlib import Path

from outbox.db import run_script

revision = "outbox_0001"
down_revision = None
branch_labels = ("outbox",)
depends_on = None

SQL = Path(__file__).parent / "sql"


def upgrade() -> None:
    run_script(SQL / "0001_up.sql")


def downgrade() -> None:
    run_script(SQL / "0001_down.sql")
