"""Lanes that are held from outside: what waits there is not let go, and nothing of it is lost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from outbox_rows import Outbox

from outbox import ArgumentError, free_lane, hold_lane

HOUR = timedelta(hours=1)


def hold(outbox: Outbox, **options: Any) -> None:
    with outbox.session() as session:
        hold_lane(session, "k", **options)
        session.commit()


def free(outbox: Outbox) -> bool:
    with outbox.session() as session:
        held = free_lane(session, "k")
        session.commit()
    return held


def pending(outbox: Outbox) -> int:
    outbox.sweep()
    return list(outbox.states().values()).count("pending")


@pytest.mark.parametrize("until", [HOUR, datetime(2999, 1, 1, tzinfo=UTC)])
def test_nothing_of_a_held_lane_is_let_go_until_it_is_free(outbox: Outbox, until: timedelta | datetime) -> None:
    hold(outbox, until=until)
    outbox.add_many(5, concurrency_key="k", concurrency_limit=2)
    outbox.add_many(5, concurrency_key="another", concurrency_limit=1)
    assert pending(outbox) == 1, "the other lane's"
    assert free(outbox)
    assert pending(outbox) == 3
    assert not free(outbox)


def test_a_lane_whose_time_is_over_goes_on_with_its_places(outbox: Outbox) -> None:
    hold(outbox, until=timedelta(0), places=2)
    outbox.add_many(5, concurrency_key="k", concurrency_limit=4)
    assert pending(outbox) == 2
    free(outbox)
    assert pending(outbox) == 4


def test_more_places_than_the_key_s_limit_add_none(outbox: Outbox) -> None:
    hold(outbox, until=timedelta(0), places=50)
    outbox.add_many(5, concurrency_key="k", concurrency_limit=2)
    assert pending(outbox) == 2


def test_a_place_that_comes_free_in_a_held_lane_stays_empty(outbox: Outbox) -> None:
    worker = outbox.a_worker()
    ids = outbox.add_many(4, concurrency_key="k", concurrency_limit=2)
    assert pending(outbox) == 2
    claimed = outbox.must_claim(ids[0], worker)
    hold(outbox, until=HOUR)
    outbox.succeed(claimed)
    assert pending(outbox) == 1, "the one that had been let go before"
    hold(outbox, until=timedelta(0))
    assert pending(outbox) == 2


def test_a_hold_that_is_rolled_back_holds_nothing(outbox: Outbox) -> None:
    with outbox.session() as session:
        hold_lane(session, "k", until=HOUR)
        session.rollback()
    outbox.add_many(2, concurrency_key="k", concurrency_limit=1)
    assert pending(outbox) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"until": datetime(2999, 1, 1)},
        {"until": HOUR, "places": 0},
        {"until": HOUR, "places": True},
        {"until": HOUR, "places": "2"},
    ],
)
def test_what_makes_no_sense_is_refused(outbox: Outbox, options: dict[str, Any]) -> None:
    with outbox.session() as session, pytest.raises(ArgumentError):
        hold_lane(session, "k", **options)


@pytest.mark.parametrize("key", ["", None, 5])
def test_a_lane_needs_a_name(outbox: Outbox, key: Any) -> None:
    with outbox.session() as session, pytest.raises(ArgumentError, match="concurrency_key"):
        free_lane(session, key)
