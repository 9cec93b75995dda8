"""One task becomes two: an answer is lost after the deed, and who did not hear it does the deed again."""

from __future__ import annotations

from typing import Any

import dramatiq
from awaiting import await_that
from broker_side import depth_of, shut
from dramatiq.middleware import Middleware, Retries
from sides import MakeStock, Ours, publish_by_way_of
from wire import Wire
from workshop import MakeWorkshop, Workshop


class Breaks(Middleware):
    """The consumer's connection breaks once, after a task failed and before its message is acknowledged."""

    def __init__(self) -> None:
        self.connection: Any = None

    def before_ack(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        if self.connection is not None:
            shut(self.connection)
            self.connection = None


def test_a_lost_confirm_makes_two_messages_and_the_stock_worker_runs_both(
    make_stock: MakeStock, wire: Wire, vhost_url: str
) -> None:
    stock = make_stock(wire.url)
    ran: list[str] = []

    @stock.actor()
    def note(label: str) -> None:
        ran.append(label)

    note.send("first")
    wire.lose_reply_to(b"unheard")
    note.send("unheard")
    stock.url = vhost_url
    assert depth_of(vhost_url, stock.queue()) == 3
    stock.work()
    await_that(lambda: ran.count("unheard") == 2)


def test_a_lost_confirm_makes_two_messages_and_one_run(workshop: Workshop, wire: Wire, vhost_url: str) -> None:
    ran: list[str] = []

    @workshop.actor()
    def note(label: str) -> None:
        ran.append(label)

    publish_by_way_of(workshop, wire)
    workshop.await_state(note.send("first").message_id, "published")
    wire.lose_reply_to(b"unheard")
    message = note.send("unheard")
    workshop.await_state(message.message_id, "published")
    await_that(lambda: depth_of(vhost_url, workshop.queue()) == 3)
    workshop.work()
    workshop.await_all("succeeded", 2)
    await_that(lambda: depth_of(vhost_url, workshop.queue()) == 0)
    last = note.send("last")
    workshop.await_state(last.message_id, "succeeded")
    assert ran == ["first", "unheard", "last"]


def test_a_crash_between_retry_and_acknowledgement_leaves_the_stock_broker_with_two_tasks(
    make_stock: MakeStock,
) -> None:
    breaks = Breaks()
    stock = make_stock(middleware=[Retries(min_backoff=60_000), breaks])
    ran: list[int] = []

    @stock.actor()
    def fail(n: int) -> None:
        ran.append(n)
        raise ValueError("boom")

    worker = stock.work(threads=1)
    await_that(lambda: stock.queue() in worker.consumers)
    breaks.connection = stock._consumer().connection
    fail.send(1)
    await_that(lambda: ran == [1, 1])  # the original is still in the queue, and will be tried as often as its retry
    stock.catch_up()
    worker.stop(timeout=2000)
    stock.worker = None
    await_that(lambda: depth_of(stock.url, f"{stock.queue()}.DQ") == 2)


def test_a_crash_between_outcome_and_acknowledgement_leaves_one_task(make_workshop: MakeWorkshop) -> None:
    breaks = Breaks()
    workshop = make_workshop(middleware=[breaks])
    ran: list[int] = []

    @workshop.actor(min_backoff=60_000)
    def fail(n: int) -> None:
        ran.append(n)
        raise ValueError("boom")

    @workshop.actor()
    def note(n: int) -> None:
        ran.append(n)

    station = workshop.open(threads=1)
    before = station._consumers["default"]
    breaks.connection = Ours(workshop)._consumer()._connection
    message = fail.send(1)
    fate = workshop.await_state(message.message_id, "scheduled")
    await_that(lambda: station._consumers.get("default") not in (None, before))
    workshop.await_state(note.send(2).message_id, "succeeded")
    assert (ran, fate.failures) == ([1, 2], 1)  # the copy came again before the second, and was not run
