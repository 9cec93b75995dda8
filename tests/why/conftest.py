"""An empty outbox on a database of the module, and workshops for what only live processes can show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module

import dramatiq.broker
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
def outbox(why_outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> Outbox:
    """Its messages are for actors that nobody declares, whatever other tests imported."""
    enqueueing = import_module("outbox.enqueue")
    monkeypatch.setattr(dramatiq.broker, "global_broker", None)
    monkeypatch.setattr(enqueueing, "_default", enqueueing._Default())
    why_outbox.empty()
    why_outbox.conn.execute("delete from outbox.lane")
    return why_outbox
