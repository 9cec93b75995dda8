"""One migrated database a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from outbox_rows import Outbox


@pytest.fixture(scope="module")
def whole_outbox(new_database: Callable[[str], str], migrated_template: str) -> Iterator[Outbox]:
    outbox = Outbox(new_database(migrated_template))
    yield outbox
    outbox.close()


@pytest.fixture
def outbox(whole_outbox: Outbox) -> Outbox:
    """The module's database, with every table empty."""
    whole_outbox.empty()
    return whole_outbox
