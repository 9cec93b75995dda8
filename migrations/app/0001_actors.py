"""What leaves the house: mails, endpoints and their secrets, payloads, deliveries, receipts, counters.

Revision ID: app_0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "app_0001"
down_revision = None
branch_labels = ("app",)
depends_on = None

INSTANT = sa.DateTime(timezone=True)
NOW = sa.text("clock_timestamp()")
ZERO = sa.text("0")
NOTHING = sa.text("''")


def upgrade() -> None:
    op.execute("create schema if not exists app")
    _create_mail()
    _create_endpoint()
    _create_delivery()
    _create_receipt()
    _create_counter()


def downgrade() -> None:
    # The schema stays: the service keeps its own tables there.
    for table in ("counter", "receipt", "delivery", "payload", "endpoint_secret", "endpoint", "mail"):
        op.drop_table(table, schema="app")


def _create_mail() -> None:
    op.create_table(
        "mail",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("sender", sa.Text, nullable=False),
        sa.Column("recipient", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("message_id", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False, server_default=NOW),
        sa.Column("send_at", INSTANT),
        sa.Column("expires_at", INSTANT),
        sa.Column("status", sa.Text, nullable=False, server_default=sa.text("'queued'")),
        sa.Column("sent_at", INSTANT),
        sa.Column("reply", sa.Text),
        sa.Column("reply_at", INSTANT),
        sa.Column("attempts", sa.Integer, nullable=False, server_default=ZERO),
        sa.Column("troubles", sa.Integer, nullable=False, server_default=ZERO),
        sa.Column("uncertain", sa.Integer, nullable=False, server_default=ZERO),
        sa.CheckConstraint("status in ('queued', 'sent', 'refused', 'uncertain')", name="mail_status"),
        sa.CheckConstraint("(status = 'sent') = (sent_at is not null)", name="mail_sent_has_its_time"),
        schema="app",
    )
    op.create_index("mail_recipient", "mail", [sa.text("lower(recipient)")], schema="app")


def _create_endpoint() -> None:
    op.create_table(
        "endpoint",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("event_types", postgresql.ARRAY(sa.Text), nullable=False),
        sa.Column("description", sa.Text, nullable=False, server_default=NOTHING),
        sa.Column("headers", postgresql.JSONB, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("enabled", sa.Boolean, nullable=False, server_default=sa.text("true")),
        sa.Column("disabled_reason", sa.Text),
        sa.Column("disabled_at", INSTANT),
        sa.Column("created_at", INSTANT, nullable=False, server_default=NOW),
        sa.Column("updated_at", INSTANT, nullable=False, server_default=NOW),
        sa.CheckConstraint("cardinality(event_types) > 0", name="endpoint_event_types"),
        sa.CheckConstraint("enabled = (disabled_at is null)", name="endpoint_disabled_has_its_time"),
        schema="app",
    )
    op.create_index(
        "endpoint_event_types",
        "endpoint",
        ["event_types"],
        schema="app",
        postgresql_using="gin",
        postgresql_where=sa.text("enabled"),
    )
    op.create_table(
        "endpoint_secret",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("endpoint_id", sa.Uuid, sa.ForeignKey("app.endpoint.id", ondelete="cascade"), nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False, server_default=NOW),
        sa.Column("expires_at", INSTANT),
        schema="app",
    )
    op.create_index("endpoint_secret_endpoint", "endpoint_secret", ["endpoint_id"], schema="app")


def _create_delivery() -> None:
    op.create_table(
        "payload",
        sa.Column("event_id", sa.Uuid, primary_key=True),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False, server_default=NOW),
        schema="app",
    )
    op.create_table(
        "delivery",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("endpoint_id", sa.Uuid, sa.ForeignKey("app.endpoint.id", ondelete="cascade"), nullable=False),
        sa.Column("event_id", sa.Uuid, sa.ForeignKey("app.payload.event_id", ondelete="cascade"), nullable=False),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False, server_default=NOW),
        sa.Column("status", sa.Text, nullable=False, server_default=sa.text("'queued'")),
        sa.Column("delivered_at", INSTANT),
        sa.Column("attempts", sa.Integer, nullable=False, server_default=ZERO),
        sa.Column("attempted_at", INSTANT),
        sa.Column("phase", sa.Text),
        sa.Column("status_code", sa.SmallInteger),
        sa.Column("reason", sa.Text),
        sa.Column("excerpt", sa.Text),
        sa.Column("duration", sa.Interval),
        sa.CheckConstraint("status in ('queued', 'delivered', 'failing', 'refused')", name="delivery_status"),
        sa.CheckConstraint("(status = 'delivered') = (delivered_at is not null)", name="delivery_has_its_time"),
        schema="app",
    )
    op.create_index("delivery_endpoint", "delivery", ["endpoint_id", "created_at"], schema="app")
    op.create_index("delivery_event", "delivery", ["event_id"], schema="app")


def _create_receipt() -> None:
    op.create_table(
        "receipt",
        sa.Column("order_id", sa.Uuid, primary_key=True),
        sa.Column("content", postgresql.JSONB, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False, server_default=NOW),
        sa.Column("pdf", sa.LargeBinary),
        sa.Column("rendered_at", INSTANT),
        sa.Column("mail_id", sa.Uuid, sa.ForeignKey("app.mail.id", ondelete="set null")),
        sa.CheckConstraint("(pdf is null) = (rendered_at is null)", name="receipt_has_its_time"),
        schema="app",
    )


def _create_counter() -> None:
    op.create_table(
        "counter",
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("currency", sa.Text, primary_key=True, server_default=NOTHING),
        sa.Column("count", sa.BigInteger, nullable=False, server_default=ZERO),
        sa.Column("cents", sa.BigInteger, nullable=False, server_default=ZERO),
        schema="app",
    )
