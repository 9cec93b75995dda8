"""What waits behind something else although somebody is free for it. Ours, with two processes: worker/test_taking.py."""

from __future__ import annotations

import threading
import time

import dramatiq.worker
import pytest
from awaiting import await_that
from broker_side import depth_of
from sides import MakeStock
from workshop import Workshop

LATER = 600_000


def test_a_short_delay_waits_behind_far_ones_once_they_fill_the_stock_workers_memory(
    make_stock: MakeStock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dramatiq.worker, "DELAY_QUEUE_PREFETCH", 2)  # by default, a thousand for each thread
    stock = make_stock()
    ran: list[str] = []

    @stock.actor()
    def note(label: str) -> None:
        ran.append(label)

    for n in range(2):
        note.send_with_options(args=(f"far {n}",), delay=LATER)
    worker = stock.work()
    delays = await_that(lambda: worker.consumers.get(f"{stock.queue()}.DQ"))
    assert delays is not None
    await_that(lambda: delays.delay_queue.qsize() == 2)
    note.send_with_options(args=("soon",), delay=100)
    due = time.monotonic() + 0.1
    await_that(lambda: time.monotonic() > due + 0.5)
    note.send("now")
    await_that(lambda: ran)
    assert ran == ["now"]
    assert depth_of(stock.url, f"{stock.queue()}.DQ") == 1  # due, and waits until a far one ran: ten minutes


def test_a_short_delay_waits_for_no_far_one(workshop: Workshop) -> None:
    ran: list[str] = []

    @workshop.actor()
    def note(label: str) -> None:
        ran.append(label)

    for n in range(50):
        note.send_with_options(args=(f"far {n}",), delay=LATER)
    workshop.open(threads=1)
    soon = note.send_with_options(args=("soon",), delay=100)
    workshop.await_state(soon.message_id, "succeeded")
    assert ran == ["soon"]


def test_what_a_busy_stock_process_has_fetched_waits_though_another_one_is_idle(make_stock: MakeStock) -> None:
    busy, idle = make_stock(), make_stock()
    ran: list[str] = []
    started, may_end = threading.Event(), threading.Event()

    def note(label: str) -> None:
        if label == "slow":
            started.set()
            may_end.wait(20)
        ran.append(label)

    for stock in (busy, idle):
        stock.actor(actor_name="note")(note)
    send = busy.broker.get_actor("note").send
    busy.work(threads=1)
    send("slow")
    assert started.wait(20)
    send("hostage")
    await_that(lambda: len(busy._consumer().known_tags) == 2)
    idle.work(threads=1)
    for n in range(10):
        send(f"quick {n}")
    await_that(lambda: len(ran) == 10)
    assert ran == [f"quick {n}" for n in range(10)]  # by the idle one, which had nothing to do for the hostage
    may_end.set()
    await_that(lambda: ran[10:] == ["slow", "hostage"])
