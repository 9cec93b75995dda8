"""A relay whose claims are dear claims from its front on: what appears behind that is found all the same, and soon."""

from __future__ import annotations

import pytest
from awaiting import await_that
from outbox_rows import Outbox
from relay_eyes import MakeRelay, Queues, count, insert

from outbox.front import PRIORITIES, Front
from outbox.ledger import WHOLE, Due, Stretch

LATE = """
insert into outbox.task (id, state, queue, actor, args, kwargs, options, priority, due_at)
select gen_random_uuid(), 'pending', 'bulk', 'count', '[]', '{}', '{}', priority, clock_timestamp() - ago
from unnest('{-5,0,0,7}'::smallint[], '{0,1 hour,1 second,1 day}'::interval[]) as late(priority, ago)
"""


@pytest.fixture(autouse=True)
def dear(monkeypatch: pytest.MonkeyPatch) -> None:
    """As beside a transaction that has been open for long: claims from the beginning are a twentieth of them."""
    monkeypatch.setattr("outbox.relay.DEAR", 0.0)
    monkeypatch.setattr("outbox.relay.DEAR_A_ROW", 0.0)


def a_row(priority: int, due_at: str) -> Due:
    return Due("id", "mail", priority, due_at, b"")


def test_what_is_committed_behind_the_front_is_published_soon(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay
) -> None:
    """I2: it was due before what has gone already, or is of a priority that no row had."""
    insert(outbox, 100)
    make_relay()
    await_that(lambda: count(outbox, "published") == 100)
    outbox.conn.execute(LATE)
    await_that(lambda: count(outbox, "published") == 104)


def test_what_one_relay_left_behind_the_front_of_another_is_published_by_that(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay
) -> None:
    """I2: its rows were locked when the other one passed them."""
    insert(outbox, 20)
    with outbox.connect() as gone, gone.transaction(force_rollback=True):
        outbox.ledger.claim_due(gone, room={"bulk": 10}, batch=10)
        make_relay()
        await_that(lambda: count(outbox, "published") == 10)
    await_that(lambda: count(outbox, "published") == 20)


def test_the_front_moves_back_to_what_was_found_behind_it() -> None:
    """So that a large crowd behind it is claimed from its own front on, and not by claims from the beginning alone."""
    front = Front()
    front.claimed([a_row(0, "2026-01-02"), a_row(0, "2026-01-03")])
    front.claimed([a_row(0, "2026-01-01")])
    assert [(each.low, each.since) for each in front.ahead(["mail"])] == [(0, "2026-01-01")]


def test_a_queue_of_too_many_priorities_is_claimed_from_its_beginning() -> None:
    front = Front()
    front.claimed([a_row(priority, "2026-01-01") for priority in range(PRIORITIES + 1)])
    assert front.ahead(["mail"]) == [Stretch("mail", *WHOLE)]
