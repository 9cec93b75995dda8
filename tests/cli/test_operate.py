"""What operators do: allowed where the state allows it, written down in the same transaction."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from outbox import ArgumentError, TaskNotFound, WrongState, operate
from outbox.operate import QueueNotFound
from tests.cli.conftest import Scene


def test_a_retry_makes_dead_and_cancelled_tasks_due_with_their_attempts(scene: Scene) -> None:
    for (id,) in (scene.dead(), scene.cancelled()):
        before = scene.reader.task(scene.conn, id)
        operate.retry(scene.conn, scene.ledger, id, who="ada")
        task = scene.reader.task(scene.conn, id)
        assert task is not None
        assert before is not None
        assert (task.state, task.failures, len(task.attempts)) == ("pending", 0, len(before.attempts))
        assert scene.audit()[-1] == ("ada", "retry", str(id))


def test_a_retry_makes_a_retrying_task_due_now(scene: Scene) -> None:
    (id,) = scene.retrying()
    operate.retry(scene.conn, scene.ledger, id, who="ada")
    task = scene.reader.task(scene.conn, id)
    assert task is not None
    assert task.due_at <= datetime.now(UTC) + timedelta(seconds=1)


@pytest.mark.parametrize("state", ["succeeded", "pending", "published", "running"])
def test_a_retry_of_anything_else_is_refused_and_changes_nothing(scene: Scene, state: str) -> None:
    (id,) = getattr(scene, state)()
    with pytest.raises(WrongState, match=f"is {state}"):
        operate.retry(scene.conn, scene.ledger, id, who="ada")
    assert (scene.state(id), scene.audit()) == (state, [])


@pytest.mark.parametrize("state", ["scheduled", "pending", "published", "retrying"])
def test_what_has_not_started_is_cancelled_at_once(scene: Scene, state: str) -> None:
    (id,) = getattr(scene, state)()
    assert operate.cancel(scene.conn, scene.ledger, id, who="ada", reason="a mistake") == "cancelled"
    task = scene.reader.task(scene.conn, id)
    assert task is not None
    assert (task.state, task.reason) == ("cancelled", "a mistake")
    assert scene.audit() == [("ada", "cancel", str(id))]


def test_what_runs_is_asked_to_stop(scene: Scene) -> None:
    (id,) = scene.running()
    assert operate.cancel(scene.conn, scene.ledger, id, who="ada") == "requested"
    task = scene.reader.task(scene.conn, id)
    assert task is not None
    assert (task.state, task.cancel_requested) == ("running", True)


@pytest.mark.parametrize("state", ["succeeded", "dead", "cancelled"])
def test_what_is_finished_cannot_be_cancelled(scene: Scene, state: str) -> None:
    (id,) = getattr(scene, state)()
    with pytest.raises(WrongState, match=f"is {state}"):
        operate.cancel(scene.conn, scene.ledger, id, who="ada")


@pytest.mark.parametrize("state", ["scheduled", "pending", "published", "retrying"])
def test_what_has_not_started_can_be_moved(scene: Scene, state: str) -> None:
    (id,) = getattr(scene, state)()
    at = datetime(2030, 1, 31, 9, tzinfo=UTC)
    assert operate.reschedule(scene.conn, scene.ledger, id, who="ada", run_at=at) == at
    due = operate.reschedule(scene.conn, scene.ledger, id, who="ada", delay=timedelta(minutes=5))
    task = scene.reader.task(scene.conn, id)
    assert task is not None
    assert task.due_at == due
    assert timedelta(minutes=4) < due - datetime.now(UTC) < timedelta(minutes=6)
    assert [action for _, action, _ in scene.audit()] == ["reschedule", "reschedule"]


@pytest.mark.parametrize("state", ["running", "succeeded", "dead", "cancelled"])
def test_what_has_started_or_ended_cannot_be_moved(scene: Scene, state: str) -> None:
    (id,) = getattr(scene, state)()
    with pytest.raises(WrongState, match=r"it can be cancelled, not moved|only a task that has not started"):
        operate.reschedule(scene.conn, scene.ledger, id, who="ada", delay=timedelta(0))


@pytest.mark.parametrize(
    "when",
    [
        {}, {"run_at": datetime(2030, 1, 1, tzinfo=UTC), "delay": timedelta(0)}, {"run_at": datetime(2030, 1, 1)},
        {"delay": timedelta(seconds=-1)}, {"delay": timedelta(days=40_000)}, {"run_at": datetime(9999, 1, 1, tzinfo=UTC)},
    ],
)  # fmt: skip
def test_a_time_that_makes_no_sense_is_refused(scene: Scene, when: dict[str, Any]) -> None:
    (id,) = scene.pending()
    with pytest.raises(ArgumentError):
        operate.reschedule(scene.conn, scene.ledger, id, who="ada", **when)
    assert scene.state(id) == "pending"


def test_an_unknown_task_is_not_found(scene: Scene) -> None:
    for act, more in ((operate.retry, {}), (operate.cancel, {}), (operate.reschedule, {"delay": timedelta(0)})):
        with pytest.raises(TaskNotFound):
            act(scene.conn, scene.ledger, uuid4(), who="ada", **more)  # type: ignore[operator]


def test_a_paused_queue_takes_its_published_tasks_back(scene: Scene) -> None:
    ids = scene.published(2, queue="mail")
    assert operate.pause_queue(scene.conn, scene.ledger, "mail", who="ada") == 2
    assert [scene.state(id) for id in ids] == ["pending", "pending"]
    operate.resume_queue(scene.conn, scene.ledger, "mail", who="bob")
    assert scene.audit() == [("ada", "pause queue", "queue/mail"), ("bob", "resume queue", "queue/mail")]
    with pytest.raises(WrongState, match="not paused"):
        operate.resume_queue(scene.conn, scene.ledger, "mail", who="bob")


def test_a_misspelt_queue_is_not_found_and_not_made(scene: Scene) -> None:
    scene.pending(queue="mail")
    for act in (operate.pause_queue, operate.resume_queue):
        with pytest.raises(QueueNotFound, match="known: default, mail"):
            act(scene.conn, scene.ledger, "mial", who="ada")
    assert scene.conn.execute("select name from outbox.queue where name = 'mial'").fetchall() == []


def test_the_act_and_its_audit_line_are_one_transaction(scene: Scene) -> None:
    (id,) = scene.dead()
    with pytest.raises(RuntimeError), scene.conn.transaction():
        operate.retry(scene.conn, scene.ledger, id, who="ada")
        raise RuntimeError
    assert (scene.state(id), scene.audit()) == ("dead", [])
