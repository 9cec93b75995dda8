"""What a dashboard reads: figures by the minute, failures by their kind, acts on many tasks.

Revision ID: outbox_0003
"""

from __future__ import annotations

from pathlib import Path

from outbox.db import run_script

revision = "outbox_0003"
down_revision = "outbox_0002"
branch_labels = None
depends_on = None

SQL = Path(__file__).parent / "sql"


def upgrade() -> None:
    run_script(SQL / "0003_up.sql")


def downgrade() -> None:
    run_script(SQL / "0003_down.sql")
