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

__all__ = ["Base", "Counter", "Delivery", "Endpoint", "EndpointSecret", "Mail", "Payload", "Receipt", "metadata"]

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

    __table_args__ = (
        CheckConstraint("status in ('queued', 'sent', 'refused', 'uncertain')", name="mail_status"),
        CheckConstraint("(status = 'sent') = (sent_at is not null)", name="mail_sent_has_its_time"),
        Index("mail_recipient", text("lower(recipient)")),
    )


class Endpoint(Base):
    """Where somebody receives webhooks. `url` is in its canonical spelling, `headers` go along with each delivery."""

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
    secrets: Mapped[list[EndpointSecret]] = relationship(
        passive_deletes=True, order_by="EndpointSecret.created_at.desc()"
    )

    __table_args__ = (
        CheckConstraint("cardinality(event_types) > 0", name="endpoint_event_types"),
        CheckConstraint("enabled = (disabled_at is null)", name="endpoint_disabled_has_its_time"),
        Index("endpoint_event_types", "event_types", postgresql_using="gin", postgresql_where=text("enabled")),
    )


class EndpointSecret(Base):
    """A signing secret of an endpoint, sealed. All that have not expired sign."""

    __tablename__ = "endpoint_secret"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    endpoint_id: Mapped[UUID] = mapped_column(ForeignKey(Endpoint.id, ondelete="cascade"))
    sealed: Mapped[bytes]
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


class Delivery(Base):
    """One event to one endpoint. `id` is its task's id and its `webhook-id`; `status` and what follows tell of the last
    attempt."""

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
    endpoint: Mapped[Endpoint] = relationship()
    payload: Mapped[Payload] = relationship()

    __table_args__ = (
        CheckConstraint("status in ('queued', 'delivered', 'failing', 'refused')", name="delivery_status"),
        CheckConstraint("(status = 'delivered') = (delivered_at is not null)", name="delivery_has_its_time"),
        Index("delivery_endpoint", "endpoint_id", "created_at"),
        Index("delivery_event", "event_id"),
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
