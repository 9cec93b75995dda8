"""Lanes in a running relay: tasks with a limit wait for the granter, and not for long."""

from __future__ import annotations

import time

from awaiting import await_that
from outbox_rows import Outbox
from relay_eyes import MakeRelay


def test_a_task_whose_lane_has_room_goes_in_a_fraction_of_a_second(outbox: Outbox, make_relay: MakeRelay) -> None:
    """One after another, so that each waits a whole round of the granter, whenever that began."""
    make_relay()
    plain = outbox.add(0)
    await_that(lambda: outbox.state(plain) == "published")
    began, rounds = time.monotonic(), 8
    for number in range(rounds):
        id = outbox.add(number, concurrency_key="k", concurrency_limit=rounds)
        await_that(lambda: outbox.state(id) == "published")  # noqa: B023
    assert time.monotonic() - began < rounds * 0.7
