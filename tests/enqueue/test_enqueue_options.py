"""Options that make no sense fail when the task is enqueued, with the actor and the option in the message."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker
from outbox_rows import Outbox, a_message

from outbox import ArgumentError, enqueue
from outbox.tasks import OutboxTasks

LATER = datetime(2100, 1, 1, tzinfo=UTC)
BAD: list[tuple[dict[str, Any], str]] = [
    ({"delay": timedelta(seconds=-1)}, "delay"),
    ({"delay": timedelta(days=40_000)}, "delay"),
    ({"delay": 5}, "delay"),
    ({"delay": "5s"}, "delay"),
    ({"run_at": datetime(2100, 1, 1)}, "run_at"),
    ({"run_at": "2100-01-01"}, "run_at"),
    ({"run_at": 1_700_000_000}, "run_at"),
    ({"run_at": datetime(9999, 1, 1, tzinfo=UTC)}, "run_at"),
    ({"run_at": LATER, "delay": timedelta(1)}, "delay and run_at"),
    ({"expires_at": datetime(2100, 1, 1)}, "expires_at"),
    ({"expires_at": timedelta(1)}, "expires_at"),
    ({"priority": 1.5}, "priority"),
    ({"priority": "high"}, "priority"),
    ({"priority": True}, "priority"),
    ({"priority": 40_000}, "priority"),
    ({"ordering_key": ""}, "ordering_key"),
    ({"ordering_key": "x" * 501}, "ordering_key"),
    ({"ordering_key": "é" * 251}, "ordering_key"),
    ({"ordering_key": "a\x00b"}, "ordering_key"),
    ({"ordering_key": "\ud800"}, "ordering_key"),
    ({"ordering_key": 7}, "ordering_key"),
    ({"ordering_key": "a", "concurrency_key": "b", "concurrency_limit": 1}, "ordering_key and concurrency_key"),
    ({"hold_on_dead": True}, "hold_on_dead"),
    ({"ordering_key": "a", "hold_on_dead": 1}, "hold_on_dead"),
    ({"concurrency_key": "a"}, "concurrency_limit"),
    ({"concurrency_limit": 3}, "concurrency_key"),
    ({"concurrency_key": "a", "concurrency_limit": 0}, "concurrency_limit"),
    ({"concurrency_key": "a", "concurrency_limit": 2.0}, "concurrency_limit"),
    ({"concurrency_key": "", "concurrency_limit": 2}, "concurrency_key"),
    ({"unique_key": ""}, "unique_key"),
    ({"unique_key": "\x00"}, "unique_key"),
    ({"unique_key": b"bytes"}, "unique_key"),
    ({"unique_key": "k" * 501}, "unique_key"),
    ({"max_attempts": 0}, "max_attempts"),
    ({"max_attempts": "3"}, "max_attempts"),
    ({"max_attempts": 10**9}, "max_attempts"),
    ({"task_id": "not-a-uuid"}, "task_id"),
    ({"task_id": str(uuid4())}, "task_id"),
]


@pytest.mark.parametrize(("options", "named"), BAD, ids=[f"{next(iter(o))}-{n}" for n, (o, _) in enumerate(BAD)])
def test_an_option_that_makes_no_sense_is_named_with_its_actor(
    outbox: Outbox, options: dict[str, Any], named: str
) -> None:
    with outbox.session() as session:
        with pytest.raises(ArgumentError) as caught:
            enqueue(session, a_message(1), **options)
        assert str(caught.value).startswith("send_mail: ")
        assert named in str(caught.value)
        session.commit()
    assert outbox.ids() == []


@pytest.mark.parametrize(
    "options",
    [{"eta": "soon"}, {"eta": 1e30}, {"delay": "1"}, {"delay": -5}, {"delay": 1e300}, {"delay": float("nan")}],
)
def test_dramatiq_s_own_time_options_are_checked_too(outbox: Outbox, options: dict[str, Any]) -> None:
    message = a_message(1).copy(options=options)
    with outbox.session() as session, pytest.raises(ArgumentError, match=f"send_mail.*{next(iter(options))}"):
        enqueue(session, message)


@pytest.mark.parametrize("queue", ["", "q" * 201, "a\x00b", "\ud800", 7])
def test_a_queue_that_the_broker_cannot_have_is_refused(outbox: Outbox, queue: Any) -> None:
    """AMQP gives a name 255 bytes, prefix and suffix included."""
    with outbox.session() as session, pytest.raises(ArgumentError, match=r"send_mail.*queue"):
        enqueue(session, a_message(1, queue=queue))


def test_every_option_reaches_its_column(outbox: Outbox) -> None:
    zone, id = timezone(timedelta(hours=5, minutes=45)), uuid4()
    with outbox.session() as session:
        task = enqueue(
            session,
            a_message(1),
            run_at=datetime(2100, 1, 2, 3, 4, 5, 678901, tzinfo=zone),
            expires_at=datetime(2100, 1, 3, tzinfo=zone),
            priority=-7,
            ordering_key="order 7/é",
            hold_on_dead=True,
            unique_key="ключ",
            max_attempts=9,
            task_id=id,
        )
        session.commit()
    row = outbox.row(id)
    assert task.id == id
    assert row["state"] == "scheduled"
    assert row["due_at"] == datetime(2100, 1, 2, 3, 4, 5, 678901, tzinfo=zone)
    assert row["expires_at"] == datetime(2100, 1, 3, tzinfo=zone)
    assert (row["priority"], row["lane"], row["lane_holds"]) == (-7, "order/order 7/é", True)
    assert (row["unique_key"], row["max_attempts"], row["queue"], row["actor"]) == ("ключ", 9, "mail", "send_mail")


def test_a_concurrency_key_carries_its_limit(outbox: Outbox) -> None:
    row = outbox.row(outbox.add(1, concurrency_key="host", concurrency_limit=3))
    assert (row["lane"], row["lane_limit"], row["state"]) == ("limit/host", 3, "waiting")


def test_the_actor_s_priority_and_queue_count_unless_others_are_given(outbox: Outbox, broker: StubBroker) -> None:
    @dramatiq.actor(priority=4, queue_name="bulk")
    def newsletter() -> None: ...

    with outbox.session() as session:
        tasks = OutboxTasks(session)
        own = tasks.add_task(newsletter)
        given = tasks.options(priority=0).add_task(newsletter)
        session.commit()
    assert [(outbox.row(t.id)["priority"], outbox.row(t.id)["queue"]) for t in (own, given)] == [
        (4, "bulk"),
        (0, "bulk"),
    ]


def test_options_add_up_and_leave_the_tasks_they_came_from_alone(outbox: Outbox, broker: StubBroker) -> None:
    @dramatiq.actor
    def remind() -> None: ...

    with outbox.session() as session:
        tasks = OutboxTasks(session)
        urgent = tasks.options(priority=-1)
        both = urgent.options(max_attempts=2).add_task(remind)
        one = urgent.add_task(remind)
        none = tasks.add_task(remind)
        session.commit()
    found = [(outbox.row(t.id)["priority"], outbox.row(t.id)["max_attempts"]) for t in (both, one, none)]
    assert found == [(-1, 2), (-1, None), (0, None)]


def test_an_unknown_option_is_a_type_error_at_once(outbox: Outbox, broker: StubBroker) -> None:
    @dramatiq.actor
    def remind() -> None: ...

    with outbox.session() as session, pytest.raises(TypeError, match="dellay"):
        OutboxTasks(session).options(dellay=timedelta(1)).add_task(remind)  # type: ignore[call-arg]


def test_a_message_s_options_travel_but_not_those_that_are_columns(outbox: Outbox) -> None:
    forged = "00000000-0000-0000-0000-000000000000"
    message = a_message(1).copy(options={"max_retries": 3, "eta": 1, "outbox_fence": forged, "note": "é"})
    with outbox.session() as session:
        task = enqueue(session, message)
        session.commit()
    row = outbox.row(task.id)
    assert row["options"] == {"max_retries": 3, "note": "é"}
    assert row["fence"] != UUID(forged)


def test_the_id_is_known_at_once_ordered_by_time_and_the_message_s_own_id_is_not_used(outbox: Outbox) -> None:
    with outbox.session() as session:
        tasks = [enqueue(session, a_message(n)) for n in range(100)]
        ids = [task.id for task in tasks]
        session.commit()
    assert ids == sorted(ids)
    assert {id.version for id in ids} == {7}
    assert [row["id"] for row in sorted(outbox.all(), key=lambda row: row["args"])] == ids


def test_fences_are_random_and_differ(outbox: Outbox) -> None:
    outbox.add_many(100)
    fences = {row["fence"] for row in outbox.all()}
    assert len(fences) == 100
    assert {fence.version for fence in fences} == {4}
