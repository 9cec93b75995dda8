"""RabbitMQ closes the channel of a consumer that keeps a message longer than `consumer_timeout`, by default 30 minutes."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from awaiting import await_that
from sides import MakeStock
from workshop import Workshop

from deploy.local.servers import RabbitMQ

SHORT = {"consumer_timeout": "1000", "channel_tick_interval": "200"}


@pytest.fixture(autouse=True)
def impatient(own_rabbitmq: RabbitMQ) -> Iterator[None]:
    """A broker whose patience, and the interval at which it looks, are milliseconds; for channels opened from now on."""
    names = ", ".join(SHORT)
    before = own_rabbitmq.ctl("eval", f"[application:get_env(rabbit, Name) || Name <- [{names}]].").strip()
    set_all(own_rabbitmq, f"[{', '.join(f'{{ok, {value}}}' for value in SHORT.values())}]")
    yield
    set_all(own_rabbitmq, before)


def set_all(server: RabbitMQ, values: str) -> None:
    """`values`: an Erlang list of `{ok, Value}`, in the order of SHORT."""
    pairs = f"lists:zip([{', '.join(SHORT)}], {values})"
    server.ctl("eval", f"[application:set_env(rabbit, Name, Value) || {{Name, {{ok, Value}}}} <- {pairs}].")


def test_the_stock_worker_runs_a_long_task_twice_at_the_same_time(make_stock: MakeStock) -> None:
    stock = make_stock()
    started: list[int] = []
    may_end = threading.Event()

    @stock.actor()
    def long(n: int) -> None:
        started.append(n)
        may_end.wait(20)

    long.send(1)
    stock.work(threads=2)
    await_that(lambda: started == [1, 1])
    may_end.set()


def test_a_long_task_runs_once_and_holds_up_nobody(workshop: Workshop) -> None:
    started: list[int] = []
    may_end = threading.Event()

    @workshop.actor()
    def long(n: int) -> None:
        started.append(n)
        may_end.wait(20)

    @workshop.actor()
    def quick(n: int) -> None:
        started.append(n)

    message = long.send(1)
    station = workshop.open(threads=2)
    await_that(lambda: started == [1])
    before = station._consumers["default"]
    await_that(lambda: station._consumers.get("default") not in (None, before))  # its channel was closed
    quick.send(2)
    await_that(lambda: started == [1, 2])  # the first came again before it, and was not run
    may_end.set()
    fate = workshop.await_state(message.message_id, "succeeded")
    assert (started, fate.failures, fate.attempts) == ([1, 2], 0, [])
