"""I3: whoever comes late, with an old token, in the wrong state or in a dead worker's name, changes nothing and is told so."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import dramatiq
import pytest
from outbox_rows import Outbox, failure, finished
from states import FINISHED, UNFINISHED, a_task, beat, cancel, everything, publish, rescue, retry

from outbox.ledger import Claimed

Settle = Callable[[Outbox, Claimed], object]
SETTLES: dict[str, Settle] = {
    "success": lambda outbox, it: outbox.ledger.record_successes(outbox.conn, [finished(it)]),
    "again": lambda outbox, it: outbox.ledger.record_again(outbox.conn, [failure(it)]),
    "dead": lambda outbox, it: outbox.ledger.record_dead(outbox.conn, [failure(it)]),
    "cancelled": lambda outbox, it: outbox.ledger.record_cancelled(outbox.conn, [failure(it)]),
    "given back": lambda outbox, it: outbox.ledger.give_back(outbox.conn, [(it.id, it.run_id)]),
}


def with_run(id: UUID, run_id: UUID) -> Claimed:
    return Claimed(id, run_id, 0, 1, None, None, False, None, "")


# ---------------------------------------------------------------------- settles


@pytest.mark.parametrize("settle", SETTLES)
@pytest.mark.parametrize("state", [*UNFINISHED, *FINISHED])
def test_a_settle_with_another_run_id_changes_nothing(outbox: Outbox, state: str, settle: str) -> None:
    id = a_task(outbox, state)
    before = everything(outbox)
    assert not SETTLES[settle](outbox, with_run(id, uuid4()))
    assert everything(outbox) == before


@pytest.mark.parametrize("settle", SETTLES)
@pytest.mark.parametrize("ended", SETTLES)
def test_a_settle_of_a_run_that_has_ended_changes_nothing(outbox: Outbox, ended: str, settle: str) -> None:
    claimed = outbox.must_claim(outbox.add(), outbox.a_worker())
    assert SETTLES[ended](outbox, claimed)
    before = everything(outbox)
    assert not SETTLES[settle](outbox, claimed)
    assert everything(outbox) == before


@pytest.mark.parametrize("settle", SETTLES)
def test_a_late_settle_after_the_rescue_changes_nothing_whoever_runs_it_now(outbox: Outbox, settle: str) -> None:
    worker, id = outbox.a_worker(), outbox.add()
    late = outbox.must_claim(id, worker)
    rescue(outbox, worker)
    before = everything(outbox)
    assert not SETTLES[settle](outbox, late)
    assert everything(outbox) == before
    outbox.must_claim(id, outbox.a_worker(), alone=True)
    before = everything(outbox)
    assert not SETTLES[settle](outbox, late)
    assert everything(outbox) == before


def test_of_a_batch_only_those_that_are_still_theirs_are_settled(outbox: Outbox) -> None:
    worker = outbox.a_worker()
    mine, lost = (outbox.must_claim(outbox.add(), worker) for _ in range(2))
    SETTLES["given back"](outbox, lost)
    assert outbox.ledger.record_successes(outbox.conn, [finished(lost), finished(mine)]) == [mine.id]
    assert (outbox.state(mine.id), outbox.state(lost.id)) == ("succeeded", "pending")


# ---------------------------------------------------------------------- claims


def asked(outbox: Outbox, id: UUID) -> tuple[UUID, UUID, UUID]:
    """What a worker asks for whose message is as fresh as the row."""
    rows = outbox.conn.execute("select fence from outbox.task where id = %s", [id]).fetchall()
    return id, rows[0][0] if rows else uuid4(), uuid4()


@pytest.mark.parametrize("state", UNFINISHED)
def test_a_message_with_another_fence_claims_nothing_and_is_stale(outbox: Outbox, state: str) -> None:
    id, worker = a_task(outbox, state), outbox.a_worker()
    wrong = [(id, uuid4(), uuid4())]
    before = everything(outbox)
    assert outbox.ledger.claim(outbox.conn, wrong, worker=worker, beat=0, alone=True) == []
    assert outbox.ledger.claim_unlocked(outbox.conn, wrong, worker=worker, beat=0, alone=True) == []
    assert outbox.ledger.verdicts(outbox.conn, wrong, worker=worker) == [(id, "stale")]
    assert everything(outbox) == before


@pytest.mark.parametrize("state", ["scheduled", "waiting", "running", *FINISHED])
def test_only_what_is_pending_or_published_can_be_claimed(outbox: Outbox, state: str) -> None:
    id, worker = a_task(outbox, state), outbox.a_worker()
    fresh = [asked(outbox, id)]
    before = everything(outbox)
    assert outbox.ledger.claim(outbox.conn, fresh, worker=worker, beat=0, alone=True) == []
    assert outbox.ledger.claim_unlocked(outbox.conn, fresh, worker=worker, beat=0, alone=True) == []
    assert outbox.ledger.verdicts(outbox.conn, fresh, worker=worker) == [(id, "stale")]
    assert everything(outbox) == before


@pytest.mark.parametrize("state", ["pending", "published"])
def test_a_worker_that_was_declared_dead_claims_nothing(outbox: Outbox, state: str) -> None:
    """I7."""
    id, worker = a_task(outbox, state), outbox.a_worker()
    rescue(outbox, worker)
    fresh = [asked(outbox, id)]
    before = everything(outbox)
    assert outbox.ledger.claim(outbox.conn, fresh, worker=worker, beat=0) == []
    assert outbox.ledger.claim_unlocked(outbox.conn, fresh, worker=worker, beat=0) == []
    assert outbox.ledger.verdicts(outbox.conn, fresh, worker=worker) == [(id, "outlawed")]
    assert everything(outbox) == before


def test_a_dead_worker_neither_beats_nor_is_rescued_twice(outbox: Outbox) -> None:
    worker = outbox.a_worker()
    assert rescue(outbox, worker) == []
    before = everything(outbox)
    assert beat(outbox, worker) is None
    assert rescue(outbox, worker) is None
    outbox.ledger.leave(outbox.conn, worker)
    assert everything(outbox) == before


def test_what_has_expired_is_not_claimed_even_before_anybody_ended_it(outbox: Outbox) -> None:
    id, worker = outbox.add(expires_at=datetime.now(UTC) - timedelta(seconds=1)), outbox.a_worker()
    fresh = [asked(outbox, id)]
    assert outbox.ledger.claim(outbox.conn, fresh, worker=worker, beat=0) == []
    assert outbox.ledger.verdicts(outbox.conn, fresh, worker=worker) == [(id, "expired")]
    with outbox.conn.transaction():
        outbox.ledger.expire(outbox.conn)
    assert outbox.state(id) == "cancelled"


def test_a_claim_repeated_with_the_same_run_id_is_the_same_claim(outbox: Outbox) -> None:
    """A lost reply is resolved by reading, never taken for failure."""
    worker, id = outbox.a_worker(), outbox.add()
    same = [asked(outbox, id)]
    (first,) = outbox.ledger.claim(outbox.conn, same, worker=worker, beat=0)
    before = everything(outbox)
    assert outbox.ledger.claim(outbox.conn, same, worker=worker, beat=0) == []
    assert outbox.ledger.verdicts(outbox.conn, same, worker=worker) == [(id, "mine")]
    assert outbox.ledger.claims_of(outbox.conn, same, worker=worker) == [first]
    assert everything(outbox) == before


def test_a_claim_is_nobody_else_s(outbox: Outbox) -> None:
    id, worker, other = outbox.add(), outbox.a_worker(), outbox.a_worker()
    mine, theirs = asked(outbox, id), asked(outbox, id)
    outbox.ledger.claim(outbox.conn, [mine], worker=worker, beat=0)
    assert outbox.ledger.claims_of(outbox.conn, [theirs], worker=worker) == []
    assert outbox.ledger.claims_of(outbox.conn, [mine], worker=other) == []
    assert outbox.ledger.verdicts(outbox.conn, [theirs], worker=other) == [(id, "stale")]


def test_two_messages_of_a_task_in_one_batch_make_one_claim(outbox: Outbox) -> None:
    worker, id = outbox.a_worker(), outbox.add()
    one, two = asked(outbox, id), asked(outbox, id)
    (claimed,) = outbox.ledger.claim(outbox.conn, [one, two], worker=worker, beat=0)
    verdicts = outbox.ledger.verdicts(outbox.conn, [one, two], worker=worker)
    assert sorted(why for _, why in verdicts) == ["mine", "stale"]
    assert outbox.row(id)["run_id"] == claimed.run_id


def test_each_claim_answers_the_very_body_that_is_published(outbox: Outbox) -> None:
    """Else what came could not be told from what another one put in its place."""
    odd = dramatiq.Message("mail", 'ä"\\', ("é\n", 1e5, [{}]), {"": {"\u2028": None}}, {"note": ' "{}" '})
    worker, ids = outbox.a_worker(), [outbox.add(message=odd), outbox.add(), outbox.add(priority=1)]
    with outbox.conn.transaction():
        due = outbox.ledger.claim_due(outbox.conn, room={"mail": 3}, batch=3)
    calls = [asked(outbox, id) for id in ids]
    found = outbox.ledger.claim(outbox.conn, calls[:2], worker=worker, beat=0)
    found += outbox.ledger.claim_unlocked(outbox.conn, calls[2:], worker=worker, beat=0)
    assert {str(each.id): each.body.encode() for each in found} == {each.id: each.body for each in due}
    again = outbox.ledger.claims_of(outbox.conn, calls, worker=worker)
    assert sorted(again, key=repr) == sorted(found, key=repr)


def test_a_claim_of_unlocked_rows_leaves_those_that_a_relay_holds(outbox: Outbox) -> None:
    held, free = outbox.add(), outbox.add(1, priority=1)
    relay, worker = outbox.connect(), outbox.a_worker()
    with relay.transaction():
        outbox.ledger.claim_due(relay, room={"mail": 1}, batch=1)
        both = [asked(outbox, held), asked(outbox, free)]
        claimed = outbox.ledger.claim_unlocked(outbox.conn, both, worker=worker, beat=0)
    relay.close()
    assert [each.id for each in claimed] == [free]


# ---------------------------------------------------------------------- the relay


@pytest.mark.parametrize("state", ["scheduled", "waiting", "published", "running", *FINISHED])
def test_a_late_relay_marks_pushes_back_and_republishes_nothing(outbox: Outbox, state: str) -> None:
    id = a_task(outbox, state)
    with outbox.conn.transaction():
        outbox.ledger.queue_epoch(outbox.conn, "mail")
    before = everything(outbox)
    assert outbox.ledger.mark_published(outbox.conn, [id], epochs={"mail": 3}) == 0
    outbox.ledger.push_back(outbox.conn, [(id, "the broker refused the message")])
    assert outbox.ledger.republish_older_epochs(outbox.conn) == 0
    assert everything(outbox) == before


@pytest.mark.parametrize("state", UNFINISHED)
def test_a_dead_letter_of_another_fence_changes_nothing(outbox: Outbox, state: str) -> None:
    id = a_task(outbox, state)
    before = everything(outbox)
    assert not outbox.ledger.return_dead_letter(outbox.conn, id=id, fence=uuid4())
    assert everything(outbox) == before


@pytest.mark.parametrize("state", ["scheduled", "waiting", "pending", "running"])
def test_a_dead_letter_of_what_is_not_published_any_more_changes_nothing(outbox: Outbox, state: str) -> None:
    id = a_task(outbox, state)
    before = everything(outbox)
    assert not outbox.ledger.return_dead_letter(outbox.conn, id=id, fence=outbox.row(id)["fence"])
    assert everything(outbox) == before


def test_what_the_broker_lost_is_due_again_with_the_same_fence_and_no_attempt(outbox: Outbox) -> None:
    """The first copy wins: a large backlog cannot starve itself."""
    id = a_task(outbox, "published")
    before = outbox.row(id)
    assert outbox.ledger.begin_epoch(outbox.conn, "mail", seen=0) == 1
    assert outbox.ledger.begin_epoch(outbox.conn, "mail", seen=0) is None, "somebody else was first"
    assert outbox.ledger.republish_older_epochs(outbox.conn) == 1
    after = outbox.row(id)
    assert (after["state"], after["fence"], after["losses"]) == ("pending", before["fence"], 1)
    assert (after["failures"], after["crashes"], after["attempts"]) == (0, 0, [])


def test_two_relays_never_hold_the_same_row(outbox: Outbox) -> None:
    outbox.add_many(20)
    one, two = outbox.connect(), outbox.connect()
    with one.transaction(), two.transaction():
        first = {due.id for due in outbox.ledger.claim_due(one, room={"mail": 12}, batch=12)}
        second = {due.id for due in outbox.ledger.claim_due(two, room={"mail": 100}, batch=100)}
    one.close()
    two.close()
    assert (len(first), len(second), first & second) == (12, 8, set())


# ---------------------------------------------------------------------- operators


@pytest.mark.parametrize("state", FINISHED)
def test_what_has_ended_is_neither_cancelled_nor_moved(outbox: Outbox, state: str) -> None:
    id = a_task(outbox, state)
    before = everything(outbox)
    assert cancel(outbox, id) is None
    with outbox.conn.transaction():
        assert outbox.ledger.reschedule(outbox.conn, id, run_at=None, delay=timedelta(0)) is None
    assert everything(outbox) == before


def test_what_runs_is_not_moved(outbox: Outbox) -> None:
    id = a_task(outbox, "running")
    before = everything(outbox)
    with outbox.conn.transaction():
        assert outbox.ledger.reschedule(outbox.conn, id, run_at=None, delay=timedelta(0)) is None
    assert everything(outbox) == before


@pytest.mark.parametrize("state", ["pending", "published", "waiting", "running", "succeeded"])
def test_what_will_run_or_has_succeeded_is_not_retried(outbox: Outbox, state: str) -> None:
    id = a_task(outbox, state)
    before = everything(outbox)
    assert not retry(outbox, id)
    assert everything(outbox) == before


@pytest.mark.parametrize("act", ["cancel", "reschedule", "retry", "retry a cancelled one", "give back"])
def test_a_message_sent_before_an_operator_acted_is_stale(outbox: Outbox, act: str) -> None:
    id, worker = outbox.add(), outbox.a_worker()
    publish(outbox)
    old = [asked(outbox, id)]
    with outbox.conn.transaction():
        if act == "reschedule":
            outbox.ledger.reschedule(outbox.conn, id, run_at=None, delay=timedelta(0))
        elif act.startswith(("cancel", "retry a")):
            outbox.ledger.cancel(outbox.conn, id, reason="x")
        elif act == "retry":
            outbox.end_dead(outbox.must_claim(id, worker))
        else:
            SETTLES["given back"](outbox, outbox.must_claim(id, worker))
    if act.startswith("retry"):
        assert retry(outbox, id)
    outbox.promote()
    assert outbox.ledger.claim(outbox.conn, old, worker=worker, beat=0) == []
    if act != "cancel":
        assert outbox.state(id) == "pending"
        outbox.must_claim(id, worker)
