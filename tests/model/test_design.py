"""The design, explored whole up to a bound; and known wrong designs, each shown to fail (I2–I5, I7).

A failure prints the shortest story that leads to it. `python -m tests.model.test_design` tells all of them.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.model.design import Design, Finding, crash, explore, freeze, wipe

#: What is done wrong: the design, the world that shows it, and what breaks.
WRONG: dict[str, tuple[Design, dict[str, Any], str]] = {
    "no fence": (Design(fences=False), {}, "I3"),
    "a new fence for what is published again": (
        Design(keep_fence_when_lost=False, lost_by_epoch=False),
        {},
        "first copy wins",
    ),
    "marked before the confirm": (Design(confirm_before_mark=False), {}, "I4"),
    "the row deleted when it is published": (Design(keep_row_when_published=False), {"kinds": (wipe,)}, "lost"),
    "a relay that reads by a cursor on ids": (Design(claim_by_state=False), {"tasks": 2, "faults": 0}, "lost"),
    "acknowledged before it is recorded": (
        Design(ack_after_record=False, find_lost=False),
        {"kinds": (crash, freeze)},
        "lost",
    ),
    "settled without a look at the run": (Design(settle_by_run=False), {}, "I3"),
    "rescued by age alone": (Design(rescue_by_lease=False), {}, "I7"),
    "published again by age alone": (Design(lost_by_epoch=False), {}, "I5"),
    "the queue declared before its epoch is committed": (Design(epoch_before_declare=False), {}, "lost"),
    "dead tasks in a dead-letter queue alone": (Design(dead_in_database=False), {}, "lost"),
    "no rescue of a dead worker's tasks": (Design(rescue=False), {}, "lost"),
    "no look for what the broker lost": (Design(find_lost=False), {}, "lost"),
}


@pytest.mark.parametrize("bound", [{"faults": 2}, {"tasks": 2, "faults": 1}], ids=str)
def test_the_design_keeps_its_invariants_and_loses_nothing(bound: dict[str, int]) -> None:
    _assert_sound(explore(Design(), **bound))


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("bound", [{"faults": 3}, {"faults": 4}, {"tasks": 2, "faults": 2}], ids=str)
def test_the_design_keeps_its_invariants_further_on(bound: dict[str, int]) -> None:
    _assert_sound(explore(Design(), **bound))


def test_without_the_search_for_losses_a_crash_still_loses_nothing() -> None:
    """So what `acknowledged before it is recorded` loses is its own doing."""
    _assert_sound(explore(Design(find_lost=False), kinds=(crash, freeze)))


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_design_fails(wrong: str) -> None:
    design, bound, broken = WRONG[wrong]
    found = explore(design, **bound)
    assert found.broken == broken, found
    assert found.story


def _assert_sound(found: Finding) -> None:
    assert not found.broken, "\n".join([found.broken, *found.story])
    assert found.states > 1000


if __name__ == "__main__":
    for name, (design, bound, _) in WRONG.items():
        found = explore(design, **bound)
        print(f"{name}: {found.broken}\n    " + "\n    ".join(found.story))
