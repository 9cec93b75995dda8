"""What an actor sends is its child: it exists when the run's outcome does, and not a moment earlier or otherwise."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import dramatiq
import pytest
from awaiting import await_that
from workshop import MakeWorkshop, Workshop

import outbox


def children(shop: Workshop, actor: str = "child") -> int:
    return sum(fate.actor == actor for fate in shop.fates().values())


@pytest.fixture
def ran(shop: Workshop) -> list[Any]:
    """The arguments with which the actor `child` ran."""
    ran: list[Any] = []

    @shop.actor()
    def child(*args: Any) -> None:
        ran.append(args)

    return ran


def test_a_child_is_committed_with_the_success_and_not_before(shop: Workshop, ran: list[Any]) -> None:
    sent, may_end = threading.Event(), threading.Event()

    @shop.actor()
    def parent() -> None:
        shop.broker.get_actor("child").send(1)
        shop.broker.get_actor("child").send_with_options(args=(2,), delay=3_600_000)
        sent.set()
        may_end.wait(20)

    message = parent.send()
    assert sent.wait(20)
    assert children(shop) == 0
    may_end.set()
    shop.await_state(message.message_id, "succeeded")
    assert children(shop) == 2
    await_that(lambda: ran == [(1,)])
    assert "scheduled" in {fate.state for fate in shop.fates().values()}


def test_children_sent_before_a_raise_are_dropped(shop: Workshop, ran: list[Any]) -> None:
    attempts: list[int] = []

    @shop.actor(min_backoff=1, max_backoff=2)
    def parent() -> None:
        attempts.append(1)
        shop.broker.get_actor("child").send(len(attempts))
        if len(attempts) < 3:
            raise ValueError("boom")

    shop.await_state(parent.send().message_id, "succeeded")
    await_that(lambda: ran)
    assert (ran, children(shop)) == ([(3,)], 1)


@pytest.mark.parametrize("error", [outbox.Permanent("no"), dramatiq.Retry("again", delay=3_600_000)], ids=str)
def test_children_of_what_did_not_succeed_are_dropped(shop: Workshop, ran: list[Any], error: Exception) -> None:
    @shop.actor()
    def parent() -> None:
        shop.broker.get_actor("child").send(1)
        raise error

    shop.await_state(parent.send().message_id, "dead", "scheduled")
    assert children(shop) == 0


def test_a_child_that_cannot_be_enqueued_is_an_error_in_the_actor(shop: Workshop, ran: list[Any]) -> None:
    @shop.actor(max_retries=0)
    def parent() -> None:
        shop.broker.get_actor("child").send(object())

    assert "not JSON" in (shop.await_state(parent.send().message_id, "dead").reason or "")


def test_one_message_sent_twice_is_one_culprit_and_ends_dead(shop: Workshop, ran: list[Any]) -> None:
    @shop.actor(max_retries=0)
    def parent() -> None:
        message = shop.broker.get_actor("child").message(1)
        shop.broker.enqueue(message)
        shop.broker.enqueue(message)

    fate = shop.await_state(parent.send().message_id, "dead", "scheduled")
    assert "could not be recorded" in (fate.reason or "")
    assert children(shop) == 0


def test_what_an_async_actor_sends_is_its_child(shop: Workshop, ran: list[Any]) -> None:
    attempts: list[int] = []

    @shop.actor(min_backoff=1, max_backoff=2)
    async def parent() -> None:
        attempts.append(1)
        await asyncio.sleep(0)
        shop.broker.get_actor("child").send(len(attempts))
        assert outbox.current_run().attempt == len(attempts)
        if len(attempts) < 2:
            raise ValueError("boom")

    fate = shop.await_state(parent.send().message_id, "succeeded")
    await_that(lambda: ran)
    assert (ran, fate.failures) == ([(2,)], 1)


class TestCallbacks:
    def test_on_success_is_told_the_result_when_the_success_is_recorded(self, shop: Workshop) -> None:
        told: list[Any] = []

        @shop.actor()
        def well_done(message: dict[str, Any], result: Any) -> None:
            told.append((message["message_id"], result))

        @shop.actor(on_success="well_done")
        def parent() -> dict[str, int]:
            return {"answer": 42}

        message = parent.send()
        await_that(lambda: told)
        assert told == [(message.message_id, {"answer": 42})]
        assert children(shop, "well_done") == 1

    def test_on_failure_is_told_of_each_failure(self, shop: Workshop) -> None:
        told: list[Any] = []

        @shop.actor()
        def sorry(message: dict[str, Any], error: dict[str, Any]) -> None:
            told.append(error)

        @shop.actor(on_failure="sorry", max_retries=1, min_backoff=1, max_backoff=2)
        def parent() -> None:
            raise ValueError("boom")

        shop.await_state(parent.send().message_id, "dead")
        await_that(lambda: len(told) == 2)
        assert told[0] == {"type": "ValueError", "message": "boom"}

    def test_an_on_success_that_nobody_knows_is_a_failure_not_a_silence(self, shop: Workshop) -> None:
        @shop.actor(on_success="nobody", max_retries=0)
        def parent() -> None: ...

        assert "nobody" in (shop.await_state(parent.send().message_id, "dead", "scheduled").reason or "")


class TestPipelines:
    def test_each_step_becomes_a_row_when_the_one_before_is_recorded(self, shop: Workshop) -> None:
        seen: list[Any] = []
        before: list[int] = []

        @shop.actor()
        def double(n: int) -> int:
            before.append(len(shop.fates()))
            return n * 2

        @shop.actor()
        def keep(n: int) -> None:
            seen.append(n)

        dramatiq.pipeline([double.message(5), double.message(), keep.message()], broker=shop.broker).run()
        await_that(lambda: seen == [20])
        assert before == [1, 2]
        shop.await_all("succeeded", 3)

    def test_a_delayed_step_waits_as_a_row(self, shop: Workshop) -> None:
        @shop.actor()
        def first() -> int:
            return 1

        @shop.actor()
        def second(n: int) -> None: ...

        dramatiq.pipeline([first.message(), second.message_with_options(delay=3_600_000)], broker=shop.broker).run()
        await_that(lambda: children(shop, "second") == 1)
        assert {fate.actor: fate.state for fate in shop.fates().values()}["second"] == "scheduled"

    def test_a_failed_step_sends_nothing_on(self, shop: Workshop) -> None:
        @shop.actor(max_retries=0)
        def first() -> int:
            raise ValueError("boom")

        @shop.actor()
        def second(n: int) -> None: ...

        dramatiq.pipeline([first.message(), second.message()], broker=shop.broker).run()
        shop.await_all("dead", 1)


def test_outside_of_a_run_a_send_is_committed_at_once(make_workshop: MakeWorkshop) -> None:
    workshop = make_workshop()

    @workshop.actor()
    def note() -> None: ...

    message = note.send()
    assert workshop.fate(message.message_id).state == "pending"
    assert message.message_id == str(workshop.fate(message.message_id).id)


def test_there_is_no_run_outside_of_an_actor() -> None:
    with pytest.raises(LookupError):
        outbox.current_run()
