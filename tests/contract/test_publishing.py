"""Publishing: what the stock producer believes to be sent, and what a relay's confirms know."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pika
import pytest
from awaiting import await_that
from broker_side import admin, depth_of, reset, shut
from sides import MakeStock, publish_by_way_of
from wire import Wire
from workshop import MakeWorkshop, Workshop

from deploy.local.servers import RabbitMQ


def test_a_dead_connection_swallows_what_the_stock_producer_sends(
    make_stock: MakeStock, wire: Wire, vhost_url: str
) -> None:
    stock = make_stock(wire.url, confirm_delivery=False)

    @stock.actor()
    def note(n: int) -> None: ...

    note.send(0)
    await_that(lambda: depth_of(vhost_url, stock.queue()) == 1)
    wire.vanish()
    note.send(1)  # returns as if all were well
    stock.abandon()
    stock.url = vhost_url
    assert depth_of(vhost_url, stock.queue()) == 1


def test_an_orderly_end_of_the_connection_swallows_what_is_on_its_way_from_the_stock_producer(
    make_stock: MakeStock, wire: Wire, vhost_url: str
) -> None:
    stock = make_stock(wire.url, confirm_delivery=False)

    @stock.actor()
    def note(n: int) -> None: ...

    note.send(0)
    await_that(lambda: depth_of(vhost_url, stock.queue()) == 1)
    wire.vanish()  # a load balancer that has forgotten the connection
    note.send(1)
    wire.hang_up()
    note.send(2)  # notices the end and connects again; nobody knows about the one before
    stock.broker.close()
    stock.url = vhost_url
    assert depth_of(vhost_url, stock.queue()) == 2


@pytest.mark.parametrize("trouble", ["vanish", "hang_up"])
def test_a_dead_connection_costs_the_relay_a_moment_and_no_task(
    make_workshop: MakeWorkshop, wire: Wire, trouble: str
) -> None:
    workshop = make_workshop(confirm_timeout=timedelta(seconds=1))
    ran: list[int] = []

    @workshop.actor()
    def note(n: int) -> None:
        ran.append(n)

    workshop.work()
    publish_by_way_of(workshop, wire)
    workshop.await_state(note.send(0).message_id, "succeeded")
    getattr(wire, trouble)()
    for n in range(1, 6):
        note.send(n)
    fates = workshop.await_all("succeeded", 6)
    assert sorted(ran) == list(range(6))
    assert {(fate.failures, fate.losses) for fate in fates.values()} == {(0, 0)}


def test_a_deleted_queue_swallows_what_the_stock_producer_sends(make_stock: MakeStock) -> None:
    stock = make_stock(confirm_delivery=False)

    @stock.actor()
    def note(n: int) -> None: ...

    note.send(0)
    with admin(stock.url) as channel:
        channel.queue_delete(stock.queue())
    note.send(1)
    note.send(2)
    stock.broker.close()
    assert depth_of(stock.url, stock.queue()) is None


def test_a_queue_deleted_while_publishing_is_made_again_and_costs_no_task(workshop: Workshop) -> None:
    ran: list[int] = []

    @workshop.actor()
    def note(n: int) -> None:
        ran.append(n)

    workshop.publish()
    first = note.send(0)
    workshop.await_state(first.message_id, "published")
    with admin(workshop.settings.rabbitmq_url) as channel:
        channel.queue_delete(workshop.queue())  # with the first message in it
    for n in range(1, 6):
        note.send(n)
    await_that(lambda: depth_of(workshop.settings.rabbitmq_url, workshop.queue()) == 6)
    workshop.work()
    fates = workshop.await_all("succeeded", 6)
    assert sorted(ran) == list(range(6))
    assert fates[next(id for id in fates if str(id) == first.message_id)].losses == 1


def await_blocked(url: str) -> None:
    """Until the broker tells publishers of its alarm: every connection that is opened from now on is blocked."""
    blocked: list[Any] = []
    connection = pika.BlockingConnection(pika.URLParameters(url))
    connection.add_on_connection_blocked_callback(lambda *event: blocked.append(event))
    channel = connection.channel()

    def is_blocked() -> bool:
        if not blocked:
            channel.basic_publish("", "no such queue", b"")
            connection.process_data_events(0)
        return bool(blocked)

    await_that(is_blocked)
    shut(connection)  # a blocked one would not be heard closing


class TestMemoryAlarm:
    """The broker blocks publishers: `connection.blocked`."""

    @pytest.fixture
    def alarm(self, own_rabbitmq: RabbitMQ) -> Iterator[threading.Event]:
        """An alarm that `set()` of the event ends."""
        own_rabbitmq.ctl("set_vm_memory_high_watermark", "absolute", "1")
        await_blocked(own_rabbitmq.url)
        over = threading.Event()

        def end_it() -> None:
            over.wait(60)
            own_rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")

        ending = threading.Thread(target=end_it)
        ending.start()
        yield over
        over.set()
        ending.join()

    def test_the_stock_producer_hangs_or_believes_too_much(self, alarm: threading.Event, make_stock: MakeStock) -> None:
        careless = make_stock(confirm_delivery=False)
        careful = make_stock(confirm_delivery=True)
        returned: list[str] = []

        @careless.actor(actor_name="careless")
        def _careless(body: str) -> None: ...

        @careful.actor(actor_name="careful")
        def _careful(n: int) -> None: ...

        def send() -> None:
            _careful.send(1)
            returned.append("careful")

        _careless.send("x" * 1_000_000)  # more than a broker that stopped reading has read already
        careless.abandon(reset)
        sending = threading.Thread(target=send, daemon=True)
        sending.start()
        sending.join(1)
        assert not returned  # would hang for ever: there is no blocked_connection_timeout
        alarm.set()
        await_that(lambda: returned)
        assert depth_of(careless.url, careless.queue()) == 1  # the careful one's; the other believed it had sent

    def test_tasks_wait_in_postgresql_and_cost_nothing(self, alarm: threading.Event, workshop: Workshop) -> None:
        ran: list[int] = []

        @workshop.actor()
        def note(n: int) -> None:
            ran.append(n)

        for n in range(5):
            note.send(n)
        workshop.publish()
        relay = workshop.relay
        assert relay is not None
        await_that(lambda: relay.publisher.blocked)
        note.send(5)
        assert {fate.state for fate in workshop.fates().values()} == {"pending"}
        alarm.set()
        workshop.work()
        fates = workshop.await_all("succeeded", 6)
        assert sorted(ran) == list(range(6))
        assert {(fate.failures, fate.attempts == []) for fate in fates.values()} == {(0, True)}
