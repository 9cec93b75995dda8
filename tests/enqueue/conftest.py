"""One migrated database, empty at the start of each test, and a broker of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker
from outbox_rows import Outbox


@pytest.fixture(scope="session")
def shared_outbox(new_database: Callable[[str], str], migrated_template: str) -> Iterator[Outbox]:
    outbox = Outbox(new_database(migrated_template))
    yield outbox
    outbox.close()


@pytest.fixture
def outbox(shared_outbox: Outbox) -> Outbox:
    shared_outbox.empty()
    return shared_outbox


@pytest.fixture(autouse=True)
def no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages here are for actors that nobody declares, and go where nobody has said, whatever other tests imported."""
    enqueueing = import_module("outbox.enqueue")
    monkeypatch.setattr(dramatiq.broker, "global_broker", None)
    monkeypatch.setattr(enqueueing, "_default", enqueueing._Default())


@pytest.fixture
def broker() -> Iterator[StubBroker]:
    """The process's broker for the length of a test: actors declared in the test do not meet those of others."""
    before, broker = dramatiq.broker.global_broker, StubBroker(middleware=[])
    dramatiq.set_broker(broker)
    yield broker
    dramatiq.broker.global_broker = before
    broker.close()
