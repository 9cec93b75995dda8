"""Webhooks: limits, schedule and health of an endpoint, a line for each attempt, replays, deletion in pages.

Revision ID: app_0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "app_0004"
down_revision = "app_0003"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)
NOW = sa.text("clock_timestamp()")
ZERO = sa.text("0")
NO = sa.text("false")


def upgrade() -> None:
    _widen_endpoint()
    _widen_delivery()
    _create_endpoint_health()
    _create_delivery_attempt()
    _create_replay()
    op.create_index("payload_created", "payload", ["created_at", "event_id"], schema="app")


def downgrade() -> None:
    op.drop_index("payload_created", "payload", schema="app")
    for table in ("replay", "delivery_attempt", "endpoint_health"):
        op.drop_table(table, schema="app")
    op.execute("update app.delivery set status = 'failing' where status in ('failed', 'missed')")
    op.drop_index("delivery_event", "delivery", schema="app")
    op.create_index("delivery_event", "delivery", ["event_id"], schema="app")
    for index in ("delivery_open", "delivery_log"):
        op.drop_index(index, "delivery", schema="app")
    op.drop_constraint("delivery_status", "delivery", schema="app")
    op.create_check_constraint(
        "delivery_status", "delivery", "status in ('queued', 'delivered', 'failing', 'refused')", schema="app"
    )
    op.drop_column("endpoint_secret", "public_key", schema="app")
    for column in ("slot_at", "webhook_id"):
        op.drop_column("delivery", column, schema="app")
    for constraint in ("endpoint_concurrency", "endpoint_rate", "endpoint_schedule", "endpoint_other_4xx"):
        op.drop_constraint(constraint, "endpoint", schema="app")
    for column in (
        "sealed_headers",
        "deleted_at",
        "missed_since",
        "notify",
        "other_4xx",
        "schedule",
        "fifo",
        "rate_per_second",
        "concurrency",
        "metadata",
    ):
        op.drop_column("endpoint", column, schema="app")


def _widen_endpoint() -> None:
    for column in (
        sa.Column("metadata", postgresql.JSONB, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("concurrency", sa.Integer, nullable=False, server_default=sa.text("4")),
        sa.Column("rate_per_second", sa.Float),
        sa.Column("fifo", sa.Boolean, nullable=False, server_default=NO),
        sa.Column("schedule", postgresql.ARRAY(sa.Interval)),
        sa.Column("other_4xx", sa.Text, nullable=False, server_default=sa.text("'refuse'")),
        sa.Column("notify", sa.Text),
        sa.Column("missed_since", INSTANT),
        sa.Column("deleted_at", INSTANT),
        sa.Column("sealed_headers", sa.LargeBinary),
    ):
        op.add_column("endpoint", column, schema="app")
    op.add_column("endpoint_secret", sa.Column("public_key", sa.Text), schema="app")
    op.create_check_constraint("endpoint_concurrency", "endpoint", "concurrency between 1 and 64", schema="app")
    op.create_check_constraint("endpoint_rate", "endpoint", "rate_per_second > 0", schema="app")
    op.create_check_constraint("endpoint_schedule", "endpoint", "cardinality(schedule) between 1 and 30", schema="app")
    op.create_check_constraint("endpoint_other_4xx", "endpoint", "other_4xx in ('refuse', 'retry')", schema="app")


def _widen_delivery() -> None:
    op.add_column("delivery", sa.Column("webhook_id", sa.Uuid), schema="app")
    op.add_column("delivery", sa.Column("slot_at", INSTANT), schema="app")
    op.drop_constraint("delivery_status", "delivery", schema="app")
    op.create_check_constraint(
        "delivery_status",
        "delivery",
        "status in ('queued', 'delivered', 'failing', 'refused', 'failed', 'missed')",
        schema="app",
    )
    op.create_index("delivery_log", "delivery", ["endpoint_id", "id"], schema="app")
    undelivered = sa.text("status <> 'delivered'")
    op.create_index("delivery_open", "delivery", ["endpoint_id", "id"], schema="app", postgresql_where=undelivered)
    op.drop_index("delivery_event", "delivery", schema="app")
    op.create_index("delivery_event", "delivery", ["event_id", "endpoint_id"], schema="app")


def _create_endpoint_health() -> None:
    op.create_table(
        "endpoint_health",
        sa.Column("endpoint_id", sa.Uuid, sa.ForeignKey("app.endpoint.id", ondelete="cascade"), primary_key=True),
        sa.Column("failing_since", INSTANT),
        sa.Column("failures", sa.Integer, nullable=False, server_default=ZERO),
        sa.Column("openings", sa.Integer, nullable=False, server_default=ZERO),
        sa.Column("probe_at", INSTANT),
        sa.Column("next_at", INSTANT),
        schema="app",
        postgresql_with={"fillfactor": "50"},
    )


def _create_delivery_attempt() -> None:
    op.create_table(
        "delivery_attempt",
        sa.Column("delivery_id", sa.Uuid, sa.ForeignKey("app.delivery.id", ondelete="cascade"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("at", INSTANT, nullable=False, server_default=NOW),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("phase", sa.Text),
        sa.Column("status_code", sa.SmallInteger),
        sa.Column("reason", sa.Text),
        sa.Column("excerpt", sa.Text),
        sa.Column("duration", sa.Interval),
        sa.PrimaryKeyConstraint("delivery_id", "number", name="delivery_attempt_pkey"),
        schema="app",
    )


def _create_replay() -> None:
    op.create_table(
        "replay",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("endpoint_id", sa.Uuid, sa.ForeignKey("app.endpoint.id", ondelete="cascade"), nullable=False),
        sa.Column("since", INSTANT, nullable=False),
        sa.Column("until", INSTANT, nullable=False),
        sa.Column("event_types", postgresql.ARRAY(sa.Text)),
        sa.Column("which", sa.Text, nullable=False, server_default=sa.text("'missed'")),
        sa.Column("status", sa.Text, nullable=False, server_default=sa.text("'running'")),
        sa.Column("after_at", INSTANT),
        sa.Column("after_id", sa.Uuid),
        sa.Column("seen", sa.Integer, nullable=False, server_default=ZERO),
        sa.Column("enqueued", sa.Integer, nullable=False, server_default=ZERO),
        sa.Column("total", sa.Integer),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("created_at", INSTANT, nullable=False, server_default=NOW),
        sa.Column("ended_at", INSTANT),
        sa.CheckConstraint("which in ('failed', 'missed', 'all')", name="replay_which"),
        sa.CheckConstraint("status in ('running', 'done', 'aborted')", name="replay_status"),
        sa.CheckConstraint("(status = 'running') = (ended_at is null)", name="replay_ended_has_its_time"),
        schema="app",
    )
    op.create_index("replay_endpoint", "replay", ["endpoint_id", "id"], schema="app")
