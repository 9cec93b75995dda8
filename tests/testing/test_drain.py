"""Running what was enqueued: outcomes as in a worker, in the test's own thread."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import dramatiq
import dramatiq.brokers.stub
import pytest
from dramatiq import pipeline
from dramatiq.middleware import SkipMessage
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session, sessionmaker

from outbox import ConfigurationError, OutboxBroker, Permanent, Snooze, current_run, enqueue
from outbox.testing import captured, drain, run_enqueued
from tests.testing.conftest import User


class Log(list[Any]):
    """What the actors say that they did."""


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def note(broker: OutboxBroker, log: Log) -> Any:
    @dramatiq.actor(broker=broker, actor_name="note")
    def note(value: Any) -> None:
        log.append(value)

    return note


def _actor(broker: OutboxBroker, run: Any, **options: Any) -> Any:
    return dramatiq.actor(run, broker=broker, actor_name="it", **options)


def test_arguments_have_been_through_json(session: Session, note: Any, log: Log) -> None:
    with captured() as tasks:
        enqueue(session, note.message({"pair": (1, 2)}))
        session.commit()
        report = tasks.drain().expect_success()
    assert log == [{"pair": [1, 2]}]
    assert [ran.outcome for ran in report] == ["succeeded"]
    assert tasks.tasks[0].state == "succeeded"


def test_a_delayed_task_runs_only_when_delays_are_included(note: Any, log: Log) -> None:
    with captured():
        note.send_with_options(args=("later",), delay=3_600_000)
        note.send("now")
        assert len(drain()) == 1
        assert log == ["now"]
        assert len(drain(include_delayed=True)) == 1
        assert log == ["now", "later"]
        assert drain(include_delayed=True) == []


def test_what_an_actor_sends_is_enqueued_by_its_success_and_drained(broker: OutboxBroker, note: Any, log: Log) -> None:
    def parent() -> None:
        note.send("child")

    it = _actor(broker, parent)
    with captured() as tasks:
        it.send()
        assert len(run_enqueued()) == 1
        assert log == []
        tasks.assert_enqueued(note)
        assert len(drain()) == 1
    assert log == ["child"]


def test_what_an_actor_sent_before_it_raised_is_not_enqueued(broker: OutboxBroker, note: Any) -> None:
    def parent() -> None:
        note.send("child")
        raise RuntimeError("boom")

    it = _actor(broker, parent)
    with captured() as tasks:
        it.send()
        drain()
        tasks.refute_enqueued(note)


def test_a_failure_is_reported_and_due_again_after_its_backoff(broker: OutboxBroker) -> None:
    def fails() -> None:
        raise RuntimeError("boom")

    it = _actor(broker, fails, min_backoff=60_000)
    with captured() as tasks:
        it.send()
        report = drain()
        (ran,) = report
        assert (ran.outcome, ran.attempt, ran.error) == ("failed", 1, "RuntimeError: boom")
        assert ran.wait is not None
        assert ran.wait >= timedelta(seconds=30)
        assert tasks.tasks[0].state == "retrying"
        with pytest.raises(AssertionError, match="attempt 1 failed: RuntimeError: boom") as raised:
            report.expect_success()
        assert isinstance(raised.value.__cause__, RuntimeError)
        assert drain() == []


def test_with_delays_included_a_task_is_retried_until_it_is_dead(broker: OutboxBroker) -> None:
    def fails() -> None:
        raise RuntimeError(f"attempt {current_run().attempt}")

    it = _actor(broker, fails, max_retries=2)
    with captured() as tasks:
        it.send()
        report = drain(include_delayed=True)
        assert [(ran.attempt, ran.outcome) for ran in report] == [(1, "failed"), (2, "failed"), (3, "dead")]
        assert report[-1].error == "RuntimeError: attempt 3"
        assert (tasks.tasks[0].state, tasks.tasks[0].failures) == ("dead", 3)


def test_max_attempts_of_the_task_wins(session: Session, broker: OutboxBroker) -> None:
    def fails() -> None:
        raise RuntimeError

    it = _actor(broker, fails)
    with captured():
        enqueue(session, it.message(), max_attempts=2)
        session.commit()
        assert [ran.outcome for ran in drain(include_delayed=True)] == ["failed", "dead"]


def test_permanent_is_dead_at_once_and_a_snooze_counts_no_failure(broker: OutboxBroker) -> None:
    def decides(what: str) -> None:
        if what == "permanent":
            raise Permanent("no such address")
        if current_run().attempt < 3:
            raise Snooze(timedelta(minutes=5), "greylisted")

    it = _actor(broker, decides)
    with captured() as tasks:
        it.send("permanent")
        it.send("snooze")
        dead, snoozed = drain()
        assert (dead.outcome, dead.error) == ("dead", "Permanent: no such address")
        assert (snoozed.outcome, snoozed.error, snoozed.wait) == ("snoozed", "greylisted", timedelta(minutes=5))
        assert (tasks.tasks[1].state, tasks.tasks[1].failures) == ("scheduled", 0)
        assert [ran.outcome for ran in drain(include_delayed=True)] == ["snoozed", "succeeded"]


def test_a_task_that_never_ends_is_given_up_loudly(broker: OutboxBroker) -> None:
    def snoozes() -> None:
        raise Snooze(timedelta(minutes=5))

    it = _actor(broker, snoozes)
    with captured():
        it.send()
        with pytest.raises(AssertionError, match="still not done after 20 runs"):
            drain(include_delayed=True, limit=20)


def test_the_runs_own_session_commits_with_its_success_and_rolls_back_with_its_failure(
    broker: OutboxBroker, engine: Engine, note: Any, log: Log
) -> None:
    def writes(email: str, fail: bool) -> None:
        current_run().session().add(User(email=email))
        note.send(email)
        if fail:
            raise Permanent("no")

    it = _actor(broker, writes)
    with captured(sessions=sessionmaker(engine)):
        it.send("kept@example.org", False)
        it.send("lost@example.org", True)
        assert [ran.outcome for ran in drain()] == ["succeeded", "dead", "succeeded"]
    with Session(engine) as session:
        assert session.scalars(select(User.email)).all() == ["kept@example.org"]
    assert log == ["kept@example.org"]


def test_without_sessions_the_mend_is_named(broker: OutboxBroker) -> None:
    def writes() -> None:
        current_run().session()

    it = _actor(broker, writes)
    with captured():
        it.send()
        (ran,) = drain()
    assert "sessions=sessionmaker" in ran.error


def test_an_ordering_key_holds_followers_until_its_head_has_ended(
    session: Session, broker: OutboxBroker, note: Any, log: Log
) -> None:
    def stubborn() -> None:
        log.append("head")
        if current_run().failures < 1:
            raise RuntimeError

    it = _actor(broker, stubborn, max_retries=3)
    with captured():
        enqueue(session, it.message(), ordering_key="a")
        enqueue(session, note.message("follower"), ordering_key="a", priority=-5)
        enqueue(session, note.message("other"), ordering_key="b")
        session.commit()
        drain()
        assert log == ["head", "other"]
        drain(include_delayed=True)
    assert log == ["head", "other", "head", "follower"]


def test_the_lower_priority_number_runs_first(session: Session, note: Any, log: Log) -> None:
    with captured():
        enqueue(session, note.message("second"), priority=5)
        enqueue(session, note.message("first"), priority=-5)
        session.commit()
        drain()
    assert log == ["first", "second"]


def test_an_expired_task_is_cancelled_instead_of_run(session: Session, note: Any, log: Log) -> None:
    with captured() as tasks:
        enqueue(session, note.message("late"), expires_at=datetime.now(UTC) - timedelta(seconds=1))
        session.commit()
        assert [ran.outcome for ran in drain()] == ["cancelled"]
    assert (log, tasks.tasks[0].state) == ([], "cancelled")


def test_async_actors_run_too(broker: OutboxBroker, log: Log) -> None:
    async def later() -> None:
        log.append(current_run().attempt)

    it = dramatiq.actor(later, broker=broker, actor_name="it")
    with captured():
        it.send()
        drain().expect_success()
    assert log == [1]
    assert not [each for each in threading.enumerate() if type(each).__name__ == "EventLoopThread"]


def test_pipelines_and_callbacks_go_on(broker: OutboxBroker, note: Any, log: Log) -> None:
    @dramatiq.actor(broker=broker)
    def double(value: int) -> int:
        return value * 2

    @dramatiq.actor(broker=broker)
    def told(message: Any, error: Any = None) -> None:
        log.append(("told", error and error["type"]))

    def fails() -> None:
        raise RuntimeError

    it = _actor(broker, fails, max_retries=0)
    with captured():
        pipeline([double.message(3), double.message(), note.message()]).run()
        it.send_with_options(on_failure=told)
        drain()
    assert log == [12, ("told", "RuntimeError")] or log == [("told", "RuntimeError"), 12]


def test_a_middleware_that_skips_ends_the_task_cancelled(broker: OutboxBroker, note: Any, log: Log) -> None:
    class Skips(dramatiq.Middleware):
        def before_process_message(self, broker: Any, message: Any) -> None:
            raise SkipMessage("not today")

    broker.add_middleware(Skips())
    with captured():
        note.send(1)
        assert [ran.outcome for ran in drain()] == ["cancelled"]
    assert log == []


def test_an_unknown_actor_waits_for_a_worker_that_knows_it(session: Session, broker: OutboxBroker) -> None:
    with captured():
        enqueue(session, dramatiq.Message("default", "unheard_of", (), {}, {}))
        session.commit()
        (ran,) = drain()
    assert (ran.outcome, "knows no actor" in ran.error) == ("snoozed", True)


def test_another_kind_of_broker_is_refused_with_the_mend(broker: OutboxBroker, note: Any) -> None:
    with captured():
        note.send(1)
        dramatiq.set_broker(dramatiq.brokers.stub.StubBroker())
        with pytest.raises(ConfigurationError, match="tests need an OutboxBroker"):
            drain()
