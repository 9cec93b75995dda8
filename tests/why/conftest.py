"""An empty outbox on a database of the module, and workshops for what only live processes can show."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from outbox_rows import Outbox
from workshop import make_workshop, vhost_url

__all__ = ["make_workshop", "vhost_url"]


@pytest.fixture(scope="module")
def why_outbox(new_database: Callable[[str], str], migrated_template: str) -> Iterator[Outbox]:
    outbox = Outbox(new_database(migrated_template))
    yield outbox
    outbox.close()


@pytest.fixture
def outbox(why_outbox: Outbox) -> Outbox:
    why_outbox.empty()
    why_outbox.conn.execute("delete from outbox.lane")
    return why_outbox
