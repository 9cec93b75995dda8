"""I10: liveness is a counter that stood still for a whole lease of the observer's own time, seen by successful reads."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from outbox.keeper import Watch

LEASE = 10.0
A, B = uuid4(), uuid4()


def look(watch: Watch, now: float, *beats: tuple[UUID, int]) -> list[tuple[UUID, int]]:
    return watch.dead([(id, beat, LEASE) for id, beat in beats], now=now)


def look_often(watch: Watch, begin: float, end: float, *beats: tuple[UUID, int]) -> list[tuple[UUID, int]]:
    """Read each second; what was found dead at any of them."""
    found = []
    for second in range(round(end - begin) + 1):
        found += look(watch, begin + second, *beats)
    return found


def test_a_counter_that_stood_still_for_a_lease_is_dead() -> None:
    watch = Watch()
    assert look_often(watch, 1000, 1010, (A, 5)) == []
    assert look(watch, 1011, (A, 5)) == [(A, 5)]


def test_a_counter_that_moves_is_alive_however_seldom_within_the_lease() -> None:
    watch = Watch()
    for round in range(10):
        begin = 100.0 + round * 9
        assert look_often(watch, begin, begin + 8, (A, round)) == []


def test_whoever_is_seen_first_has_a_whole_lease_from_then_on() -> None:
    watch = Watch()
    assert look_often(watch, 0, 9, (A, 1)) == []
    assert look_often(watch, 10, 12, (A, 1), (B, 1)) == [(A, 1), (A, 1)]
    assert (B, 1) not in look_often(watch, 13, 20, (A, 1), (B, 1))
    assert (B, 1) in look(watch, 21, (A, 1), (B, 1))


def test_a_counter_that_goes_back_has_moved() -> None:
    """A database restored from a moment ago."""
    watch = Watch()
    look_often(watch, 0, 9, (A, 500))
    assert look_often(watch, 10, 19, (A, 499)) == []


@pytest.mark.parametrize("gap", [3.4, 9.0, 11.0, 100_000.0])
def test_a_gap_between_two_reads_proves_nothing_and_everybody_s_time_starts_again(gap: float) -> None:
    """An outage of the database, an observer that was stopped, a machine that slept."""
    watch = Watch()
    look_often(watch, 0, 9, (A, 1), (B, 1))
    after = 9 + gap
    assert look(watch, after, (A, 1), (B, 2)) == []
    assert look_often(watch, after + 1, after + LEASE, (A, 1), (B, 2)) == []
    assert look(watch, after + LEASE + 1, (A, 1), (B, 3)) == [(A, 1)]


def test_many_gaps_in_a_row_kill_nobody() -> None:
    watch = Watch()
    assert [look(watch, n * 4.0, (A, 1)) for n in range(50)] == [[]] * 50


def test_who_has_left_and_comes_again_starts_anew() -> None:
    watch = Watch()
    look_often(watch, 0, 9, (A, 1))
    look(watch, 10)
    assert look_often(watch, 11, 20, (A, 1)) == []


def test_each_process_is_judged_by_its_own_lease() -> None:
    watch = Watch()
    beats = [(A, 1, 2.0), (B, 1, 20.0)]
    found = [watch.dead(beats, now=n / 2) for n in range(20)]
    assert {each for dead in found for each in dead} == {(A, 1)}
