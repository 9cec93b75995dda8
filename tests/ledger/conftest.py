"""One migrated database, empty at the start of each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from outbox_rows import Outbox


@pytest.fixture(scope="session")
def ledger_outbox(new_database: Callable[[str], str], migrated_template: str) -> Iterator[Outbox]:
    outbox = Outbox(new_database(migrated_template))
    yield outbox
    outbox.close()


@pytest.fixture
def outbox(ledger_outbox: Outbox) -> Outbox:
    ledger_outbox.empty()
    return ledger_outbox
