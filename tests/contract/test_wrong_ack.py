"""Delivery tags start again at 1 on each connection: who acknowledges by the bare tag acknowledges another message."""

from __future__ import annotations

import threading

import dramatiq.worker
import pytest
from awaiting import await_that
from broker_side import admin, consumers, depth
from sides import Ours, Side


def test_a_task_that_ends_after_a_reconnect_acknowledges_no_other_message(
    side: Side, vhost_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dramatiq.worker, "CONSUMER_RESTART_DELAY_SECS", 0.5)  # time for another worker to take A
    started: list[str] = []
    may_end = {"A": threading.Event(), "B": threading.Event()}

    @side.actor()
    def note(name: str) -> None:
        started.append(name)
        may_end[name].wait(20)

    worker = side.work(threads=1)
    (consuming,) = worker.consumers.values() if isinstance(side, Ours) else [worker.consumers[side.queue()]]
    note.send("A")
    await_that(lambda: started == ["A"])
    before = consuming.consumer
    with admin(vhost_url) as channel:
        side.drop_connection()
        method = await_that(lambda: channel.basic_get(side.queue())[0])
        assert method is not None
        channel.basic_ack(method.delivery_tag)  # another worker took A
        second = note.send("B")
        await_that(lambda: consuming.consumer not in (None, before))
        await_that(lambda: arrived(consuming.consumer) == 1)
        may_end["A"].set()
        await_that(lambda: started == ["A", "B"])

        side.catch_up()
        consuming.running = False  # the process dies while B runs
        side.drop_connection()
        consuming.join(5)
        await_that(lambda: consumers(channel, side.queue()) == 0)
        left = depth(channel, side.queue())
    may_end["B"].set()

    assert left == (0 if side.loses else 1)  # 0: RabbitMQ was told that B is done, which nobody did
    if isinstance(side, Ours):
        side.workshop.await_state(second.message_id, "running", "pending", "succeeded")


def arrived(consumer: object) -> int:
    """Messages that this consumer has fetched and not acknowledged."""
    tags = getattr(consumer, "known_tags", None)
    return len(tags) if tags is not None else consumer.unclaimed + len(consumer._station._runs) - 1  # type: ignore[attr-defined]
