"""A database, and a broker that only declares: what is due is tested here, not what runs it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dramatiq.brokers.stub import StubBroker

from outbox import database
from outbox.cron import Cron
from outbox.ledger import Conn, Ledger


@pytest.fixture
def broker() -> Iterator[StubBroker]:
    broker = StubBroker(middleware=[Cron()])
    yield broker
    broker.close()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def conn(database_url: str) -> Iterator[Conn]:
    with database.connect(database_url, name="test") as conn:
        yield conn
