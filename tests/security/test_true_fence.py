"""Who can read a queue knows the fences of its tasks; what runs is all the same what their rows say."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from broker_side import admin
from hostile import ACTOR, PROPERTIES
from workshop import MakeWorkshop, Workshop

from outbox import doctor, foreign

Message = dict[str, Any]

#: What may be put in a true message's place, its id and fence untouched.
FORGED: dict[str, Callable[[Message], Message]] = {
    "another actor": lambda true: {**true, "actor_name": ACTOR},
    "an actor that there is not": lambda true: {**true, "actor_name": "os.system"},
    "other arguments": lambda true: {**true, "args": [999]},
    "more arguments": lambda true: {**true, "kwargs": {"n": 999}},
    "a callback": lambda true: {**true, "options": {**true["options"], "on_success": ACTOR}},
    "an age": lambda true: {**true, "message_timestamp": 1, "options": {**true["options"], "max_age": 1}},
    "another queue's name": lambda true: {**true, "queue_name": "elsewhere"},
}


def said(message: Message) -> bytes:
    return json.dumps(message).encode()


class Intercepted:
    """A workshop whose tasks' messages the attacker has taken out of the queue, before a worker came."""

    def __init__(self, workshop: Workshop, tasks: int) -> None:
        self.workshop = workshop
        self.ran: list[Any] = []
        self.paid: list[Any] = []
        good = workshop.actor(actor_name="good", max_retries=0)(self.ran.append)
        workshop.actor(actor_name=ACTOR, max_retries=0)(lambda *args, **kwargs: self.paid.append((args, kwargs)))
        workshop.broker.declare_queue("elsewhere")
        self.ids = [UUID(good.send(n).message_id) for n in range(tasks)]
        workshop.publish()
        workshop.await_all("published", tasks)
        self.true = dict(self._take() for _ in self.ids)

    def _take(self) -> tuple[UUID, Message]:
        with admin(self.workshop.settings.rabbitmq_url) as channel:
            method, _, body = channel.basic_get(self.workshop.queue(), auto_ack=True)
        assert method is not None
        assert body is not None
        return UUID(json.loads(body)["message_id"]), json.loads(body)

    def put(self, *bodies: bytes, queue: str = "default") -> None:
        with admin(self.workshop.settings.rabbitmq_url) as channel:
            channel.confirm_delivery()
            for body in bodies:
                channel.basic_publish("", self.workshop.queue(queue), body, PROPERTIES[0])

    def assert_each_ran_once_as_it_was_sent(self) -> None:
        fates = self.workshop.await_all("succeeded", len(self.ids))
        assert self.paid == []
        assert sorted(map(repr, self.ran)) == sorted(repr(n) for n in range(len(self.ids)))  # repr: 1 is not 1.0
        assert {(fate.failures, fate.crashes, fate.attempts == []) for fate in fates.values()} == {(0, 0, True)}


@pytest.fixture
def intercept(make_workshop: MakeWorkshop) -> Callable[[int], Intercepted]:
    return lambda tasks: Intercepted(make_workshop(), tasks)


def test_no_task_runs_with_other_words_than_its_rows_whoever_knows_its_fence(
    intercept: Callable[[int], Intercepted],
) -> None:
    scene = intercept(len(FORGED))
    count = foreign.FOREIGN.labels("forged")
    before = count._value.get()
    forged = {id: said(forge(scene.true[id])) for id, forge in zip(scene.ids, FORGED.values(), strict=True)}
    scene.put(*forged.values())
    scene.workshop.work()
    scene.assert_each_ran_once_as_it_was_sent()
    kept = scene.workshop.audit()
    assert {each["action"] for each in kept} == {"forged message refused"}
    assert {UUID(each["task"]): base64.b64decode(each["body_base64"]) for each in kept} == forged
    assert count._value.get() == before + len(FORGED)
    (told,) = [each.told for each in doctor.examine(scene.workshop.settings) if each.name == "kept aside"]
    assert told.startswith(f"{len(FORGED)} messages")


def test_a_message_is_of_no_use_in_another_queue(intercept: Callable[[int], Intercepted]) -> None:
    scene = intercept(2)
    scene.workshop.work(queues={"elsewhere"})
    scene.put(*map(said, scene.true.values()), queue="elsewhere")
    scene.workshop.await_that(lambda: len(scene.workshop.audit()) == 2)
    scene.workshop.stop_working()
    assert scene.ran == []
    scene.workshop.work()
    scene.assert_each_ran_once_as_it_was_sent()


def test_the_same_in_another_spelling_runs_for_a_relay_of_another_version_may_have_written_it(
    intercept: Callable[[int], Intercepted],
) -> None:
    scene = intercept(2)
    turned = [dict(reversed(true.items())) for true in scene.true.values()]
    scene.put(said(turned[0]), said({**turned[1], "args": [1.0]}))  # equal to Python; what runs is the row's
    scene.workshop.work()
    scene.assert_each_ran_once_as_it_was_sent()
    assert scene.workshop.audit() == []


def test_a_true_copy_behind_a_forged_one_neither_runs_twice_nor_is_missed(
    intercept: Callable[[int], Intercepted],
) -> None:
    scene = intercept(3)
    for true in scene.true.values():
        scene.put(said({**true, "actor_name": ACTOR}), said(true))
    scene.workshop.work()
    scene.assert_each_ran_once_as_it_was_sent()
