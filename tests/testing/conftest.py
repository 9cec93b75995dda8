"""An application under test: a broker that opens no connection, and a database in memory."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

import dramatiq
import pytest
from sqlalchemy import Engine, String, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import StaticPool

from outbox import OutboxBroker, Settings


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "user"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(String(100))


@pytest.fixture
def broker() -> Iterator[OutboxBroker]:
    """Servers that nobody could reach: whoever needs one fails."""
    enqueue = import_module("outbox.enqueue")  # `outbox.enqueue` itself is the function
    before, default = dramatiq.broker.global_broker, enqueue._default
    nowhere = {"DATABASE_URL": "postgresql://127.0.0.1:1/none", "RABBITMQ_URL": "amqp://127.0.0.1:1/"}
    made = OutboxBroker(Settings.model_validate(nowhere))
    dramatiq.set_broker(made)
    yield made
    dramatiq.set_broker(before)
    enqueue.use(default)


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    Base.metadata.create_all(made)
    yield made
    made.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with Session(engine) as made:
        yield made
