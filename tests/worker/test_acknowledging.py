"""Acknowledgements: one for many, and never one too many."""

from __future__ import annotations

import threading

from awaiting import await_that
from broker_side import depth_of
from hypothesis import given
from hypothesis import strategies as st
from workshop import Workshop

from outbox.consumer import acknowledgements


class Channel:
    """RabbitMQ's account of a channel: what it waits for, in order, and what it does with an acknowledgement."""

    def __init__(self, tags: list[int]) -> None:
        self.waits_for = list(tags)

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        assert tag in self.waits_for, "PRECONDITION_FAILED: unknown delivery tag"
        self.waits_for = [each for each in self.waits_for if each != tag and not (multiple and each < tag)]


@given(st.sets(st.integers(1, 60)), st.lists(st.sets(st.integers(1, 60)), max_size=6))
def test_exactly_what_has_ended_is_acknowledged_whatever_was_answered_before(
    unanswered: set[int], flushes: list[set[int]]
) -> None:
    tags, channel = dict.fromkeys(sorted(unanswered)), Channel(sorted(unanswered))
    for ended in flushes:
        through, alone = acknowledgements(tags, ended)
        if through is not None:
            channel.ack(through, multiple=True)
        for tag in alone:
            channel.ack(tag)
        for tag in ended:
            tags.pop(tag, None)
        assert channel.waits_for == list(tags)


def test_a_batch_that_ended_takes_one_acknowledgement() -> None:
    assert acknowledgements(range(1, 501), set(range(1, 501))) == (500, [])
    assert acknowledgements(range(1, 6), {2, 3, 5}) == (None, [2, 3, 5])
    assert acknowledgements([3, 7, 8, 9], {3, 7, 9}) == (7, [9])
    assert acknowledgements([], {1}) == (None, [])


def test_behind_a_long_task_the_others_are_acknowledged_and_in_the_end_nothing_is_left(workshop: Workshop) -> None:
    go_on = threading.Event()

    @workshop.actor()
    def note(n: int) -> None:
        if n == 0:
            go_on.wait(60)

    workshop.publish()
    first = note.send(0)
    workshop.await_state(first.message_id, "published")
    station = workshop.work()
    consumer = station._consumers["default"]
    workshop.await_state(first.message_id, "running")
    others = [note.send(n) for n in range(1, 31)]
    for each in others:
        workshop.await_state(each.message_id, "succeeded")
    await_that(lambda: len(consumer._unanswered) == 1)
    go_on.set()
    workshop.await_state(first.message_id, "succeeded")
    await_that(lambda: not consumer._unanswered)
    assert station._consumers["default"] is consumer, "RabbitMQ closed the channel meanwhile"
    workshop.stop_working()
    assert depth_of(workshop.settings.rabbitmq_url, workshop.queue()) == 0
