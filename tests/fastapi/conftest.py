"""One migrated database, empty at the start of each test, and a broker of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module

import dramatiq
import pytest
from outbox_rows import Outbox

from outbox import OutboxBroker, Settings


@pytest.fixture(scope="session")
def fastapi_outbox(new_database: Callable[[str], str], migrated_template: str) -> Iterator[Outbox]:
    outbox = Outbox(new_database(migrated_template))
    outbox.conn.execute("create table users (email text primary key)")
    yield outbox
    outbox.close()


@pytest.fixture
def outbox(fastapi_outbox: Outbox) -> Outbox:
    fastapi_outbox.empty()
    fastapi_outbox.conn.execute("delete from users")
    return fastapi_outbox


@pytest.fixture(autouse=True)
def no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages here are for actors that nobody declares, and go where nobody has said, whatever other tests imported."""
    enqueueing = import_module("outbox.enqueue")
    monkeypatch.setattr(dramatiq.broker, "global_broker", None)
    monkeypatch.setattr(enqueueing, "_default", enqueueing._Default())


@pytest.fixture
def broker(outbox: Outbox) -> Iterator[OutboxBroker]:
    """The process's broker for the length of a test. It opens no connection to RabbitMQ."""
    broker = OutboxBroker(Settings(database_url=outbox.url))
    dramatiq.set_broker(broker)
    yield broker
    broker.close()
