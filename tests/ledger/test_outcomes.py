"""What each outcome leaves behind: states, counters, attempts, and who may run next (I2, I6)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from outbox_rows import Outbox, failure
from states import HOUR, a_task, beat, cancel, everything, publish, rescue, retry


def counters(outbox: Outbox, id: UUID) -> tuple[int, int]:
    """(failures, crashes)."""
    row = outbox.row(id)
    return row["failures"], row["crashes"]


# ---------------------------------------------------------------------- cancel


@pytest.mark.parametrize("state", ["pending", "scheduled", "waiting", "published"])
def test_what_has_not_started_is_cancelled_at_once_and_says_why(outbox: Outbox, state: str) -> None:
    id = a_task(outbox, state)
    assert cancel(outbox, id, "the order was withdrawn") == "cancelled"
    row = outbox.row(id)
    assert (row["state"], row["reason"], row["started_at"]) == ("cancelled", "the order was withdrawn", None)
    assert id not in outbox.ids()


def test_what_runs_is_asked_to_stop_by_its_worker_s_next_heartbeat(outbox: Outbox) -> None:
    worker, id = outbox.a_worker(), outbox.add()
    claimed, other = outbox.must_claim(id, worker), outbox.must_claim(outbox.add(), worker)
    runs, tasks = [claimed.run_id, other.run_id], [claimed.id, other.id]
    assert beat(outbox, worker, runs, tasks) == (1, [])
    assert cancel(outbox, id) == "requested"
    assert cancel(outbox, id) == "requested"
    assert beat(outbox, worker, runs, tasks) == (2, [claimed.run_id])
    assert beat(outbox, outbox.a_worker(), runs, tasks) == (1, []), "of a run that is not its own"


def test_a_run_that_succeeds_before_it_stops_stays_succeeded(outbox: Outbox) -> None:
    claimed = outbox.must_claim(outbox.add(), outbox.a_worker())
    cancel(outbox, claimed.id)
    assert outbox.succeed(claimed) == [claimed.id]
    assert outbox.state(claimed.id) == "succeeded"


def test_a_run_that_fails_after_the_request_is_not_tried_again(outbox: Outbox) -> None:
    claimed = outbox.must_claim(outbox.add(), outbox.a_worker())
    cancel(outbox, claimed.id)
    assert outbox.fail(claimed) == []
    assert outbox.ledger.record_cancelled(outbox.conn, [failure(claimed)]) == [claimed.id]
    row = outbox.row(claimed.id)
    assert (row["state"], row["failures"], row["attempts"][0]["error"]) == ("cancelled", 1, "it broke")


def test_the_rescue_of_a_run_that_was_to_stop_cancels_it(outbox: Outbox) -> None:
    worker = outbox.a_worker()
    claimed = outbox.must_claim(outbox.add(), worker)
    cancel(outbox, claimed.id)
    assert rescue(outbox, worker) == [(claimed.id, "cancelled")]
    assert outbox.state(claimed.id) == "cancelled"


def test_the_rescue_of_one_that_was_to_stop_cancels_it_though_it_has_crashed_too_often(outbox: Outbox) -> None:
    worker = outbox.a_worker()
    claimed = outbox.must_claim(outbox.add(), worker, alone=True)
    cancel(outbox, claimed.id)
    assert rescue(outbox, worker, max_crashes=1) == [(claimed.id, "cancelled")]


@pytest.mark.parametrize("how", ["given back", "worker left", "unlisted"])
def test_what_was_to_stop_and_comes_back_unfinished_never_starts_again(outbox: Outbox, how: str) -> None:
    """Cancelled by the owner or by whoever takes it over: a request outlives the run that it was made to."""
    worker = outbox.a_worker()
    claimed = outbox.must_claim(outbox.add(), worker)
    assert cancel(outbox, claimed.id) == "requested"
    if how == "given back":
        outbox.ledger.give_back(outbox.conn, [(claimed.id, claimed.run_id)])
    elif how == "worker left":
        outbox.ledger.leave(outbox.conn, worker)
    else:
        for _ in range(3):
            beat(outbox, worker)
        assert outbox.ledger.rescue_unlisted(outbox.conn) == [claimed.id]
    assert outbox.claim(claimed.id, outbox.a_worker(), alone=True) is None
    with outbox.conn.transaction():
        outbox.ledger.expire(outbox.conn)
    row = outbox.row(claimed.id)
    assert (row["state"], row["reason"]) == ("cancelled", "cancelled; its worker gave it back")


# ---------------------------------------------------------------------- reschedule, retry


@pytest.mark.parametrize("state", ["pending", "published", "scheduled"])
def test_what_has_not_started_is_due_at_the_new_time(outbox: Outbox, state: str) -> None:
    id, run_at = a_task(outbox, state), datetime.now(UTC) + 2 * HOUR
    with outbox.conn.transaction():
        assert outbox.ledger.reschedule(outbox.conn, id, run_at=run_at, delay=None) == run_at
    assert (outbox.state(id), outbox.row(id)["due_at"]) == ("scheduled", run_at)
    assert outbox.promote() == 0
    with outbox.conn.transaction():
        outbox.ledger.reschedule(outbox.conn, id, run_at=None, delay=timedelta(0))
    assert outbox.promote() == 1
    assert outbox.state(id) == "pending"


def test_a_waiting_task_that_is_moved_keeps_its_place_and_its_new_time(outbox: Outbox) -> None:
    id = a_task(outbox, "waiting")
    position = outbox.row(id)["position"]
    with outbox.conn.transaction():
        assert outbox.ledger.reschedule(outbox.conn, id, run_at=None, delay=HOUR) is not None
    row = outbox.row(id)
    assert (row["state"], row["position"]) == ("waiting", position)
    assert row["due_at"] > datetime.now(UTC) + HOUR / 2


def test_a_dead_task_retried_is_the_same_task_with_its_attempts_and_fresh_counters(outbox: Outbox) -> None:
    worker, id = outbox.a_worker(), outbox.add("x", unique_key="once", max_attempts=1)
    outbox.end_dead(outbox.must_claim(id, worker))
    dead = outbox.row(id)
    assert (dead["state"], dead["failures"], len(dead["attempts"])) == ("dead", 1, 1)
    assert retry(outbox, id)
    row = outbox.row(id)
    assert (row["state"], row["failures"], row["crashes"]) == ("pending", 0, 0)
    assert row["attempts"] == dead["attempts"]
    assert [row[name] for name in ("args", "created_at", "max_attempts", "unique_key")] == [
        dead[name] for name in ("args", "created_at", "max_attempts", "unique_key")
    ]
    assert outbox.must_claim(id, worker).attempt == 2
    assert outbox.ids("dead") == []


def test_a_dead_task_retried_does_not_stumble_over_its_unique_key_taken_meanwhile(outbox: Outbox) -> None:
    id = outbox.add(unique_key="once")
    outbox.end_dead(outbox.must_claim(id, outbox.a_worker()))
    other = outbox.add(unique_key="once")
    assert other != id
    assert retry(outbox, id)
    assert set(outbox.ids()) == {id, other}


def test_a_cancelled_task_retried_leaves_the_history(outbox: Outbox) -> None:
    id = a_task(outbox, "cancelled")
    assert retry(outbox, id)
    assert (outbox.state(id), outbox.ids("history")) == ("pending", [])


def test_a_task_between_two_attempts_retried_is_due_now(outbox: Outbox) -> None:
    claimed = outbox.must_claim(outbox.add(), outbox.a_worker())
    outbox.fail(claimed, wait=HOUR)
    assert outbox.promote() == 0
    assert retry(outbox, claimed.id)
    assert outbox.promote() == 1
    assert outbox.row(claimed.id)["failures"] == 1, "its failures still count"


def test_an_id_that_comes_again_may_die_again_and_its_retry_brings_back_one_task(outbox: Outbox) -> None:
    """I2: the application names the id, and an old message may still carry it."""
    worker, id = outbox.a_worker(), uuid4()
    for number in range(2):
        outbox.add(number, task_id=id)
        copy = (id, outbox.all()[0]["fence"], uuid4())
        (claimed,) = outbox.ledger.claim(outbox.conn, [copy], worker=worker, beat=0)
        assert outbox.end_dead(claimed) == [id]
    assert outbox.ids("dead") == [id, id]
    assert retry(outbox, id)
    assert [row["args"] for row in outbox.all()] == [[1]], "the one that died last"
    assert outbox.ids("dead") == []


@pytest.mark.parametrize("ended", ["dead", "cancelled"])
def test_a_retry_is_refused_while_its_id_is_live_again_and_loses_nothing(outbox: Outbox, ended: str) -> None:
    id = a_task(outbox, ended)
    outbox.add(task_id=id)
    before = everything(outbox)
    assert not retry(outbox, id)
    assert everything(outbox) == before


# ---------------------------------------------------------------------- failures and crashes


def test_a_failure_counts_a_snooze_does_not_and_both_are_remembered(outbox: Outbox) -> None:
    worker, id = outbox.a_worker(), outbox.add()
    outbox.fail(outbox.must_claim(id, worker))
    outbox.promote()
    snooze = failure(outbox.must_claim(id, worker), outcome="snoozed")._replace(counts=False)
    with outbox.conn.transaction():
        outbox.ledger.record_again(outbox.conn, [snooze])
    assert counters(outbox, id) == (1, 0)
    assert [attempt["outcome"] for attempt in outbox.row(id)["attempts"]] == ["failed", "snoozed"]


def test_attempts_are_remembered_up_to_a_hundred(outbox: Outbox) -> None:
    worker, id = outbox.a_worker(), outbox.add()
    outbox.conn.execute("""
        update outbox.task
        set attempts = (select jsonb_agg(jsonb_build_object('outcome', n::text)) from generate_series(1, 100) n)
    """)
    outbox.fail(outbox.must_claim(id, worker))
    kept = [attempt["outcome"] for attempt in outbox.row(id)["attempts"]]
    assert kept == [*map(str, range(2, 101)), "failed"]


def test_text_that_postgresql_does_not_take_is_cleaned_before_it_meets_it(outbox: Outbox) -> None:
    claimed = outbox.must_claim(outbox.add(), outbox.a_worker())
    broken = failure(claimed)._replace(error="NUL \x00 and \ud800", traceback="long" * 10_000)
    with outbox.conn.transaction():
        assert outbox.ledger.record_dead(outbox.conn, [broken]) == [claimed.id]
    (attempt,) = outbox.row(claimed.id)["attempts"]
    assert attempt["error"] == "NUL \\0 and \\ud800"
    assert len(attempt["traceback"]) <= 16_384


def test_giving_back_costs_nothing(outbox: Outbox) -> None:
    """I5, I6."""
    id = a_task(outbox, "published")
    claimed = outbox.must_claim(id, outbox.a_worker())
    outbox.ledger.give_back(outbox.conn, [(id, claimed.run_id)])
    row = outbox.row(id)
    assert (row["state"], row["attempts"], row["suspect"], row["run_id"]) == ("pending", [], False, None)
    assert counters(outbox, id) == (0, 0)


def test_what_a_worker_holds_when_it_leaves_is_due_at_once_and_not_suspect(outbox: Outbox) -> None:
    worker, id = outbox.a_worker(), a_task(outbox, "published")
    outbox.must_claim(id, worker)
    outbox.ledger.leave(outbox.conn, worker)
    claimed = outbox.must_claim(id, outbox.a_worker())
    assert (claimed.suspect, claimed.published_at) == (False, None)
    assert counters(outbox, id) == (0, 0)


# ---------------------------------------------------------------------- rescue


def test_the_tasks_of_a_dead_worker_are_due_at_once_as_suspects(outbox: Outbox) -> None:
    worker = outbox.a_worker()
    ids = [outbox.add(), outbox.add()]
    for id in ids:
        outbox.must_claim(id, worker)
    assert sorted(rescue(outbox, worker) or []) == sorted((id, "rescued") for id in ids)
    for id in ids:
        row = outbox.row(id)
        assert (row["state"], row["suspect"], row["reason"]) == ("pending", True, "its worker died")
        assert counters(outbox, id) == (0, 0), "nobody knows whose fault it was"
        assert [attempt["outcome"] for attempt in row["attempts"]] == ["interrupted"]


def test_a_suspect_is_claimed_only_by_who_runs_it_alone(outbox: Outbox) -> None:
    """I6."""
    worker, id = outbox.a_worker(), outbox.add()
    outbox.must_claim(id, worker)
    rescue(outbox, worker)
    other = outbox.a_worker()
    assert outbox.claim(id, other) is None
    claimed = outbox.must_claim(id, other, alone=True)
    assert claimed.suspect
    assert outbox.row(id)["alone"]


def test_a_suspect_that_ran_alone_and_failed_is_no_suspect_any_more(outbox: Outbox) -> None:
    worker, id = outbox.a_worker(), outbox.add()
    outbox.must_claim(id, worker)
    rescue(outbox, worker)
    outbox.fail(outbox.must_claim(id, outbox.a_worker(), alone=True))
    outbox.promote()
    assert outbox.must_claim(id, outbox.a_worker()).suspect is False
    assert counters(outbox, id) == (1, 0)


def test_crashes_alone_count_for_themselves_until_the_task_is_dead(outbox: Outbox) -> None:
    """I6: the first death, in company, counts nothing; the third one alone ends it. No failure is counted."""
    id, became = outbox.add(), []
    for alone in (False, True, True, True):
        worker = outbox.a_worker()
        outbox.must_claim(id, worker, alone=alone)
        became += [(what, *counters(outbox, id)) for _, what in rescue(outbox, worker, max_crashes=3) or []]
    assert became == [("rescued", 0, 0), ("rescued", 0, 1), ("rescued", 0, 2), ("dead", 0, 3)]
    row = outbox.row(id)
    assert (row["state"], row["reason"]) == ("dead", "its worker died 3 times while it ran alone")
    assert [attempt["outcome"] for attempt in row["attempts"]] == ["interrupted", "crashed", "crashed", "crashed"]


def test_a_worker_whose_heart_beat_on_is_not_rescued(outbox: Outbox) -> None:
    """I10: the beat that was seen to stand still must still stand."""
    worker, id = outbox.a_worker(), outbox.add()
    claimed = outbox.must_claim(id, worker)
    beat(outbox, worker, [claimed.run_id])
    assert rescue(outbox, worker, beat=0) is None
    assert outbox.row(id)["run_id"] == claimed.run_id


def test_what_a_live_worker_does_not_list_is_due_after_three_beats(outbox: Outbox) -> None:
    worker = outbox.a_worker()
    listed, unlisted = (outbox.must_claim(outbox.add(), worker) for _ in range(2))
    for _ in range(2):
        beat(outbox, worker, [listed.run_id])
        assert outbox.ledger.rescue_unlisted(outbox.conn) == []
    beat(outbox, worker, [listed.run_id])
    assert outbox.ledger.rescue_unlisted(outbox.conn) == [unlisted.id]
    row = outbox.row(unlisted.id)
    assert (row["state"], row["suspect"]) == ("pending", False)


def test_a_claim_that_committed_after_its_worker_was_declared_dead_is_found(outbox: Outbox) -> None:
    """The claim saw its worker alive, the rescue did not see the claim."""
    worker, id = outbox.a_worker(), outbox.add()
    late = outbox.connect()
    fence = outbox.row(id)["fence"]
    with late.transaction():
        outbox.ledger.claim(late, [(id, fence, id)], worker=worker, beat=0)
        assert rescue(outbox, worker) == []
    late.close()
    assert outbox.state(id) == "running"
    assert outbox.ledger.rescue_unlisted(outbox.conn) == [id]
    assert outbox.row(id)["suspect"]


# ---------------------------------------------------------------------- pause


def test_a_paused_queue_s_messages_go_stale_and_its_tasks_wait(outbox: Outbox) -> None:
    id = a_task(outbox, "published")
    old = outbox.row(id)["fence"]
    with outbox.conn.transaction():
        assert outbox.ledger.pause_queue(outbox.conn, "mail", who="me") == 1
    assert (outbox.state(id), outbox.row(id)["fence"] == old) == ("pending", False)
    assert outbox.ledger.register_queues(outbox.conn)["mail"] == (0, True)
    assert outbox.ledger.resume_queue(outbox.conn, "mail")
    assert not outbox.ledger.resume_queue(outbox.conn, "mail")
    assert publish(outbox) == [id]


def test_nothing_of_a_paused_queue_starts_from_an_old_copy_of_a_row_that_still_has_its_fence(outbox: Outbox) -> None:
    """I3: a relay had it in flight when the queue was paused, so that its copy arrived and its row is pending."""
    id, worker = a_task(outbox, "pending"), outbox.a_worker()
    copy = (id, outbox.row(id)["fence"], uuid4())
    with outbox.conn.transaction():
        outbox.ledger.pause_queue(outbox.conn, "mail", who="me")
    assert outbox.row(id)["fence"] == copy[1]
    for claim in (outbox.ledger.claim, outbox.ledger.claim_unlocked):
        assert claim(outbox.conn, [copy], worker=worker, beat=0) == []
    assert [verdict.why for verdict in outbox.ledger.verdicts(outbox.conn, [copy], worker=worker)] == ["stale"]
    assert outbox.ledger.resume_queue(outbox.conn, "mail")
    assert outbox.succeed(outbox.must_claim(id, worker)) == [id]
