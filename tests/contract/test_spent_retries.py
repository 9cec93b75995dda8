"""What is no fault of the task: it uses up the retries of the stock worker's, and costs ours nothing but time."""

from __future__ import annotations

import threading
import time
from typing import Any

from awaiting import await_that
from broker_side import admin, depth
from dramatiq.middleware import Retries, ShutdownNotifications
from dramatiq.rate_limits import ConcurrentRateLimiter
from dramatiq.rate_limits.backends import StubBackend
from sides import MakeStock, Stock
from workshop import Workshop


def is_given_up(stock: Stock) -> bool:
    """Whether the stock worker has moved the task aside, where it is deleted after a week."""
    with admin(stock.url) as channel:
        return depth(channel, f"{stock.queue()}.XQ") == 1


class TestThrottles:
    """`RateLimitExceeded` says that others were first."""

    def throttled(self, side: Stock | Workshop, **options: Any) -> Any:
        full = StubBackend()
        full.add("far end", 1, ttl=3_600_000)
        limiter = ConcurrentRateLimiter(full, "far end", limit=1)

        @side.actor(max_retries=2, min_backoff=1, max_backoff=2, **options)
        def call() -> None:
            with limiter.acquire():
                pass

        return call

    def test_the_stock_worker_gives_a_throttled_task_up(self, make_stock: MakeStock) -> None:
        stock = make_stock(middleware=[Retries()])
        self.throttled(stock).send()
        stock.work()
        await_that(lambda: is_given_up(stock))

    def test_ours_tries_it_for_as_long_as_it_takes(self, workshop: Workshop) -> None:
        message = self.throttled(workshop).send()
        workshop.open()
        await_that(lambda: len(workshop.fate(message.message_id).attempts) > 3)
        fate = workshop.fate(message.message_id)
        assert (fate.failures, set(fate.outcomes)) == (0, {"snoozed"})


class TestShutdown:
    """`notify_shutdown=True` interrupts what runs when its worker is told to stop."""

    def run_for_ever(self, side: Stock | Workshop) -> tuple[Any, threading.Event]:
        """An actor that ends only by being interrupted, and says when it has started."""
        started = threading.Event()

        @side.actor(max_retries=0, notify_shutdown=True)
        def run_for_ever() -> None:
            started.set()
            while True:
                time.sleep(0.01)

        return run_for_ever, started

    def test_the_stock_worker_gives_up_what_it_interrupts(self, make_stock: MakeStock) -> None:
        stock = make_stock(middleware=[ShutdownNotifications(), Retries()])
        actor, started = self.run_for_ever(stock)
        actor.send()
        worker = stock.work()
        assert started.wait(20)
        worker.stop(timeout=10_000)
        stock.worker = None
        assert is_given_up(stock)

    def test_ours_is_due_again_and_no_failure_is_counted(self, workshop: Workshop) -> None:
        actor, started = self.run_for_ever(workshop)
        message = actor.send()
        workshop.open()
        assert started.wait(20)
        workshop.stop_working()
        fate = workshop.fate(message.message_id)
        assert (fate.state, fate.failures, fate.outcomes) == ("scheduled", 0, ["interrupted"])
        assert "Shutdown" in fate.attempts[0]["error"]
