"""The broker cancels a consumer: its queue's leader moved, RabbitMQ 4.3 lost patience, or somebody deleted the queue."""

from __future__ import annotations

import threading
from collections import Counter

from awaiting import await_that
from broker_side import admin, depth
from sides import MakeStock, Ours
from workshop import Workshop


def test_the_stock_consumer_runs_delayed_messages_twice(make_stock: MakeStock) -> None:
    stock = make_stock()
    ran: list[int] = []

    @stock.actor()
    def note(n: int) -> None:
        ran.append(n)

    for n in range(3):
        note.send_with_options(args=(n,), delay=1500)
    worker = stock.work()
    delays = await_that(lambda: worker.consumers.get(f"{stock.queue()}.DQ"))
    assert delays is not None
    await_that(lambda: delays.delay_queue.qsize() == 3)
    stock.cancel_consumer(".DQ")
    await_that(lambda: delays.delay_queue.qsize() == 6)  # the old copies are kept, and delivered again
    await_that(lambda: Counter(ran) == {0: 2, 1: 2, 2: 2})


def test_a_cancelled_consumer_repeats_and_forgets_nothing(workshop: Workshop) -> None:
    ran: list[int] = []
    may_end = threading.Event()

    @workshop.actor()
    def note(n: int) -> None:
        ran.append(n)
        may_end.wait(20)

    delayed = [note.send_with_options(args=(n,), delay=800) for n in range(3)]
    for n in range(3, 9):
        note.send(n)
    station = workshop.open(threads=2)
    await_that(lambda: len(ran) == 2)
    before = station._consumers["default"]
    Ours(workshop).cancel_consumer()
    await_that(lambda: station._consumers.get("default") not in (None, before))
    may_end.set()
    workshop.await_all("succeeded", 9)
    assert sorted(ran) == list(range(9))
    assert workshop.fate(delayed[0].message_id).failures == 0


def test_a_deleted_queue_costs_no_task_and_repeats_none(workshop: Workshop) -> None:
    ran: list[int] = []
    may_end = threading.Event()

    @workshop.actor()
    def note(n: int) -> None:
        ran.append(n)
        may_end.wait(20)

    for n in range(20):
        note.send(n)
    workshop.open(threads=2)
    await_that(lambda: len(ran) == 2)
    with admin(workshop.settings.rabbitmq_url) as channel:
        await_that(lambda: depth(channel, workshop.queue()) or 0)  # some wait in the broker, and are lost now
        channel.queue_delete(workshop.queue())
    may_end.set()
    workshop.await_all("succeeded", 20)
    assert sorted(ran) == list(range(20))
