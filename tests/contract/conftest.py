"""Both sides of a scenario, on real servers."""

from __future__ import annotations

from collections.abc import Iterator

import dramatiq.worker
import pytest
from sides import MakeStock, Ours, Side, Stock
from wire import Wire
from workshop import MakeWorkshop, make_workshop, open_workshop, shop, vhost_url, workshop

__all__ = ["make_workshop", "open_workshop", "shop", "vhost_url", "workshop"]


@pytest.fixture
def make_stock(vhost_url: str, queue_prefix: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeStock]:
    """Makes stock brokers on a queue of this test's own."""
    monkeypatch.setattr(dramatiq.worker, "CONSUMER_RESTART_DELAY_SECS", 0.1)
    made: list[Stock] = []

    def make(url: str = vhost_url, **options: object) -> Stock:
        made.append(Stock(url, queue_prefix, **options))
        return made[-1]

    yield make
    for stock in made:
        stock.close()


@pytest.fixture
def wire(vhost_url: str) -> Iterator[Wire]:
    """A wire to the broker that can fail."""
    wire = Wire(vhost_url)
    yield wire
    wire.close()


@pytest.fixture(params=["stock", "ours"])
def side(request: pytest.FixtureRequest) -> Side:
    """The scenario runs twice. `side.loses` says what is expected of it."""
    if request.param == "stock":
        make_stock: MakeStock = request.getfixturevalue("make_stock")
        return make_stock()
    make: MakeWorkshop = request.getfixturevalue("make_workshop")
    return Ours(make())
