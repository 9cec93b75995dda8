"""What breaks around an actor: the stock worker acknowledges the message, and the task is gone. Ours is never gone."""

from __future__ import annotations

from typing import Any

import dramatiq
import pytest
from awaiting import await_that
from dramatiq.errors import ConnectionClosed
from dramatiq.middleware import GroupCallbacks, Middleware, MiddlewareError, Pipelines, Retries
from dramatiq.rate_limits.backends import StubBackend
from sides import MakeStock, Stock, raising
from workshop import MakeWorkshop, Workshop

UNFINISHED = ("scheduled", "pending", "published", "running")


class PredicateBug(RuntimeError):
    """The predicate of `retry_when` is broken."""


def broken_predicate(_retries: int, _error: BaseException) -> bool:
    raise PredicateBug("predicate bug")


def break_publishing(broker: dramatiq.Broker) -> None:
    """The path by which the worker publishes is down, while the one by which it consumes lives."""

    def enqueue(*_args: Any, **_kwargs: Any) -> None:
        raise ConnectionClosed(RuntimeError("publish path down"))

    broker.enqueue = enqueue  # type: ignore[method-assign,assignment]


def failing_actor(side: Stock | Workshop, **options: Any) -> tuple[Any, list[int]]:
    ran: list[int] = []

    @side.actor(**options)
    def fail(n: int) -> None:
        ran.append(n)
        raise ValueError("boom")

    return fail, ran


def lost_by_stock(stock: Stock, *, break_publish: bool = False, **options: Any) -> bool:
    """Whether a failing task is gone from its queue, the delays and the dead letters, and nobody was told."""
    fail, ran = failing_actor(stock, **options)
    fail.send(1)
    if break_publish:
        break_publishing(stock.broker)
    worker = stock.work()
    await_that(lambda: ran and worker.work_queue.unfinished_tasks == 0)
    stock.catch_up()
    worker.stop(timeout=2000)
    stock.worker = None
    return stock.messages() == 0


def test_a_retry_that_the_stock_worker_could_publish_is_kept_so_these_tests_can_fail(make_stock: MakeStock) -> None:
    assert not lost_by_stock(make_stock(middleware=[Retries()]))


def test_a_retry_needs_no_publishing(make_stock: MakeStock, workshop: Workshop) -> None:
    assert lost_by_stock(make_stock(middleware=[Retries()]), break_publish=True)

    fail, ran = failing_actor(workshop)
    message = fail.send(1)
    workshop.publish()
    break_publishing(workshop.broker)
    workshop.work()
    fate = workshop.await_state(message.message_id, "scheduled")
    assert (ran, fate.failures, fate.outcomes) == ([1], 1, ["failed"])


def test_a_broken_retry_when_loses_nothing(make_stock: MakeStock, workshop: Workshop) -> None:
    assert lost_by_stock(make_stock(middleware=[Retries(retry_when=broken_predicate)]))

    fail, _ = failing_actor(workshop, retry_when=broken_predicate)
    message = fail.send(1)
    workshop.open()
    fate = workshop.await_state(message.message_id, "scheduled")
    assert fate.failures == 1


def test_a_broken_retry_when_does_not_retry_for_ever(workshop: Workshop) -> None:
    fail, ran = failing_actor(workshop, retry_when=broken_predicate, max_retries=2, min_backoff=1, max_backoff=2)
    message = fail.send(1)
    workshop.open()
    fate = workshop.await_state(message.message_id, "dead")
    assert (len(ran), fate.failures) == (3, 3)


def test_no_middleware_is_needed_to_retry(make_stock: MakeStock, workshop: Workshop) -> None:
    assert lost_by_stock(make_stock(middleware=[]))

    assert not any(isinstance(middleware, Retries) for middleware in workshop.broker.middleware)
    fail, _ = failing_actor(workshop)
    message = fail.send(1)
    workshop.open()
    assert workshop.await_state(message.message_id, "scheduled").failures == 1


def test_a_middleware_that_breaks_after_the_actor_loses_nothing(
    make_stock: MakeStock, make_workshop: MakeWorkshop
) -> None:
    database_down = RuntimeError("database down")
    assert lost_by_stock(make_stock(middleware=[raising("after_process_message", database_down)]))

    workshop = make_workshop(middleware=[raising("after_process_message", database_down)])
    fail, _ = failing_actor(workshop)
    message = fail.send(1)
    workshop.open()
    assert workshop.await_state(message.message_id, "scheduled").failures == 1


def test_a_middleware_that_breaks_after_a_success_does_not_undo_it(make_workshop: MakeWorkshop) -> None:
    workshop = make_workshop(middleware=[raising("after_process_message", RuntimeError("metrics are down"))])
    ran = []

    @workshop.actor()
    def note(n: int) -> None:
        ran.append(n)

    message = note.send(1)
    workshop.open()
    workshop.await_state(message.message_id, "succeeded")
    assert ran == [1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    "hook", ["after_process_message", "before_process_message", "before_ack", "after_ack", "after_skip_message"]
)
def test_a_base_exception_in_a_hook_loses_nothing_and_the_thread_is_replaced(
    make_workshop: MakeWorkshop, hook: str
) -> None:
    workshop = make_workshop(middleware=[raising(hook, SystemExit("from a hook"))])
    ran = []

    @workshop.actor(min_backoff=1, max_backoff=2)
    def note(n: int) -> None:
        ran.append(n)

    first = note.send(1)
    workshop.open(threads=1)
    workshop.await_state(first.message_id, "succeeded", "scheduled")
    workshop.make_due(first.message_id)
    second = note.send(2)
    workshop.await_state(second.message_id, "succeeded")  # by the one thread that there is
    workshop.await_state(first.message_id, "succeeded")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_base_exception_in_a_hook_loses_the_task_and_the_thread_of_the_stock_worker(make_stock: MakeStock) -> None:
    stock = make_stock(middleware=[raising("after_process_message", SystemExit("from a hook"))])
    fail, ran = failing_actor(stock)
    fail.send(1)
    worker = stock.work()
    await_that(lambda: ran and not any(thread.is_alive() for thread in worker.workers))
    stock.catch_up()
    worker.stop(timeout=1000)
    stock.worker = None
    assert stock.messages() == 0


def test_a_hook_that_forbids_the_acknowledgement_keeps_no_task_running_for_ever(make_workshop: MakeWorkshop) -> None:
    refusal = MiddlewareError("completion not recorded")
    workshop = make_workshop(middleware=[raising("before_ack", refusal, times=100)])

    @workshop.actor()
    def note(n: int) -> None: ...

    for n in range(10):  # more than this worker holds at once
        note.send(n)
    station = workshop.open(threads=1)
    workshop.await_all("succeeded", 10)
    await_that(lambda: not station._runs)


class TestTheChain:
    """Pipelines and callbacks are sent by hooks: where that fails, the stock chain is silently cut."""

    def test_the_stock_chain_is_silently_cut(self, make_stock: MakeStock) -> None:
        stock = make_stock(middleware=[Pipelines()])
        ran: list[str] = []

        @stock.actor()
        def first() -> str:
            ran.append("first")
            return "result"

        @stock.actor()
        def second(result: str) -> None: ...

        dramatiq.pipeline([first.message(), second.message()], broker=stock.broker).run()
        break_publishing(stock.broker)
        worker = stock.work()
        await_that(lambda: ran and worker.work_queue.unfinished_tasks == 0)
        stock.catch_up()
        worker.stop(timeout=2000)
        stock.worker = None
        assert stock.messages() == 0

    @pytest.mark.parametrize("road", ["pipeline", "on_success"])
    def test_a_result_that_cannot_be_sent_on_is_a_failure_with_that_reason(self, workshop: Workshop, road: str) -> None:
        options: dict[str, Any] = {"on_success": "second"} if road == "on_success" else {}

        @workshop.actor(max_retries=0, **options)
        def first() -> object:
            return {1, 2}

        @workshop.actor()
        def second(*args: object) -> None: ...

        if road == "pipeline":
            dramatiq.pipeline([first.message(), second.message()], broker=workshop.broker).run()
        else:
            first.send()
        workshop.open()
        (fate,) = workshop.await_all("dead", 1).values()
        assert "set" in (fate.reason or "")


class UnsteadyBackend(StubBackend):
    """A rate limiter's backend that is away for a moment when a group's task wants to say that it is done."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 1

    def decr(self, *args: Any) -> bool:
        if self.left:
            self.left -= 1
            raise ConnectionError("the backend is away")
        return bool(super().decr(*args))


class TestTheGroup:
    """A group's completion callback is sent by a hook that asks a rate limiter's backend whether all are done."""

    def run_group(self, side: Stock | Workshop) -> tuple[list[int], list[str]]:
        """What ran of a group of one, and whether its callback did."""
        ran, told = list[int](), list[str]()

        @side.actor(min_backoff=1, max_backoff=2)
        def member(n: int) -> None:
            ran.append(n)

        @side.actor()
        def tell() -> None:
            told.append("all are done")

        group = dramatiq.group([member.message(1)], broker=side.broker)
        group.add_completion_callback(tell.message())
        group.run()
        return ran, told

    def test_the_stock_group_never_ends(self, make_stock: MakeStock) -> None:
        stock = make_stock(middleware=[Retries(), GroupCallbacks(UnsteadyBackend())])
        ran, told = self.run_group(stock)
        worker = stock.work()
        await_that(lambda: ran and worker.work_queue.unfinished_tasks == 0)
        stock.catch_up()
        worker.stop(timeout=2000)
        stock.worker = None
        assert (ran, told, stock.messages()) == ([1], [], 0)

    def test_a_callback_that_could_not_be_sent_is_a_failure_and_comes_with_the_retry(
        self, make_workshop: MakeWorkshop
    ) -> None:
        workshop = make_workshop(middleware=[GroupCallbacks(UnsteadyBackend())])
        ran, told = self.run_group(workshop)
        workshop.open()
        fates = workshop.await_all("succeeded", 2)
        assert (ran, told) == ([1, 1], ["all are done"])
        assert {fate.actor: fate.outcomes for fate in fates.values()} == {"member": ["failed"], "tell": []}


def test_a_middleware_that_breaks_before_the_actor_lets_it_run_guarded_all_the_same(
    make_workshop: MakeWorkshop,
) -> None:
    breaks: list[Middleware] = [raising("before_process_message", RuntimeError("a cache is down"))]
    workshop = make_workshop(middleware=breaks)
    ran = []

    @workshop.actor()
    def note(n: int) -> None:
        ran.append(n)

    message = note.send(1)
    workshop.open()
    workshop.await_state(message.message_id, "succeeded")
    assert ran == [1]


def test_a_middleware_error_before_the_actor_is_a_failure(make_workshop: MakeWorkshop) -> None:
    workshop = make_workshop(middleware=[raising("before_process_message", MiddlewareError("not now"))])
    ran = []

    @workshop.actor(min_backoff=1, max_backoff=2)
    def note(n: int) -> None:
        ran.append(n)

    message = note.send(1)
    workshop.open()
    fate = workshop.await_state(message.message_id, "succeeded")
    assert (ran, fate.failures, fate.outcomes) == ([1], 1, ["failed"])
