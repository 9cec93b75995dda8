"""The service's own tables, in the schema `app`: who signed up, what was ordered, what happened, who may call."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from uuid_utils.compat import uuid7

__all__ = ["ApiKey", "Base", "Browser", "Event", "IdempotencyKey", "Order", "OrderItem", "User", "metadata"]

metadata = MetaData(schema="app")
_NOW = text("clock_timestamp()")
_NONE_YET = text("'{}'")


class Base(DeclarativeBase):
    metadata = metadata
    type_annotation_map = {  # noqa: RUF012
        str: Text,
        bytes: LargeBinary,
        datetime: DateTime(timezone=True),
        UUID: Uuid,
        list[UUID]: ARRAY(Uuid),
    }


class User(Base):
    """Somebody who signed up. An address belongs to one user, whatever the case of its letters."""

    __tablename__ = "user"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    email: Mapped[str]
    name: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)

    __table_args__ = (Index("user_email", text("lower(email)"), unique=True),)


class Order(Base):
    """A placed order. `client_id` is the caller's own name for it: the same one is never placed twice."""

    __tablename__ = "order"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    client_id: Mapped[str | None] = mapped_column(unique=True)
    email: Mapped[str]
    currency: Mapped[str]
    total_cents: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[bytes]
    task_ids: Mapped[list[UUID]] = mapped_column(server_default=_NONE_YET)
    placed_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    items: Mapped[list[OrderItem]] = relationship(order_by="OrderItem.position")

    __table_args__ = (CheckConstraint("total_cents >= 0", name="order_total"),)


class OrderItem(Base):
    """One line of an order."""

    __tablename__ = "order_item"

    order_id: Mapped[UUID] = mapped_column(ForeignKey(Order.id, ondelete="cascade"), primary_key=True)
    position: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    sku: Mapped[str]
    quantity: Mapped[int] = mapped_column(Integer)
    unit_price_cents: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (
        CheckConstraint("quantity > 0", name="order_item_quantity"),
        CheckConstraint("unit_price_cents >= 0", name="order_item_price"),
    )


class Event(Base):
    """Something that happened. `content` is the caller's `data`, byte for byte (jsonb could not keep it)."""

    __tablename__ = "event"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    client_id: Mapped[str | None] = mapped_column(unique=True)
    type: Mapped[str]
    content: Mapped[bytes]
    task_ids: Mapped[list[UUID]] = mapped_column(server_default=_NONE_YET)
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)

    __table_args__ = (Index("event_created", "created_at"),)


class ApiKey(Base):
    """An API key. The key itself is not kept: `digest` is the SHA-256 of its 256 random bits."""

    __tablename__ = "api_key"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    name: Mapped[str]
    role: Mapped[str]
    digest: Mapped[bytes] = mapped_column(unique=True)
    hint: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    revoked_at: Mapped[datetime | None]

    __table_args__ = (CheckConstraint("role in ('reader', 'writer', 'operator', 'admin')", name="api_key_role"),)


class Browser(Base):
    """A browser that signed in to the dashboard, or a link that signs one in, once. `digest`: SHA-256 of 256 random bits."""

    __tablename__ = "browser"

    digest: Mapped[bytes] = mapped_column(primary_key=True)
    kind: Mapped[str]
    key_id: Mapped[UUID | None] = mapped_column(ForeignKey("app.api_key.id", ondelete="CASCADE"))
    name: Mapped[str]
    role: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    expires_at: Mapped[datetime]

    __table_args__ = (
        CheckConstraint("kind in ('session', 'link')", name="browser_kind"),
        CheckConstraint("role in ('reader', 'writer', 'operator', 'admin')", name="browser_role"),
        Index("browser_expires", "expires_at"),
    )


class IdempotencyKey(Base):
    """The answer to a request that was carried out, written in the same transaction as its work."""

    __tablename__ = "idempotency_key"

    principal: Mapped[str] = mapped_column(primary_key=True)
    route: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[bytes]
    status: Mapped[int | None] = mapped_column(SmallInteger)
    answer: Mapped[bytes | None]
    sealed: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)

    __table_args__ = (
        CheckConstraint("(status is null) = (answer is null)", name="idempotency_key_answer"),
        Index("idempotency_key_created", "created_at"),
    )
