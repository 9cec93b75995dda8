"""Failures: Dramatiq's own option names, written to the row. What counts, when it runs again, when it ends dead."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from awaiting import await_that
from dramatiq.errors import RateLimitExceeded
from dramatiq.rate_limits import ConcurrentRateLimiter
from dramatiq.rate_limits.backends import StubBackend
from workshop import Fate, MakeWorkshop, Workshop

import outbox
from outbox.outcomes import Outcomes

QUICK: dict[str, Any] = {"min_backoff": 1, "max_backoff": 2}


class Boom(Exception):
    """What these actors raise."""


def failing(shop: Workshop, error: Callable[[], BaseException] = lambda: Boom("boom"), **options: Any) -> Any:
    """An actor that raises this, every time."""

    @shop.actor(actor_name="fail", **options)
    def fail(*_args: object) -> None:
        raise error()

    return fail


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.exc_info]


def wait_of(shop: Workshop, fate: Fate) -> timedelta:
    """How long it waits from the end of its last attempt on."""
    (wait,) = shop.db.execute(
        "select due_at - (attempts -> -1 ->> 'finished_at')::timestamptz from outbox.task where id = %s", [fate.id]
    ).fetchone() or (None,)
    assert isinstance(wait, timedelta)
    return wait


def test_max_retries_are_retries_after_the_first_attempt(shop: Workshop) -> None:
    fate = shop.await_state(failing(shop, max_retries=2, **QUICK).send().message_id, "dead")
    assert (fate.failures, fate.outcomes) == (3, ["failed", "failed", "dead"])
    assert fate.reason == "Boom: boom"


def test_max_retries_of_the_message_win(shop: Workshop) -> None:
    message = failing(shop, max_retries=9, **QUICK).send_with_options(max_retries=0)
    assert shop.await_state(message.message_id, "dead").failures == 1


def test_no_limit_of_retries_is_none(shop: Workshop) -> None:
    message = failing(shop, max_retries=None, **QUICK).send()
    await_that(lambda: shop.fate(message.message_id).failures > 5)
    assert shop.fate(message.message_id).state != "dead"


def test_max_attempts_of_the_enqueue_win_over_max_retries(shop: Workshop) -> None:
    actor = failing(shop, max_retries=9, **QUICK)
    with outbox_session(shop) as session:
        task = outbox.enqueue(session, actor.message(), max_attempts=2)
        session.commit()
    fate = shop.await_state(task.id, "dead")
    assert (fate.failures, len(fate.attempts)) == (2, 2)


def test_every_attempt_is_kept_with_its_times_its_error_and_its_traceback(shop: Workshop) -> None:
    fate = shop.await_state(failing(shop, max_retries=1, **QUICK).send().message_id, "dead")
    for attempt in fate.attempts:
        assert attempt["started_at"] <= attempt["finished_at"]
        assert attempt["error"] == "Boom: boom"
        assert "raise error()" in attempt["traceback"]
        assert attempt["worker"] == str(shop.broker.station.lease.id)
    first, second = fate.attempts
    assert first["run"] != second["run"]


@pytest.mark.parametrize(
    ("failures", "low", "high"),
    [(0, 10, 20), (1, 20, 40), (3, 30, 60)],
    ids=["first", "second", "fourth, more than max_backoff"],
)
def test_the_wait_doubles_with_jitter_between_min_and_max_backoff(
    shop: Workshop, failures: int, low: int, high: int
) -> None:
    message = failing(shop, min_backoff=10_000, max_backoff=60_000).send()
    for failed in range(failures + 1):
        await_that(lambda failed=failed: shop.fate(message.message_id).failures == failed + 1)  # type: ignore[misc]
        if failed < failures:
            shop.make_due(message.message_id)
    wait = wait_of(shop, shop.fate(message.message_id))
    assert timedelta(seconds=low) <= wait <= timedelta(seconds=high + 5)  # the 5: until it was recorded


def test_retry_with_a_delay_says_when(shop: Workshop) -> None:
    message = failing(shop, lambda: dramatiq.Retry("later", delay=7_200_000), **QUICK).send()
    fate = shop.await_state(message.message_id, "scheduled")
    assert timedelta(hours=1, minutes=59) < wait_of(shop, fate) < timedelta(hours=2, minutes=1)
    assert fate.failures == 1


def test_retry_when_decides_alone(shop: Workshop) -> None:
    asked: list[tuple[int, str]] = []

    def retry_when(retries: int, error: BaseException) -> bool:
        asked.append((retries, str(error)))
        return retries < 2

    fate = shop.await_state(failing(shop, retry_when=retry_when, max_retries=0, **QUICK).send().message_id, "dead")
    assert asked == [(0, "boom"), (1, "boom"), (2, "boom")]
    assert fate.failures == 3


def test_what_an_actor_throws_on_purpose_ends_it_at_once(shop: Workshop) -> None:
    fate = shop.await_state(failing(shop, throws=(Boom, KeyError)).send().message_id, "dead")
    assert (fate.failures, fate.reason) == (1, "Boom: boom")


def test_permanent_ends_it_at_once(shop: Workshop) -> None:
    message = failing(shop, lambda: outbox.Permanent("no such user"), max_retries=9).send()
    fate = shop.await_state(message.message_id, "dead")
    assert (fate.failures, fate.reason) == (1, "Permanent: no such user")


def test_a_snooze_counts_no_failure_however_often(shop: Workshop) -> None:
    naps: list[int] = []

    @shop.actor(max_retries=0)
    def sleepy() -> None:
        naps.append(1)
        if len(naps) < 4:
            raise outbox.Snooze(timedelta(milliseconds=1), "the far end is closed")

    message = sleepy.send()
    fate = shop.await_state(message.message_id, "succeeded")
    assert (fate.failures, fate.outcomes) == (0, ["snoozed"] * 3)
    assert fate.attempts[0]["error"] == "the far end is closed"


def test_a_snooze_waits_as_long_as_it_says(shop: Workshop) -> None:
    message = failing(shop, lambda: outbox.Snooze(timedelta(hours=1))).send()
    fate = shop.await_state(message.message_id, "scheduled")
    assert timedelta(minutes=59) < wait_of(shop, fate) < timedelta(minutes=61)


class TestThrottles:
    """A rate limiter that lets nobody in says "not now": no failure of the task."""

    def test_a_throttle_counts_no_failure_however_often(self, shop: Workshop) -> None:
        limiter = ConcurrentRateLimiter(StubBackend(), "far end", limit=1)
        asked: list[int] = []

        @shop.actor(max_retries=0, **QUICK)
        def call() -> None:
            asked.append(1)
            with limiter.acquire():
                pass

        with limiter.acquire():
            message = call.send()
            await_that(lambda: len(asked) >= 3)
        fate = shop.await_state(message.message_id, "succeeded")
        assert (fate.failures, set(fate.outcomes)) == (0, {"snoozed"})
        assert "far end" in fate.attempts[0]["error"]

    def test_it_waits_for_the_actors_backoff(self, shop: Workshop) -> None:
        actor = failing(shop, lambda: RateLimitExceeded("no"), min_backoff=3_600_000, max_backoff=3_600_000)
        fate = shop.await_state(actor.send().message_id, "scheduled")
        assert timedelta(minutes=29) < wait_of(shop, fate) <= timedelta(minutes=61)

    def test_an_actor_may_throw_it_all_the_same(self, shop: Workshop) -> None:
        actor = failing(shop, lambda: RateLimitExceeded("no"), throws=RateLimitExceeded)
        assert shop.await_state(actor.send().message_id, "dead").failures == 1


class TestWhenRetriesAreExhausted:
    def test_the_named_actor_is_told_in_the_transaction_of_the_death(self, shop: Workshop) -> None:
        told: list[tuple[dict[str, Any], dict[str, Any]]] = []

        @shop.actor()
        def mourn(message: dict[str, Any], retries: dict[str, Any]) -> None:
            told.append((message, retries))

        dead = failing(shop, max_retries=1, on_retry_exhausted="mourn", **QUICK).send("a")
        shop.await_state(dead.message_id, "dead")
        await_that(lambda: told)
        ((message, retries),) = told
        assert (message["message_id"], message["args"], retries) == (
            dead.message_id,
            ["a"],
            {"retries": 1, "max_retries": 1},
        )

    def test_nobody_is_told_of_what_an_actor_throws_on_purpose(self, shop: Workshop) -> None:
        told: list[object] = []

        @shop.actor()
        def mourn(message: object, retries: object) -> None:
            told.append(message)

        dead = failing(shop, throws=Boom, on_retry_exhausted="mourn").send()
        shop.await_state(dead.message_id, "dead")
        assert len(shop.fates()) == 1


def test_defaults_of_the_broker_hold_for_actors_that_say_nothing(make_workshop: MakeWorkshop) -> None:
    workshop = make_workshop(outcomes=Outcomes(max_retries=1, min_backoff=1, max_backoff=2))
    message = failing(workshop).send()
    workshop.open()
    assert workshop.await_state(message.message_id, "dead").failures == 2


class TestTextThatPostgreSqlDoesNotTake:
    @pytest.mark.parametrize("text", ["nul \x00 here", "lone \ud800 surrogate", "\x00" * 100_000], ids=ascii)
    @pytest.mark.parametrize("last", [False, True], ids=["failed", "dead"])
    def test_an_error_with_it_is_recorded(self, shop: Workshop, text: str, last: bool) -> None:
        message = failing(shop, lambda: Boom(text), max_retries=0 if last else 5).send()
        fate = shop.await_state(message.message_id, "dead" if last else "scheduled")
        assert (fate.reason or "").startswith("Boom: ")
        assert fate.failures == 1

    def test_a_snooze_with_it_is_recorded(self, shop: Workshop) -> None:
        message = failing(shop, lambda: outbox.Snooze(timedelta(hours=1), "\x00\ud800")).send()
        assert shop.await_state(message.message_id, "scheduled").reason == "\\0\\ud800"

    def test_a_failure_with_it_reaches_the_callback(self, shop: Workshop) -> None:
        told: list[dict[str, Any]] = []

        @shop.actor()
        def sorry(message: object, error: dict[str, Any]) -> None:
            told.append(error)

        failing(shop, lambda: Boom("nul \x00 and \ud800"), max_retries=0, on_failure="sorry").send()
        await_that(lambda: told)
        assert told[0]["type"] == "Boom"

    def test_an_error_whose_text_fails_is_recorded(self, shop: Workshop) -> None:
        class Mute(Exception):
            def __str__(self) -> str:
                raise RuntimeError("no words")

        message = failing(shop, Mute, max_retries=0).send()
        assert "Mute" in (shop.await_state(message.message_id, "dead").reason or "")

    @pytest.mark.parametrize(
        "error",
        [
            lambda: outbox.Snooze(timedelta(seconds=1), 42),  # type: ignore[arg-type]
            lambda: outbox.Snooze(timedelta.max, "for ever"),
            lambda: dramatiq.Retry("when?", delay=float("nan")),  # type: ignore[arg-type]
            lambda: dramatiq.Retry("when?", delay="soon"),  # type: ignore[arg-type]
            lambda: dramatiq.Retry("when?", delay=float("inf")),  # type: ignore[arg-type]
            lambda: dramatiq.Retry("in the past", delay=-5_000_000),
        ],
        ids=["snooze 42", "snooze for ever", "retry nan", "retry text", "retry infinity", "retry in the past"],
    )
    def test_an_absurd_wait_ends_neither_the_worker_nor_the_task(
        self, shop: Workshop, error: Callable[[], BaseException]
    ) -> None:
        message = failing(shop, error).send()
        await_that(lambda: shop.fate(message.message_id).attempts)
        assert shop.fate(message.message_id).due_at.year < 2200

        @shop.actor()
        def fine() -> None: ...

        shop.await_state(fine.send().message_id, "succeeded")


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit], ids=lambda e: e.__name__)
def test_a_base_exception_of_an_actor_is_a_failure(shop: Workshop, error: type[BaseException]) -> None:
    fate = shop.await_state(failing(shop, lambda: error("out"), max_retries=1).send().message_id, "scheduled")
    assert fate.failures == 1


def outbox_session(shop: Workshop) -> Any:
    from sqlalchemy.orm import Session

    return Session(shop.broker.engine())


@pytest.mark.parametrize(
    ("error", "state"),
    [(lambda: outbox.Permanent("no such mailbox"), "dead"), (lambda: outbox.Snooze(timedelta(hours=1)), "scheduled")],
)
def test_what_an_actor_says_on_purpose_leaves_no_traceback_in_the_log(
    shop: Workshop, caplog: pytest.LogCaptureFixture, error: Callable[[], BaseException], state: str
) -> None:
    message = failing(shop, error).send()
    shop.await_that(lambda: shop.fate(message.message_id).outcomes)
    assert shop.fate(message.message_id).state == state
    assert tracebacks(caplog) == []


def test_what_breaks_leaves_one(shop: Workshop, caplog: pytest.LogCaptureFixture) -> None:
    message = failing(shop, max_retries=0).send()
    shop.await_state(message.message_id, "dead")
    assert len(tracebacks(caplog)) == 1
