"""Mail: streams and suppressions, one extra copy at most, a transport that pauses, events of what became of a mail.

Revision ID: app_0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "app_0005"
down_revision = "app_0004"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)
NOW = sa.text("clock_timestamp()")
ZERO = sa.text("0")
NOTHING = sa.text("''")


def upgrade() -> None:
    _widen_mail()
    _create_suppression()
    _create_mail_event()
    _create_transport()


def downgrade() -> None:
    for table in ("mail_gate", "transport", "mail_event", "suppression"):
        op.drop_table(table, schema="app")
    op.execute("update app.mail set status = 'sent' where status = 'bounced' and sent_at is not null")
    op.execute(
        "update app.mail set status = 'refused', sent_at = null where status not in ('queued', 'sent', 'uncertain')"
    )
    op.drop_index("mail_expires", "mail", schema="app")
    for constraint in ("mail_status", "mail_sent_has_its_time", "mail_on_uncertain"):
        op.drop_constraint(constraint, "mail", schema="app")
    op.create_check_constraint(
        "mail_status", "mail", "status in ('queued', 'sent', 'refused', 'uncertain')", schema="app"
    )
    op.create_check_constraint(
        "mail_sent_has_its_time", "mail", "(status = 'sent') = (sent_at is not null)", schema="app"
    )
    for column in ("slot_at", "in_flight", "copies", "on_uncertain", "envelope_sender", "stream"):
        op.drop_column("mail", column, schema="app")


def _widen_mail() -> None:
    for column in (
        sa.Column("stream", sa.Text, nullable=False, server_default=sa.text("'transactional'")),
        sa.Column("envelope_sender", sa.Text),
        sa.Column("on_uncertain", sa.Text, nullable=False, server_default=sa.text("'resend'")),
        sa.Column("copies", sa.SmallInteger, nullable=False, server_default=ZERO),
        sa.Column("in_flight", sa.Uuid),
        sa.Column("slot_at", INSTANT),
    ):
        op.add_column("mail", column, schema="app")
    op.execute("update app.mail set copies = least(uncertain, 2) where uncertain > 0")
    for constraint in ("mail_status", "mail_sent_has_its_time"):
        op.drop_constraint(constraint, "mail", schema="app")
    op.create_check_constraint(
        "mail_status",
        "mail",
        "status in ('queued', 'sent', 'refused', 'uncertain', 'suppressed', 'expired', 'failed', 'bounced')",
        schema="app",
    )
    op.create_check_constraint(
        "mail_sent_has_its_time", "mail", "status <> 'sent' or sent_at is not null", schema="app"
    )
    op.create_check_constraint("mail_on_uncertain", "mail", "on_uncertain in ('resend', 'hold')", schema="app")
    op.create_index(
        "mail_expires", "mail", ["expires_at"], schema="app", postgresql_where=sa.text("expires_at is not null")
    )


def _create_suppression() -> None:
    op.create_table(
        "suppression",
        sa.Column("recipient", sa.Text, nullable=False),
        sa.Column("stream", sa.Text, nullable=False, server_default=sa.text("'*'")),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False, server_default=NOTHING),
        sa.Column("created_at", INSTANT, nullable=False, server_default=NOW),
        sa.Column("expires_at", INSTANT),
        sa.PrimaryKeyConstraint("recipient", "stream", "reason", name="suppression_pkey"),
        sa.CheckConstraint(
            "reason in ('hard_bounce', 'complaint', 'unsubscribe', 'manual')", name="suppression_reason"
        ),
        schema="app",
    )
    op.create_index("suppression_created", "suppression", ["created_at"], schema="app")


def _create_mail_event() -> None:
    op.create_table(
        "mail_event",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("mail_id", sa.Uuid, sa.ForeignKey("app.mail.id", ondelete="set null")),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("status", sa.Text),
        sa.Column("detail", sa.Text),
        sa.Column("at", INSTANT, nullable=False, server_default=NOW),
        schema="app",
    )
    op.create_index("mail_event_mail", "mail_event", ["mail_id"], schema="app")
    op.create_index("mail_event_at", "mail_event", ["at"], schema="app")


def _create_transport() -> None:
    op.create_table(
        "transport",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("paused_until", INSTANT),
        sa.Column("reason", sa.Text),
        sa.Column("troubles", sa.Integer, nullable=False, server_default=ZERO),
        schema="app",
    )
    op.create_table(
        "mail_gate",
        sa.Column("domain", sa.Text, primary_key=True),
        sa.Column("next_at", INSTANT, nullable=False),
        sa.Column("pace", sa.Interval, nullable=False),
        schema="app",
    )
