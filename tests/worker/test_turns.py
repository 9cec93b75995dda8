"""The queue between the consumers and the threads of a worker."""

from __future__ import annotations

from queue import Empty
from threading import Thread
from typing import Any, cast

import pytest
from dramatiq.broker import MessageProxy
from dramatiq.worker import _WorkQueueItem as Item

from outbox.turns import Turns


def an_item(priority: int, name: Any) -> Item:
    return Item(priority, cast(MessageProxy, name))


def names(turns: Turns) -> list[Any]:
    got = []
    while turns.qsize():
        got.append(turns.get_nowait().message)
    return got


def test_the_most_urgent_comes_first_and_equals_in_their_order() -> None:
    turns = Turns()
    for priority, name in [(5, "c"), (0, "a"), (5, "d"), (-1, "first"), (0, "b"), (9, "last")]:
        turns.put(an_item(priority, name))
    assert names(turns) == ["first", "a", "b", "c", "d", "last"]


def test_an_empty_one_says_so_when_the_time_is_up() -> None:
    turns = Turns()
    turns.put(an_item(0, "a"))
    turns.get()
    with pytest.raises(Empty):
        turns.get(timeout=0.01)
    with pytest.raises(Empty):
        turns.get_nowait()


def test_what_is_dropped_is_nobodys_turn_and_unfinished_no_more() -> None:
    turns = Turns()
    for number in range(6):
        turns.put(an_item(number % 2, number))
    turns.drop(lambda item: cast(int, item.message) < 3)
    assert turns.unfinished_tasks == turns.qsize() == 3
    assert names(turns) == [4, 3, 5]
    with pytest.raises(Empty):
        turns.get_nowait()


def test_a_thread_whose_message_is_dropped_under_its_hands_gets_none() -> None:
    turns = Turns()
    turns.put(an_item(0, "a"))
    turns._tokens.get_nowait()  # as in the middle of `get`
    turns.drop(lambda _item: True)
    turns.put(an_item(0, "b"))
    assert turns.get(timeout=1).message == "b"
    with pytest.raises(Empty):
        turns.get_nowait()


def test_of_many_threads_each_message_has_one() -> None:
    turns, got = Turns(), list[Any]()

    def take() -> None:
        while (item := turns.get(timeout=20)).priority < 9:
            got.append(item.message)
            turns.task_done()

    def give(first: int) -> None:
        for number in range(first, 3000, 3):
            turns.put(an_item(number % 4, number))

    takers = [Thread(target=take) for _ in range(4)]
    givers = [Thread(target=give, args=(first,)) for first in range(3)]
    for thread in takers + givers:
        thread.start()
    for thread in givers:
        thread.join()
    turns.join()
    for _ in takers:
        turns.put(an_item(9, None))
    for thread in takers:
        thread.join()
    assert sorted(got) == list(range(3000))
