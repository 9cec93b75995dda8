"""What other producers may put into a queue that adopts: it never blocks it, kills no thread, and is never dropped."""

from __future__ import annotations

import base64
import json
from typing import Any
from uuid import uuid4

import pika
import pytest
from awaiting import await_that
from broker_side import admin
from sides import MakeStock
from workshop import Workshop

PERSISTENT = pika.BasicProperties(delivery_mode=2)
FOREIGN = "adopt"
FENCE = {"outbox_fence": str(uuid4())}

#: Bodies that are no message: they go aside, whole.
ASIDE: dict[str, bytes | dict[str, Any]] = {
    "nothing": b"",
    "not json": b"{oops",
    "not text": b"\xff\xfe\x00\x80",
    "a list": b"[1, 2]",
    "null": b"null",
    "deeply nested": b"[" * 100_000,
    "a field missing": {"kwargs": ...},
    "a field too many": {"foo": 1},
    "args null": {"args": None},
    "args a mapping": {"args": {}},
    "kwargs null": {"kwargs": None},
    "options null": {"options": None},
    "options a list": {"options": []},
    "actor null": {"actor_name": None},
    "actor with NUL": {"actor_name": "no\x00te"},
    "actor with a lone surrogate": {"actor_name": "no\ud800te"},
    "queue null": {"queue_name": None},
    "argument with NUL": {"args": ["a\x00b"]},
    "argument with a lone surrogate": {"args": ["a\ud800b"]},
    "argument that is no number": b'{"queue_name":"default","actor_name":"note","args":[NaN],"kwargs":{},"options":{}}',
    "too many arguments": {"args": [1, 2, 3]},
    "unknown argument": {"kwargs": {"who": 1}},
    "more than max_payload": {"args": ["x" * 1_100_000]},
    "eta out of range": {"options": {"eta": 10**30}},
}

#: Messages of another producer: they become rows, and run.
ADOPTED: dict[str, dict[str, Any]] = {
    "plain": {},
    "without ids": {"message_id": ..., "message_timestamp": ...},
    "id null": {"message_id": None},
    "id a number": {"message_id": 7},
    "timestamp null": {"message_timestamp": None},
    "timestamp a text": {"message_timestamp": "yesterday"},
    "another queue's name": {"queue_name": "elsewhere"},
    "queue name with NUL": {"queue_name": "de\x00fault"},
    "eta a text": {"options": {"eta": "soon"}},
    "eta in the past": {"options": {"eta": 1}},
    "eta null": {"options": {"eta": None}},
    "unknown options": {"options": {"whatever": [1, {"a": None}]}},
    "a fence without an id": {"options": FENCE},
    "a fence that is none": {"message_id": str(uuid4()), "options": {"outbox_fence": "x"}},
    "a fence that is null": {"message_id": str(uuid4()), "options": {"outbox_fence": None}},
}


class Shared:
    """One workshop for all these bodies: whatever one of them did to it, the next would notice."""

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop
        self.ran: list[Any] = []
        self.note = workshop.actor(actor_name="note", max_retries=1)(self._note)
        self.station = workshop.broker.station

    def _note(self, n: object) -> None:
        self.ran.append(n)
        if n == "fail":
            raise ValueError("as asked")

    def send_poison_then_a_good_message(self, *bodies: bytes) -> None:
        """Returns once the good message ran, with every thread and the consumer still there and nothing in hand."""
        consumer = self.station._consumers["default"]
        put(self.workshop.settings.rabbitmq_url, self.workshop.queue(), *bodies, body(args=["good"]))
        self.workshop.await_that(lambda: "good" in self.ran)
        self.workshop.await_that(lambda: not self.station._runs and not consumer.unclaimed and not consumer._tags)
        assert self.station._consumers["default"] is consumer
        worker = self.workshop.worker
        assert worker is not None
        assert all(thread.is_alive() for thread in worker.workers)


@pytest.fixture
def shared(shop: Workshop) -> Shared:
    return Shared(shop)


def put(url: str, queue: str, *bodies: bytes) -> None:
    with admin(url) as channel:
        channel.confirm_delivery()
        for body in bodies:
            channel.basic_publish("", queue, body, PERSISTENT)


@pytest.mark.parametrize("name", ["options null", "another queue's name"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_stock_queue_is_blocked(make_stock: MakeStock, name: str) -> None:
    stock = make_stock()
    ran: list[int] = []

    @stock.actor(actor_name="note")
    def note(n: int) -> None:
        ran.append(n)

    worker = stock.work(threads=1)
    before = await_that(lambda: worker.consumers[stock.queue()].consumer)
    poison = {"options": None} if name == "options null" else {"queue_name": "elsewhere"}
    good = {"queue_name": stock.queue()}
    put(stock.url, stock.queue(), body(**{**good, **poison}), body(**good, args=[2]))

    def blocked() -> bool:
        crash_loops = worker.consumers[stock.queue()].consumer is not before
        return crash_loops or not any(thread.is_alive() for thread in worker.workers)

    await_that(blocked)
    assert 2 not in ran


@pytest.mark.parametrize("name", ASIDE)
def test_what_is_no_message_is_set_aside_whole(shared: Shared, name: str) -> None:
    given = ASIDE[name]
    sent = given if isinstance(given, bytes) else body(**given)
    shared.send_poison_then_a_good_message(sent)
    (kept,) = [each for each in shared.workshop.audit() if each["action"] == "message set aside"]
    assert base64.b64decode(kept["body_base64"]) == sent
    assert kept["subject"] == "queue default"
    assert kept["error"]
    assert shared.ran == ["good"]


@pytest.mark.parametrize("name", ADOPTED)
def test_another_producers_message_becomes_a_row_and_runs(shared: Shared, name: str) -> None:
    shared.send_poison_then_a_good_message(body(**ADOPTED[name]))
    fates = shared.workshop.await_all("succeeded", 2)
    assert sorted(map(str, shared.ran)) == ["1", "good"]
    assert {fate.queue for fate in fates.values()} == {"default"}


def test_a_foreign_message_with_a_uuid_keeps_it_and_becomes_one_row_however_often_it_comes(shared: Shared) -> None:
    id = uuid4()
    again = body(message_id=str(id), options={"eta": 4102444800000})
    shared.send_poison_then_a_good_message(again, again, again)
    assert shared.workshop.fate(id).state == "scheduled"
    assert len(shared.workshop.fates()) == 2


def test_an_unknown_actors_message_becomes_a_row_that_waits_for_a_worker_that_knows_it(shared: Shared) -> None:
    shared.send_poison_then_a_good_message(body(actor_name="of_a_later_release"))
    (fate,) = [fate for fate in shared.workshop.fates().values() if fate.actor == "of_a_later_release"]
    fate = shared.workshop.await_state(fate.id, "scheduled")
    assert (fate.failures, fate.crashes) == (0, 0)
    assert "of_a_later_release" in (fate.reason or "")


@pytest.mark.parametrize("guess", ["unknown id", "known id"])
def test_a_guessed_fence_runs_nothing(shared: Shared, guess: str) -> None:
    real = shared.note.send_with_options(args=("later",), delay=3_600_000)
    id = real.message_id if guess == "known id" else str(uuid4())
    shared.send_poison_then_a_good_message(body(message_id=id, args=["forged"], options=FENCE))
    assert shared.ran == ["good"]
    assert shared.workshop.fate(real.message_id).state == "scheduled"


@pytest.mark.parametrize(
    "options",
    [
        {"max_retries": "many"},
        {"max_retries": [], "min_backoff": {}},
        {"throws": "ValueError"},
        {"on_retry_exhausted": 7, "max_retries": 0},
        {"pipe_target": {"no": "message"}},
        {"pipe_target": 3},
        {"on_success": "nobody"},
        {"on_failure": "nobody"},
        {"time_limit": "long"},
        {"max_age": "old"},
        {"notify_shutdown": {}},
    ],
    ids=str,
)
@pytest.mark.parametrize("argument", [1, "fail"])
def test_absurd_options_kill_no_thread_and_leave_nothing_running(
    shared: Shared, options: dict[str, Any], argument: object
) -> None:
    shared.send_poison_then_a_good_message(body(args=[argument], options=options))
    (fate,) = [fate for fate in shared.workshop.fates().values() if "good" not in fate.args]
    shared.workshop.await_state(fate.id, "succeeded", "scheduled", "dead")


def body(**fields: Any) -> bytes:
    """The body of a message as any Dramatiq producer would send it; `...` leaves a field out."""
    whole: dict[str, Any] = {
        "queue_name": "default",
        "actor_name": "note",
        "args": [1],
        "kwargs": {},
        "options": {},
        "message_id": "x",
        "message_timestamp": 1,
    }
    return json.dumps({name: value for name, value in {**whole, **fields}.items() if value is not ...}).encode()
