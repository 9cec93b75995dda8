"""The tables of what leaves the house, in the schema `app`. They refer to the service's tables by id only."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Date,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    SmallInteger,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from uuid_utils.compat import uuid7

__all__ = [
    "Base",
    "Counter",
    "Delivery",
    "DeliveryAttempt",
    "Endpoint",
    "EndpointHealth",
    "EndpointSecret",
    "Mail",
    "MailEvent",
    "MailGate",
    "Payload",
    "Receipt",
    "Replay",
    "Suppression",
    "TransportState",
    "metadata",
]

metadata = MetaData(schema="app")
_NOW = text("clock_timestamp()")
_NOTHING = text("''")
_ZERO = text("0")


class Base(DeclarativeBase):
    metadata = metadata
    type_annotation_map = {  # noqa: RUF012
        str: Text,
        int: Integer,
        bytes: LargeBinary,
        bool: Boolean,
        date: Date,
        datetime: DateTime(timezone=True),
        timedelta: Interval,
        UUID: Uuid,
        list[str]: ARRAY(Text),
        dict[str, str]: JSONB,
        dict[str, Any]: JSONB,
    }


class Mail(Base):
    """One mail to one recipient. `id` is its task's id and the left half of its `Message-ID`; `body` is what every
    attempt sends, byte for byte. The rest is evidence."""

    __tablename__ = "mail"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    sender: Mapped[str]
    recipient: Mapped[str]
    subject: Mapped[str]
    message_id: Mapped[str]
    body: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    send_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    status: Mapped[str] = mapped_column(server_default=text("'queued'"))
    sent_at: Mapped[datetime | None]
    reply: Mapped[str | None]
    reply_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(server_default=_ZERO)
    troubles: Mapped[int] = mapped_column(server_default=_ZERO)
    uncertain: Mapped[int] = mapped_column(server_default=_ZERO)
    #: What the recipient can unsubscribe from; a suppression counts for one stream or for all.
    stream: Mapped[str] = mapped_column(server_default=text("'transactional'"))
    envelope_sender: Mapped[str | None]
    on_uncertain: Mapped[str] = mapped_column(server_default=text("'resend'"))
    #: How often the server may have got it whole, and the run that is sending it now.
    copies: Mapped[int] = mapped_column(SmallInteger, server_default=_ZERO)
    in_flight: Mapped[UUID | None]
    slot_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(
            "status in ('queued', 'sent', 'refused', 'uncertain', 'suppressed', 'expired', 'failed', 'bounced')",
            name="mail_status",
        ),
        CheckConstraint("status <> 'sent' or sent_at is not null", name="mail_sent_has_its_time"),
        CheckConstraint("on_uncertain in ('resend', 'hold')", name="mail_on_uncertain"),
        Index("mail_recipient", text("lower(recipient)")),
        Index("mail_expires", "expires_at", postgresql_where=text("expires_at is not null")),
    )


class Suppression(Base):
    """An address that gets no mail of a stream, `*` for all of them, and why. `recipient` is in its canonical spelling."""

    __tablename__ = "suppression"

    recipient: Mapped[str] = mapped_column(primary_key=True)
    stream: Mapped[str] = mapped_column(primary_key=True, server_default=text("'*'"))
    reason: Mapped[str] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(server_default=_NOTHING)
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    expires_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("reason in ('hard_bounce', 'complaint', 'unsubscribe', 'manual')", name="suppression_reason"),
        Index("suppression_created", "created_at"),
    )


class MailEvent(Base):
    """What was told of a mail after it was sent: a bounce, a complaint. `id` is the teller's, and keeps it once."""

    __tablename__ = "mail_event"

    id: Mapped[str] = mapped_column(primary_key=True)
    mail_id: Mapped[UUID | None] = mapped_column(ForeignKey(Mail.id, ondelete="set null"))
    kind: Mapped[str]
    status: Mapped[str | None]
    detail: Mapped[str | None]
    at: Mapped[datetime] = mapped_column(server_default=_NOW)

    __table_args__ = (Index("mail_event_mail", "mail_id"), Index("mail_event_at", "at"))


class TransportState(Base):
    """Whether mails wait for the server that takes them, and for how long."""

    __tablename__ = "transport"

    name: Mapped[str] = mapped_column(primary_key=True)
    paused_until: Mapped[datetime | None]
    reason: Mapped[str | None]
    troubles: Mapped[int] = mapped_column(server_default=_ZERO)


class MailGate(Base):
    """When the next mail may go to a domain that is throttled, and the pace that its slots were given at."""

    __tablename__ = "mail_gate"

    domain: Mapped[str] = mapped_column(primary_key=True)
    next_at: Mapped[datetime]
    pace: Mapped[timedelta]


class Endpoint(Base):
    """Where somebody receives webhooks. `url` is in its canonical spelling, its headers go along with each delivery:
    `sealed_headers`, and then `headers` has their names alone; else `headers`, from before they were sealed."""

    __tablename__ = "endpoint"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    url: Mapped[str]
    event_types: Mapped[list[str]]
    description: Mapped[str] = mapped_column(server_default=_NOTHING)
    headers: Mapped[dict[str, str]] = mapped_column(server_default=text("'{}'"))
    enabled: Mapped[bool] = mapped_column(server_default=text("true"))
    disabled_reason: Mapped[str | None]
    disabled_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    #: What its owner noted; the column is named `metadata`.
    notes: Mapped[dict[str, str]] = mapped_column("metadata", server_default=text("'{}'"))
    concurrency: Mapped[int] = mapped_column(server_default=text("4"))
    rate_per_second: Mapped[float | None] = mapped_column(Float)
    fifo: Mapped[bool] = mapped_column(server_default=text("false"))
    schedule: Mapped[list[timedelta] | None] = mapped_column(ARRAY(Interval))
    other_4xx: Mapped[str] = mapped_column(server_default=text("'refuse'"))
    #: A mail address that is told when it is disabled.
    notify: Mapped[str | None]
    #: Since when it got nothing, for it was disabled; until a replay or its owner's word.
    missed_since: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]
    sealed_headers: Mapped[bytes | None]
    secrets: Mapped[list[EndpointSecret]] = relationship(
        passive_deletes=True, order_by="EndpointSecret.created_at.desc()"
    )

    __table_args__ = (
        CheckConstraint("cardinality(event_types) > 0", name="endpoint_event_types"),
        CheckConstraint("enabled = (disabled_at is null)", name="endpoint_disabled_has_its_time"),
        CheckConstraint("concurrency between 1 and 64", name="endpoint_concurrency"),
        CheckConstraint("rate_per_second > 0", name="endpoint_rate"),
        CheckConstraint("cardinality(schedule) between 1 and 30", name="endpoint_schedule"),
        CheckConstraint("other_4xx in ('refuse', 'retry')", name="endpoint_other_4xx"),
        Index("endpoint_event_types", "event_types", postgresql_using="gin", postgresql_where=text("enabled")),
    )


class EndpointHealth(Base):
    """How an endpoint fares; apart from it, for it changes with failures. `probe_at`: the circuit is open until then."""

    __tablename__ = "endpoint_health"

    endpoint_id: Mapped[UUID] = mapped_column(ForeignKey(Endpoint.id, ondelete="cascade"), primary_key=True)
    failing_since: Mapped[datetime | None]
    failures: Mapped[int] = mapped_column(server_default=_ZERO)
    openings: Mapped[int] = mapped_column(server_default=_ZERO)
    probe_at: Mapped[datetime | None]
    #: When the next delivery may go, where the endpoint has a rate.
    next_at: Mapped[datetime | None]

    __table_args__ = ({"postgresql_with": {"fillfactor": "50"}},)


class EndpointSecret(Base):
    """A signing secret of an endpoint, sealed. All that have not expired sign."""

    __tablename__ = "endpoint_secret"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    endpoint_id: Mapped[UUID] = mapped_column(ForeignKey(Endpoint.id, ondelete="cascade"))
    sealed: Mapped[bytes]
    #: The half of a key pair that receivers verify with; None for a symmetric secret.
    public_key: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    expires_at: Mapped[datetime | None]

    __table_args__ = (Index("endpoint_secret_endpoint", "endpoint_id"),)


class Payload(Base):
    """The body of an event's webhooks: the same bytes to every endpoint, fixed before the first attempt."""

    __tablename__ = "payload"

    event_id: Mapped[UUID] = mapped_column(primary_key=True)
    event_type: Mapped[str]
    body: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)

    __table_args__ = (Index("payload_created", "created_at", "event_id"),)


class Delivery(Base):
    """One event to one endpoint. `id` is its task's id, and its `webhook-id` unless `webhook_id` names that of the delivery
    that it repeats; `status` and what follows tell of the last attempt."""

    __tablename__ = "delivery"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    endpoint_id: Mapped[UUID] = mapped_column(ForeignKey(Endpoint.id, ondelete="cascade"))
    event_id: Mapped[UUID] = mapped_column(ForeignKey(Payload.event_id, ondelete="cascade"))
    event_type: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    status: Mapped[str] = mapped_column(server_default=text("'queued'"))
    delivered_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(server_default=_ZERO)
    attempted_at: Mapped[datetime | None]
    phase: Mapped[str | None]
    status_code: Mapped[int | None] = mapped_column(SmallInteger)
    reason: Mapped[str | None]
    excerpt: Mapped[str | None]
    duration: Mapped[timedelta | None]
    webhook_id: Mapped[UUID | None]
    slot_at: Mapped[datetime | None]
    endpoint: Mapped[Endpoint] = relationship()
    payload: Mapped[Payload] = relationship()

    __table_args__ = (
        CheckConstraint(
            "status in ('queued', 'delivered', 'failing', 'refused', 'failed', 'missed')", name="delivery_status"
        ),
        CheckConstraint("(status = 'delivered') = (delivered_at is not null)", name="delivery_has_its_time"),
        Index("delivery_endpoint", "endpoint_id", "created_at"),
        Index("delivery_event", "event_id", "endpoint_id"),
        Index("delivery_log", "endpoint_id", "id"),
        Index("delivery_open", "endpoint_id", "id", postgresql_where=text("status <> 'delivered'")),
    )


class DeliveryAttempt(Base):
    """What one attempt at a delivery met."""

    __tablename__ = "delivery_attempt"

    delivery_id: Mapped[UUID] = mapped_column(ForeignKey(Delivery.id, ondelete="cascade"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(server_default=_NOW)
    outcome: Mapped[str]
    phase: Mapped[str | None]
    status_code: Mapped[int | None] = mapped_column(SmallInteger)
    reason: Mapped[str | None]
    excerpt: Mapped[str | None]
    duration: Mapped[timedelta | None]


class Replay(Base):
    """Deliver again what an endpoint missed: a walk over the payloads in pages. `after_at`, `after_id`: how far it is;
    `reason`: why it was aborted."""

    __tablename__ = "replay"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    endpoint_id: Mapped[UUID] = mapped_column(ForeignKey(Endpoint.id, ondelete="cascade"))
    since: Mapped[datetime]
    until: Mapped[datetime]
    event_types: Mapped[list[str] | None]
    which: Mapped[str] = mapped_column(server_default=text("'missed'"))
    status: Mapped[str] = mapped_column(server_default=text("'running'"))
    after_at: Mapped[datetime | None]
    after_id: Mapped[UUID | None]
    seen: Mapped[int] = mapped_column(server_default=_ZERO)
    enqueued: Mapped[int] = mapped_column(server_default=_ZERO)
    total: Mapped[int | None]
    who: Mapped[str]
    reason: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    ended_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("which in ('failed', 'missed', 'all')", name="replay_which"),
        CheckConstraint("status in ('running', 'done', 'aborted')", name="replay_status"),
        CheckConstraint("(status = 'running') = (ended_at is null)", name="replay_ended_has_its_time"),
        Index("replay_endpoint", "endpoint_id", "id"),
    )


class Receipt(Base):
    """The receipt of an order: what it says, and from its rendering on the PDF and the mail that carries it."""

    __tablename__ = "receipt"

    order_id: Mapped[UUID] = mapped_column(primary_key=True)
    content: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    pdf: Mapped[bytes | None]
    rendered_at: Mapped[datetime | None]
    mail_id: Mapped[UUID | None] = mapped_column(ForeignKey(Mail.id, ondelete="set null"))
    mail: Mapped[Mail | None] = relationship()

    __table_args__ = (
        CheckConstraint("(pdf is null) = (rendered_at is null)", name="receipt_has_its_time"),
        Index("receipt_mail", "mail_id"),
    )


class Counter(Base):
    """How often something happened on a day (UTC), and the money that it moved. Each event is counted exactly once."""

    __tablename__ = "counter"

    day: Mapped[date] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    currency: Mapped[str] = mapped_column(primary_key=True, server_default=_NOTHING)
    count: Mapped[int] = mapped_column(BigInteger, server_default=_ZERO)
    cents: Mapped[int] = mapped_column(BigInteger, server_default=_ZERO)
