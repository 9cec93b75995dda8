"""What the buttons do: the same as the command line, with the visitor's name in the audit; and what a refusal says."""

from __future__ import annotations

import json
from datetime import timedelta

from dashboard_eyes import Eyes, a_house_in_use
from outbox_rows import Outbox

ODD = "/schedules/nightly%2Fdigest%20%3Cu%3E"


def audited(outbox: Outbox) -> list[tuple[str, str, str]]:
    return [
        (row[0], row[1], row[2])
        for row in outbox.conn.execute("select who, action, subject from outbox.audit order by id")
    ]


def test_a_dead_task_is_retried_with_the_visitor_s_name_in_the_audit(eyes: Eyes, outbox: Outbox) -> None:
    id = a_house_in_use(outbox)["dead"]
    assert eyes.told(eyes.act(f"/tasks/{id}/retry", back=f"/tasks/{id}")) == "done: It is due now."
    assert outbox.state(id) == "pending"
    assert audited(outbox)[-1] == ("ann", "retry", str(id))


def test_a_task_is_cancelled_and_one_that_runs_is_asked_to_stop(eyes: Eyes, outbox: Outbox) -> None:
    found = a_house_in_use(outbox)
    assert eyes.told(eyes.act(f"/tasks/{found['pending']}/cancel")) == "done: It is cancelled, and never starts."
    assert eyes.told(eyes.act(f"/tasks/{found['running']}/cancel")).startswith("done: It runs: it is asked to stop")
    assert (outbox.state(found["pending"]), outbox.row(found["running"])["cancel_requested"]) == ("cancelled", True)


def test_a_task_is_moved_to_an_instant_or_by_a_while(eyes: Eyes, outbox: Outbox) -> None:
    id = outbox.add("x")
    eyes.act(f"/tasks/{id}/reschedule", **{"at": "2031-02-03 04:05"})
    assert f"{outbox.row(id)['due_at'].timestamp():.0f}" == "1927857900"
    assert eyes.told(eyes.act(f"/tasks/{id}/reschedule", **{"in": "2h"})).startswith("done: It is due at")
    away = outbox.row(id)["due_at"] - outbox.conn.execute("select clock_timestamp()").fetchall()[0][0]
    assert timedelta(minutes=119) < away <= timedelta(hours=2)


def test_a_time_that_makes_no_sense_is_refused_with_what_would(eyes: Eyes, outbox: Outbox) -> None:
    id = outbox.add("x", delay=timedelta(hours=1))
    due = outbox.row(id)["due_at"]
    for form in ({}, {"at": "soon"}, {"in": "-1h"}, {"at": "2031-01-01", "in": "2h"}, {"at": "9999-01-01"}):
        assert eyes.told(eyes.act(f"/tasks/{id}/reschedule", **form)).startswith("refused: ")
    assert outbox.row(id)["due_at"] == due


def test_what_cannot_be_done_is_told_and_changes_nothing(eyes: Eyes, outbox: Outbox) -> None:
    found = a_house_in_use(outbox)
    before = audited(outbox)
    assert "is succeeded: only a dead, cancelled" in eyes.told(eyes.act(f"/tasks/{found['succeeded']}/retry"))
    assert "only an unfinished task can be cancelled" in eyes.told(eyes.act(f"/tasks/{found['dead']}/cancel"))
    assert "No task has the id" in eyes.told(eyes.act("/tasks/01890000-0000-7000-8000-000000000002/retry"))
    assert eyes.act("/tasks/nonsense/retry").status_code == 404
    assert audited(outbox) == before


def test_those_that_were_chosen_are_retried_together_and_the_others_are_told(eyes: Eyes, outbox: Outbox) -> None:
    found = a_house_in_use(outbox)
    chosen = [str(found[name]) for name in ("dead", "cancelled", "succeeded")]
    told = eyes.told(eyes.act("/tasks/retry", id=chosen))
    assert told.startswith("done: 2 of 3 retried. Not, for example: Task ")
    assert (outbox.state(found["dead"]), outbox.state(found["cancelled"])) == ("pending", "pending")


def test_a_choice_of_nothing_or_of_nonsense_is_refused(eyes: Eyes, outbox: Outbox) -> None:
    id = outbox.add("x")
    assert "No task was chosen" in eyes.told(eyes.act("/tasks/cancel"))
    assert "not ids of tasks" in eyes.told(eyes.act("/tasks/cancel", id=[str(id), "x"]))
    assert "At most 500" in eyes.told(eyes.act("/tasks/cancel", id=[str(each) for each in range(501)]))
    assert outbox.state(id) == "pending"


def test_a_queue_is_paused_and_resumed_whatever_its_name(eyes: Eyes, outbox: Outbox) -> None:
    outbox.ledger.queue_epoch(outbox.conn, "a/queue & <u>")
    path = "/queues/a%2Fqueue%20%26%20%3Cu%3E"
    assert eyes.told(eyes.act(f"{path}/pause", back="/queues")).startswith(
        "done: Queue a/queue &amp; &lt;u&gt; is paused"
    )
    assert 'class="flag">paused</span> by ann' in eyes.page("/queues")
    assert "is not paused" not in eyes.told(eyes.act(f"{path}/resume"))
    assert "is not paused" in eyes.told(eyes.act(f"{path}/resume"))
    assert "No queue is named" in eyes.told(eyes.act("/queues/none/pause"))
    assert [action for _, action, _ in audited(outbox)] == ["pause queue", "resume queue"]


def test_a_schedule_is_run_paused_and_resumed_whatever_its_name(eyes: Eyes, outbox: Outbox) -> None:
    a_house_in_use(outbox)
    ran = eyes.act(f"{ODD}/run")
    assert ran.headers["location"].startswith("/ops/tasks/")
    assert "by hand" in eyes.page(ODD)
    assert eyes.told(eyes.act(f"{ODD}/pause")).startswith("done: ")
    assert 'class="flag">paused' in eyes.page("/schedules")
    assert eyes.told(eyes.act(f"{ODD}/resume")).startswith("done: ")
    assert "No schedule" in eyes.told(eyes.act("/schedules/none/run"))


def test_an_edited_task_runs_with_what_was_given_and_the_old_one_keeps_its_evidence(eyes: Eyes, outbox: Outbox) -> None:
    id = a_house_in_use(outbox)["dead"]
    before = outbox.row(id)
    went = eyes.act(f"/tasks/{id}/edit", args=json.dumps(["mended"]), kwargs="{}")
    new = went.headers["location"].rsplit("/", 1)[1]
    task = next(row for row in outbox.all("task") if row["args"] == ["mended"])
    assert str(task["id"]) == new
    assert before["attempts"] in [row["attempts"] for name in ("task", "dead", "history") for row in outbox.all(name)]


def test_what_is_no_json_is_refused_where_it_stands(eyes: Eyes, outbox: Outbox) -> None:
    id = a_house_in_use(outbox)["dead"]
    for args, kwargs, told in (
        ("[", "{}", "args is not JSON"),
        ("{}", "{}", "args must be a JSON array"),
        ("[]", "[]", "kwargs must be a JSON object"),
    ):
        assert told in eyes.told(eyes.act(f"/tasks/{id}/edit", args=args, kwargs=kwargs))
    assert outbox.state(id) == "dead"


def test_a_secret_that_was_not_touched_by_the_edit_stays_what_it_was(eyes: Eyes, outbox: Outbox) -> None:
    id = a_house_in_use(outbox)["odd"]
    eyes.act(f"/tasks/{id}/cancel")
    page = eyes.page(f"/tasks/{id}/edit")
    assert "[redacted]" in page
    assert "hunter2" not in page
    eyes.act(f"/tasks/{id}/edit", args='["y"]', kwargs='{"password": "[redacted]"}')
    task = next(row for name in ("task", "history") for row in outbox.all(name) if row["args"] == ["y"])
    assert task["kwargs"] == {"password": "hunter2-of-ann"}


def test_an_act_on_all_that_fit_is_shown_begun_followed_and_ended(eyes: Eyes, outbox: Outbox) -> None:
    worker = outbox.a_worker()
    dead = [outbox.add(number) for number in range(7)]
    for id in dead:
        outbox.end_dead(outbox.must_claim(id, worker))
    preview = eyes.page("/bulk/new?action=retry&q=actor:send_mail")
    assert "<strong>7 tasks</strong> that are dead" in preview
    went = eyes.act("/bulk", action="retry", q="actor:send_mail", reason="mended", rate="5")
    path = went.headers["location"].removeprefix("/ops")
    assert "0 done, 0 refused, of 7 that fitted" in eyes.page(path)
    assert eyes.told(eyes.act(f"{path}/abort")).startswith("done: It is ended")
    assert [(who, action) for who, action, _ in audited(outbox)] == [("ann", "bulk retry"), ("ann", "abort bulk")]
    assert 'class="outcome aborted"' in eyes.page("/bulk")


def test_an_act_on_everything_must_say_so_and_nonsense_is_refused(eyes: Eyes, outbox: Outbox) -> None:
    outbox.add("x")
    for form in (
        {"action": "cancel", "q": ""},
        {"action": "cancel", "q": "state:lost"},
        {"action": "cancel", "q": "queue:mail", "rate": "fast"},
        {"action": "cancel", "q": "queue:mail", "rate": "0"},
        {"action": "reschedule", "q": "queue:mail"},
    ):
        assert eyes.told(eyes.act("/bulk", **form)).startswith("refused: ")
    assert eyes.act("/bulk", action="burn", q="queue:mail").status_code == 404
    assert outbox.all("bulk") == []
    assert eyes.act("/bulk", action="cancel", q="", everything="yes").status_code == 303
    assert len(outbox.all("bulk")) == 1
