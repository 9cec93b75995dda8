"""Retention: a mail that goes is looked for among the receipts.

Revision ID: app_0003
"""

from __future__ import annotations

from alembic import op

revision = "app_0003"
down_revision = "app_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("receipt_mail", "receipt", ["mail_id"], schema="app")


def downgrade() -> None:
    op.drop_index("receipt_mail", "receipt", schema="app")
