"""What RabbitMQ moves aside or holds back: no delay queues, no dead letter that is the only copy."""

from __future__ import annotations

from typing import Any

import dramatiq
import pytest
from awaiting import await_that
from broker_side import admin, depth_of
from dramatiq.middleware import Middleware, SkipMessage
from sides import MakeStock
from workshop import MakeWorkshop, Workshop

from outbox.topology import DELIVERY_LIMIT


class Skips(Middleware):
    """Skips the first message it sees, in one of Dramatiq's two ways."""

    def __init__(self, *, failing: bool) -> None:
        self.failing = failing
        self.skipped = 0

    def before_process_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        if not self.skipped:
            self.skipped += 1
            if self.failing:
                message.fail()
            raise SkipMessage("not this one")


def test_a_delay_waits_in_postgresql_and_needs_no_queue(make_stock: MakeStock, workshop: Workshop) -> None:
    stock = make_stock()

    @stock.actor(actor_name="note")
    def _note(n: int) -> None: ...

    _note.send_with_options(args=(1,), delay=60_000)
    assert depth_of(stock.url, f"{stock.queue()}.DQ") == 1

    ran: list[int] = []

    @workshop.actor()
    def note(n: int) -> None:
        ran.append(n)

    message = note.send_with_options(args=(1,), delay=60_000)
    workshop.open()
    note.send(2)
    await_that(lambda: ran == [2])
    for suffix in (".DQ", ".XQ"):
        assert depth_of(workshop.settings.rabbitmq_url, workshop.queue() + suffix) is None
    assert workshop.fate(message.message_id).state == "scheduled"


def test_a_message_over_its_delivery_limit_comes_back_and_no_attempt_is_counted(workshop: Workshop) -> None:
    ran: list[int] = []

    @workshop.actor()
    def note(n: int) -> None:
        ran.append(n)

    message = note.send(1)
    workshop.publish()
    workshop.await_state(message.message_id, "published")
    with admin(workshop.settings.rabbitmq_url) as channel:
        deliveries = 0
        for method, _, _ in channel.consume(workshop.queue(), inactivity_timeout=3):
            if method is None:
                break
            deliveries += 1
            channel.basic_nack(method.delivery_tag, requeue=True)
            if deliveries > DELIVERY_LIMIT:
                break
        channel.cancel()
    lost = await_that(lambda: workshop.fate(message.message_id).losses)
    assert (deliveries, lost) == (DELIVERY_LIMIT + 1, 1)
    workshop.work()
    fate = workshop.await_state(message.message_id, "succeeded")
    assert (ran, fate.failures, fate.attempts) == ([1], 0, [])


def test_a_message_that_met_too_many_deploys_is_deleted_by_the_stock_broker_and_never_ran(
    make_stock: MakeStock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quorum queue counts each connection that ends without an acknowledgement; the stock dead letters have a TTL."""
    monkeypatch.setattr("dramatiq.brokers.rabbitmq.DEAD_MESSAGE_TTL", 200)  # for a week
    stock = make_stock()
    limited = {"x-queue-type": "quorum", "x-delivery-limit": 2}
    build: Any = stock.broker._build_queue_arguments
    monkeypatch.setattr(stock.broker, "_build_queue_arguments", lambda name: build(name) | limited)
    ran: list[int] = []

    @stock.actor()
    def note(n: int) -> None:
        ran.append(n)

    note.send_with_options(args=(1,), delay=60_000)  # a long delay waits in a worker's memory, unacknowledged
    for _ in range(3):
        await_that(lambda: depth_of(stock.url, f"{stock.queue()}.DQ") == 1)
        with admin(stock.url) as channel:
            await_that(lambda channel=channel: channel.basic_get(f"{stock.queue()}.DQ")[0])  # type: ignore[misc]
    await_that(lambda: stock.messages() == 0)
    assert ran == []


def test_the_stock_worker_gives_up_a_message_whose_actor_it_does_not_know_yet(make_stock: MakeStock) -> None:
    stock = make_stock()

    @stock.actor()
    def note(n: int) -> None: ...

    later: dramatiq.Message[Any] = dramatiq.Message(stock.queue(), "of_the_next_release", (1,), {}, {})
    stock.broker.enqueue(later)
    stock.work()
    await_that(lambda: depth_of(stock.url, f"{stock.queue()}.XQ") == 1)  # and in a week it is deleted


def test_an_actor_that_an_old_worker_does_not_know_runs_when_a_new_one_is_there(
    make_workshop: MakeWorkshop,
) -> None:
    old, new = make_workshop(), make_workshop()
    ran: list[int] = []

    @old.actor(actor_name="note")
    def _note(n: int) -> None: ...

    @new.actor()
    def of_the_next_release(n: int) -> None:
        ran.append(n)

    message = of_the_next_release.send(1)
    old.open()
    fate = old.await_state(message.message_id, "scheduled")
    assert (fate.failures, fate.crashes) == (0, 0)
    assert "of_the_next_release" in (fate.reason or "")

    old.stop_working()
    new.work()
    old.make_due(message.message_id)
    fate = old.await_state(message.message_id, "succeeded")
    assert (ran, fate.failures) == ([1], 0)


def test_a_skipped_message_is_gone_without_a_trace_on_the_stock_worker(make_stock: MakeStock) -> None:
    skips = Skips(failing=False)
    stock = make_stock(middleware=[skips])

    @stock.actor()
    def note(n: int) -> None: ...

    note.send(1)
    worker = stock.work()
    await_that(lambda: skips.skipped and worker.work_queue.unfinished_tasks == 0)
    stock.catch_up()
    worker.stop(timeout=2000)
    stock.worker = None
    assert stock.messages() == 0


@pytest.mark.parametrize(("failing", "state"), [(False, "cancelled"), (True, "dead")])
def test_a_skipped_message_has_an_outcome_with_a_reason(make_workshop: MakeWorkshop, failing: bool, state: str) -> None:
    workshop = make_workshop(middleware=[Skips(failing=failing)])
    ran: list[int] = []

    @workshop.actor()
    def note(n: int) -> None:
        ran.append(n)

    message = note.send(1)
    workshop.open()
    fate = workshop.await_state(message.message_id, state)
    assert "middleware" in (fate.reason or "")
    note.send(2)
    await_that(lambda: ran == [2])


def test_a_message_over_its_age_limit_ends_dead(workshop: Workshop) -> None:
    @workshop.actor(max_age=1)
    def note(n: int) -> None: ...

    message = note.send(1)
    workshop.open()
    assert "age" in (workshop.await_state(message.message_id, "dead").reason or "")
