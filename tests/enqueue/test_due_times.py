"""I10: due times are the database's clock; priority decides among what is due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from awaiting import await_that
from outbox_rows import Outbox, a_message
from psycopg import sql

from outbox import enqueue
from outbox.enqueue import row_of
from outbox.errors import ArgumentError


def clock(outbox: Outbox) -> datetime:
    ((now,),) = outbox.conn.execute("select clock_timestamp()").fetchall()
    assert isinstance(now, datetime)
    return now


def claimable(outbox: Outbox) -> list[int]:
    """The first argument of each task that a relay would publish now, in its order."""
    with outbox.conn.transaction(force_rollback=True):
        due = outbox.ledger.claim_due(outbox.conn, room={"mail": 100}, batch=100)
    numbers = {row["id"]: row["args"][0] for row in outbox.all()}
    return [numbers[UUID(row.id)] for row in due]


def test_a_delay_counts_from_the_flush_by_the_database_s_clock(outbox: Outbox) -> None:
    hour = timedelta(hours=1)
    with outbox.session() as session:
        task = enqueue(session, a_message(1), delay=hour)
        before = clock(outbox)
        session.flush()
        after = clock(outbox)
        session.commit()
    row = outbox.row(task.id)
    assert row["state"] == "scheduled"
    assert before + hour <= row["due_at"] <= after + hour


def test_no_instant_of_this_machine_s_clock_is_in_the_row_of_a_delayed_task(outbox: Outbox) -> None:
    """The API's clock may be wrong by hours: what travels is the length of the wait."""
    with outbox.session() as session:
        task = enqueue(session, a_message(1), delay=timedelta(seconds=90))
        assert '"run_at"' not in row_of(task)
        assert '"delay": 90.0' in row_of(task)
        session.rollback()


@pytest.mark.parametrize(
    "run_at", [datetime(1970, 1, 1, tzinfo=UTC), datetime(2001, 2, 3, tzinfo=timezone(-timedelta(hours=11)))]
)
def test_what_is_due_already_is_pending_at_once(outbox: Outbox, run_at: datetime) -> None:
    id = outbox.add(1, run_at=run_at)
    assert (outbox.state(id), outbox.row(id)["due_at"]) == ("pending", run_at)
    assert outbox.state(outbox.add(2, delay=timedelta(0))) == "pending"


@pytest.mark.parametrize("option", ["run_at", "expires_at"])
@pytest.mark.parametrize(
    "instant",
    [
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, tzinfo=UTC),
        datetime(9000, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, tzinfo=timezone(-timedelta(hours=14))),
    ],
)
def test_an_instant_that_no_clock_shows_is_refused(outbox: Outbox, option: str, instant: datetime) -> None:
    """The first of them, as UTC, lies before the year 1: PostgreSQL keeps it, and nobody could read it again."""
    with outbox.session() as session, pytest.raises(ArgumentError, match=f"{option} must lie between the years 1970"):
        enqueue(session, a_message(1), **{option: instant})  # type: ignore[arg-type]
    assert outbox.ids() == []


def test_an_eta_of_dramatiq_before_1970_is_refused(outbox: Outbox) -> None:
    message = a_message(1)
    message.options["eta"] = -1
    with outbox.session() as session, pytest.raises(ArgumentError, match="1970"):
        enqueue(session, message)


def test_a_task_is_not_due_a_moment_before_its_time_and_is_right_after_it(outbox: Outbox) -> None:
    id = outbox.add(1, delay=timedelta(milliseconds=300))
    due_at = outbox.row(id)["due_at"]
    while (now := clock(outbox)) < due_at:
        assert outbox.promote() == 0 or clock(outbox) >= due_at > now
    await_that(lambda: outbox.promote() or outbox.state(id) == "pending", timedelta(seconds=2))
    assert claimable(outbox) == [1]


def test_a_hundred_years_and_a_microsecond_are_taken(outbox: Outbox) -> None:
    long = outbox.row(outbox.add(1, delay=timedelta(days=36500)))
    short = outbox.row(outbox.add(2, delay=timedelta(microseconds=1)))
    assert long["due_at"] - long["created_at"] > timedelta(days=36499)
    assert short["due_at"] - short["created_at"] < timedelta(seconds=5)


def test_promotion_takes_the_oldest_first_and_a_bounded_number(outbox: Outbox) -> None:
    start = datetime(2020, 1, 1, tzinfo=UTC)
    with outbox.session() as session:
        for number in range(30):
            enqueue(session, a_message(number), delay=timedelta(hours=1))
        session.commit()
    for row in outbox.all():
        due_at = start + timedelta(days=(row["args"][0] * 7) % 30)
        outbox.conn.execute("update outbox.task set due_at = %s where id = %s", [due_at, row["id"]])
    with outbox.conn.transaction():
        assert outbox.ledger.promote_due(outbox.conn, limit=10) == (10, [])
    pending = [row["due_at"] for row in outbox.all() if row["state"] == "pending"]
    assert sorted(pending) == [start + timedelta(days=n) for n in range(10)]


def test_two_promotions_at_once_share_the_work_and_wait_for_nobody(outbox: Outbox) -> None:
    for number in range(6):
        outbox.add(number, delay=timedelta(hours=1))
    outbox.conn.execute("update outbox.task set due_at = clock_timestamp()")
    with outbox.connect() as other, other.transaction():
        assert outbox.ledger.promote_due(other, limit=4)[0] == 4
        assert outbox.promote() == 2
    assert outbox.count("pending") == 6


# ---------------------------------------------------------------------- priority


def test_lower_numbers_go_first_and_equals_by_their_due_time(outbox: Outbox) -> None:
    for number, priority in enumerate([5, 0, -3, 5, 0, 100]):
        outbox.add(number, priority=priority)
    assert claimable(outbox) == [2, 1, 4, 0, 3, 5]


def test_a_delayed_task_takes_its_place_by_priority_once_it_is_due(outbox: Outbox) -> None:
    outbox.add(1, priority=1, delay=timedelta(hours=1))
    outbox.add(2, priority=2)
    assert claimable(outbox) == [2]
    outbox.conn.execute("update outbox.task set due_at = clock_timestamp()")
    outbox.promote()
    assert claimable(outbox) == [1, 2]


# ---------------------------------------------------------------------- expiry


def expire(outbox: Outbox) -> int:
    before = len(outbox.ids())
    with outbox.conn.transaction():
        outbox.ledger.grant(outbox.conn, outbox.ledger.expire(outbox.conn))
    return before - len(outbox.ids())


def past(outbox: Outbox, column: str) -> None:
    outbox.conn.execute(sql.SQL("update outbox.task set {} = clock_timestamp()").format(sql.Identifier(column)))


def test_an_expired_task_ends_cancelled_and_says_why(outbox: Outbox) -> None:
    id = outbox.add(1, expires_at=clock(outbox) + timedelta(hours=1))
    assert expire(outbox) == 0
    past(outbox, "expires_at")
    assert expire(outbox) == 1
    row = outbox.row(id)
    assert (row["state"], row["started_at"]) == ("cancelled", None)
    assert "expired" in row["reason"]


@pytest.mark.parametrize("state", ["scheduled", "waiting", "pending", "published"])
def test_it_expires_in_every_state_before_its_start(outbox: Outbox, state: str) -> None:
    if state == "scheduled":
        outbox.add(1, delay=timedelta(hours=1))
    elif state == "waiting":
        outbox.add_many(2, ordering_key="k")
    else:
        id = outbox.add(1)
        if state == "published":
            outbox.ledger.mark_published(outbox.conn, [id], epochs={"mail": 1})
    assert state in outbox.states().values()
    count = len(outbox.ids())
    past(outbox, "expires_at")
    assert expire(outbox) == count


def test_what_has_expired_cannot_be_claimed_even_before_it_is_swept(outbox: Outbox) -> None:
    id = outbox.add(1)
    past(outbox, "expires_at")
    worker = outbox.a_worker()
    assert outbox.claim(id, worker) is None
    asked = [(id, outbox.row(id)["fence"], worker)]
    assert outbox.ledger.verdicts(outbox.conn, asked, worker=worker)[0].why == "expired"


def test_what_runs_does_not_expire(outbox: Outbox) -> None:
    id = outbox.add(1)
    claimed = outbox.must_claim(id, outbox.a_worker())
    past(outbox, "expires_at")
    assert expire(outbox) == 0
    assert outbox.succeed(claimed) == [id]
