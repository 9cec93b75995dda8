"""A queue of that name is there already, with other arguments: an older release's, an operator's, another library's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from awaiting import await_that
from broker_side import admin, depth_of
from dramatiq.errors import ConnectionClosed
from sides import MakeStock, Ours, Side
from workshop import MakeWorkshop


@pytest.fixture
def older(vhost_url: str, side: Side) -> Iterator[str]:
    """The side's queue, declared by somebody else."""
    with admin(vhost_url) as channel:
        channel.queue_declare(side.queue(), durable=True, arguments={"x-max-priority": 3})
        yield side.queue()
        channel.queue_delete(side.queue())


def test_a_queue_with_other_arguments_stops_stock_producers_and_workers_for_good_and_ours_use_it(
    side: Side, older: str, vhost_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[int] = []

    @side.actor()
    def note(n: int) -> None:
        ran.append(n)

    if isinstance(side, Ours):
        note.send(1)
        side.work()
        (fate,) = side.workshop.await_all("succeeded", 1).values()
        assert (ran, fate.failures) == ([1], 0)
        return
    with pytest.raises(ConnectionClosed, match="PRECONDITION_FAILED"):
        note.send(1)
    with admin(vhost_url) as channel:
        channel.basic_publish("", older, note.message(1).encode())
    side.work()
    await_that(lambda: refusals(caplog) > 3)
    assert depth_of(vhost_url, older) == 1
    assert ran == []


def refusals(caplog: pytest.LogCaptureFixture) -> int:
    """How often a consumer thread of Dramatiq was told so, and will try again."""
    own = (record for record in caplog.records if record.name.startswith("dramatiq.worker"))
    return sum("PRECONDITION_FAILED" in record.getMessage() for record in own)


def test_stock_queues_of_the_same_name_are_left_alone(make_stock: MakeStock, make_workshop: MakeWorkshop) -> None:
    """Both in one vhost while a team moves over: our names carry a prefix."""
    stock, workshop = make_stock(), make_workshop()
    ran: list[str] = []
    stock.actor(actor_name="note")(lambda: ran.append("stock"))
    workshop.broker.declare_queue(stock.queue())
    workshop.actor(actor_name="note", queue_name=stock.queue())(lambda: ran.append("ours"))
    stock.broker.get_actor("note").send()
    workshop.broker.get_actor("note").send()
    stock.work()
    workshop.open()
    await_that(lambda: sorted(ran) == ["ours", "stock"])
