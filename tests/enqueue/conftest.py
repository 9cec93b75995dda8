"""One migrated database, empty at the start of each test, and a broker of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

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
    """Messages here are for actors that nobody declares, whatever other tests have imported."""
    monkeypatch.setattr(dramatiq.broker, "global_broker", None)


@pytest.fixture
def broker() -> Iterator[StubBroker]:
    """The process's broker for the length of a test: actors declared in the test do not meet those of others."""
    before, broker = dramatiq.broker.global_broker, StubBroker(middleware=[])
    dramatiq.set_broker(broker)
    yield broker
    dramatiq.broker.global_broker = before
    broker.close()
