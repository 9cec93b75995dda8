"""One migrated database, empty at the start of each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import dramatiq.broker
import pytest
from outbox_rows import Outbox


@pytest.fixture(scope="session")
def ledger_outbox(new_database: Callable[[str], str], migrated_template: str) -> Iterator[Outbox]:
    outbox = Outbox(new_database(migrated_template))
    yield outbox
    outbox.close()


@pytest.fixture(autouse=True)
def no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages here are for actors that nobody declares, whatever other tests have imported."""
    monkeypatch.setattr(dramatiq.broker, "global_broker", None)


@pytest.fixture
def outbox(ledger_outbox: Outbox) -> Outbox:
    ledger_outbox.empty()
    return ledger_outbox
