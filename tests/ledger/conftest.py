"""One migrated database, empty at the start of each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module

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
    enqueue = import_module("outbox.enqueue")
    monkeypatch.setattr(dramatiq.broker, "global_broker", None)
    monkeypatch.setattr(enqueue, "_default", enqueue._Default())


@pytest.fixture
def outbox(ledger_outbox: Outbox) -> Outbox:
    ledger_outbox.empty()
    return ledger_outbox
