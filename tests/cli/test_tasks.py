"""`outbox tasks`: one by one, by ids on stdin, or all that fit a filter."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from outbox.cli import bulk
from outbox.cli.completion import completed
from tests.cli.conftest import Cli, Scene, lines


def test_a_list_is_one_line_a_task_complete_and_without_heading(scene: Scene, cli: Cli) -> None:
    long = "x" * 5000 + "\ttab\nline \x1b[31m"
    (id,) = scene.dead(actor="send", args=["y" * 3000], error=long)
    told = cli("tasks", "list")
    (row,) = lines(told.stdout)
    assert (told.exit_code, told.stderr) == (0, "")
    assert row[:4] == [str(id), "dead", "send", "default"]
    assert json.loads(row[8]) == ["y" * 3000]
    assert row[10] == "x" * 5000 + "\\ttab\\nline \\x1b[31m"


def test_the_json_of_a_list_is_one_document_with_a_cursor(scene: Scene, cli: Cli) -> None:
    ids = scene.pending(3)
    first = json.loads(cli("tasks", "list", "--limit", "2", "--json").stdout)
    assert [item["id"] for item in first["items"]] == [str(id) for id in ids[:0:-1]]
    rest = json.loads(cli("tasks", "list", "--cursor", first["next_cursor"], "--json").stdout)
    assert [item["id"] for item in rest["items"]] == [str(ids[0])]
    assert rest["next_cursor"] is None
    assert set(first["items"][0]) >= {"id", "state", "actor", "queue", "args", "kwargs", "created_at", "attempts"}


def test_a_list_longer_than_a_page_is_read_page_by_page(scene: Scene, cli: Cli) -> None:
    scene.pending(1201)
    assert len(lines(cli("tasks", "list", "-n", "1200").stdout)) == 1200
    told = cli("tasks", "list", "-n", "5000")
    assert (len(lines(told.stdout)), told.stderr) == (1201, "")


def test_filters_of_a_list(scene: Scene, cli: Cli) -> None:
    (id,) = scene.dead(actor="send", queue="mail")
    scene.dead(actor="draw")
    scene.pending(actor="send")
    told = cli("tasks", "list", "-s", "dead", "-s", "retrying", "-a", "send", "-q", "mail", "--since", "1h")
    assert [row[0] for row in lines(told.stdout)] == [str(id)]
    assert cli("tasks", "list", "--since", "tomorrow").stdout == ""


def test_a_query_and_the_options_are_the_same(scene: Scene, cli: Cli) -> None:
    (id,) = scene.dead(actor="send", queue="mail", error="timed out", kwargs={"user_id": 42})
    scene.dead(actor="draw")
    scene.pending(actor="send")
    for words in (
        ["state:dead actor:send queue:mail since:1h"],
        ["state:dead", "actor:send", "queue:mail", "since:1h"],
        ["state:dead actor:send", "-q", "mail", "--since", "1h"],
        ['args.user_id:42 error:"timed out" send'],
    ):
        told = cli("tasks", "list", *words)
        assert (told.exit_code, [row[0] for row in lines(told.stdout)]) == (0, [str(id)]), told.stderr


def test_a_list_says_how_far_back_it_looked_for_finished_tasks(scene: Scene, cli: Cli) -> None:
    scene.succeeded(actor="send")
    assert "Finished tasks of the last 7 days" in cli("tasks", "list", "actor:send").stderr
    for words in ([], ["actor:send since:30d"], ["actor:send state:dead"], ["id:01"]):
        assert cli("tasks", "list", *words).stderr == ""


def test_a_search_that_reads_too_much_says_how_to_narrow_it(
    scene: Scene, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.pending(2000, kwargs={"text": "x" * 2000})
    monkeypatch.setattr(bulk, "PATIENCE", timedelta(milliseconds=1))
    told = cli("tasks", "list", "aaaaaaaaaaaaaaaaaaaa")
    assert (told.exit_code, told.stdout) == (1, "")
    assert "narrow it, by since:2h" in told.stderr


def test_acts_by_query_touch_what_it_fits_and_nothing_that_comes_later(scene: Scene, cli: Cli) -> None:
    ids, others = scene.dead(2, actor="send", error="timed out"), scene.dead(actor="send", error="refused")
    told = cli("tasks", "retry", "actor:send error:timed", "--dry-run")
    assert (told.exit_code, {row[0] for row in lines(told.stdout)}) == (0, {str(id) for id in ids})
    assert "2 tasks fit: 2 dead send" in told.stderr
    frozen = told.stderr.split("none that comes later: ")[1].splitlines()[0]
    assert frozen.startswith("state:dead actor:send error:timed until:2")
    late = scene.dead(actor="send", error="timed out")
    assert cli("tasks", "retry", frozen, "--yes").exit_code == 0
    assert [scene.state(id) for id in (*ids, *others, *late)] == ["pending", "pending", "dead", "dead"]


def test_cancel_and_reschedule_by_query(scene: Scene, cli: Cli) -> None:
    (id,), (other,) = scene.scheduled(actor="send"), scene.scheduled(actor="draw")
    assert lines(cli("tasks", "reschedule", "actor:send", "--at", "2030-01-31T09:00+00:00", "-y").stdout)[0][0] == str(
        id
    )
    assert cli("tasks", "cancel", "actor:send", "--yes").exit_code == 0
    assert (scene.state(id), scene.state(other)) == ("cancelled", "scheduled")


def test_a_query_is_completed_by_keys_states_and_the_names_that_there_are(
    scene: Scene, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.dead(actor="send_mail", queue="mail")
    scene.succeeded(actor="send_letter")
    scene.published(queue="mail")
    monkeypatch.setenv("DATABASE_URL", database_url)
    assert completed("a") == ["actor:", "args."]
    assert completed('error:"a b" state:d') == ['error:"a b" state:dead']
    assert completed("actor:send") == ["actor:send_letter", "actor:send_mail"]
    assert completed("state:dead queue:m") == ["state:dead queue:mail"]
    assert completed("lane:") == []
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:1/none")
    assert completed("actor:") == []


def test_the_shell_is_given_the_completions(scene: Scene, cli: Cli) -> None:
    asked = {"_OUTBOX_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "outbox tasks list state:s"}
    told = cli("tasks", "list", env=asked)
    offered = told.stdout.replace("\\", "")
    assert "state:scheduled" in offered
    assert "state:dead" not in offered


def test_show_tells_everything_of_a_task(scene: Scene, cli: Cli) -> None:
    (id,) = scene.dead(error="no such address")
    told = cli("tasks", "show", str(id)[:-2])
    fields = {name.strip(): value for name, value in lines(told.stdout)}
    assert (fields["id"], fields["state"], fields["attempt 1"]) == (str(id), "dead", "failed")
    assert fields["error"] == "no such address"
    assert json.loads(cli("tasks", "show", str(id), "--json").stdout)["attempts"][0]["outcome"] == "failed"


def test_show_tells_why_a_task_does_not_run_and_what_mends_it(scene: Scene, cli: Cli) -> None:
    (id,) = scene.pending(queue="mail")
    scene.ledger.pause_queue(scene.conn, "mail", who="ada@desk")
    told = cli("tasks", "show", str(id))
    fields = dict(lines(told.stdout))
    assert (fields["why"], fields["  cause"]) == ("The queue mail is paused by ada@desk.", "queue_paused")
    assert fields["  mend"] == "outbox queues resume mail"
    assert json.loads(cli("tasks", "show", str(id), "--json").stdout)["why"]["cause"] == "queue_paused"


def test_show_asks_the_application_what_it_knows(
    scene: Scene, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (id,) = scene.retrying()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "knowing_app.py").write_text(
        "from outbox.why import Why\n"
        "def explain(conn, task, why):\n"
        "    return Why('full_moon', f'{task.actor} waits, not for {why.cause}.')\n"
    )
    assert (
        dict(lines(cli("--app", "knowing_app", "tasks", "show", str(id)).stdout))["why"]
        == "act waits, not for retry_wait."
    )
    told = cli("--app", "no_such_app", "tasks", "show", str(id))
    assert (told.exit_code, dict(lines(told.stdout))["  cause"]) == (0, "retry_wait")
    assert "no_such_app was not asked why" in told.stderr


def test_retry_by_id(scene: Scene, cli: Cli) -> None:
    (id,) = scene.dead()
    told = cli("tasks", "retry", str(id)[:-2], "--who", "ada")
    assert (told.exit_code, told.stdout) == (0, f"{id}\tretried\n")
    assert (scene.state(id), scene.audit()) == ("pending", [("ada", "retry", str(id))])


def test_ids_come_from_stdin_as_a_list_writes_them(scene: Scene, cli: Cli) -> None:
    ids = scene.dead(3)
    listed = cli("tasks", "list", "--state", "dead").stdout
    told = cli("tasks", "retry", "-", stdin=f"\n{listed}{ids[0]}\n")
    assert told.exit_code == 0
    assert {row[0] for row in lines(told.stdout)} == {str(id) for id in ids}
    assert "3 of 3 tasks retried." in told.stderr
    assert [scene.state(id) for id in ids] == ["pending"] * 3


def test_a_filter_is_shown_and_asked_about_before_anything_is_done(scene: Scene, cli: Cli) -> None:
    ids = scene.dead(3, actor="send")
    others = scene.dead(2, actor="draw")
    told = cli("tasks", "retry", "--actor", "send", stdin="n\n")
    assert (told.exit_code, told.stdout) == (1, "")
    assert "3 tasks fit: 3 dead send" in told.stderr
    assert "Nothing was done." in told.stderr
    assert [scene.state(id) for id in ids] == ["dead"] * 3
    told = cli("tasks", "retry", "--actor", "send", stdin="y\n")
    assert told.exit_code == 0
    assert [scene.state(id) for id in ids] == ["pending"] * 3
    assert [scene.state(id) for id in others] == ["dead"] * 2


def test_where_nobody_answers_nothing_is_done(scene: Scene, cli: Cli) -> None:
    (id,) = scene.dead()
    told = cli("tasks", "retry", "--state", "dead")
    assert told.exit_code == 2
    assert "--yes" in told.stderr
    assert scene.state(id) == "dead"


def test_a_dry_run_tells_and_does_nothing(scene: Scene, cli: Cli) -> None:
    ids = scene.dead(2)
    told = cli("tasks", "retry", "--all", "--dry-run")
    assert told.exit_code == 0
    assert lines(told.stdout) == [[str(id), "would be retried"] for id in ids]
    assert scene.state(ids[0]) == "dead"


def test_without_ids_and_filter_nothing_is_touched(scene: Scene, cli: Cli) -> None:
    (id,) = scene.pending()
    for command in ("retry", "cancel"):
        told = cli("tasks", command, "--yes")
        assert told.exit_code == 2
        assert "--all" in told.stderr
    assert cli("tasks", "cancel", str(id), "--all").exit_code == 2
    assert scene.state(id) == "pending"


def test_cancel_all_reaches_every_unfinished_task_and_asks_what_runs(scene: Scene, cli: Cli) -> None:
    (running,) = scene.running()
    rest = [*scene.pending(), *scene.scheduled(), *scene.published(), *scene.retrying()]
    (finished,) = scene.succeeded()
    told = cli("tasks", "cancel", "--all", "--yes", "--reason", "a mistake")
    assert told.exit_code == 0
    assert dict(lines(told.stdout)) == {str(running): "requested", **{str(id): "cancelled" for id in rest}}
    assert {scene.state(id) for id in rest} == {"cancelled"}
    assert scene.state(finished) == "succeeded"


def test_many_tasks_are_done_oldest_first_each_with_its_audit_line(scene: Scene, cli: Cli) -> None:
    ids = scene.dead(250)
    told = cli("tasks", "retry", "--state", "dead", "--yes", "--who", "ada")
    assert told.exit_code == 0
    assert [row[0] for row in lines(told.stdout)] == [str(id) for id in sorted(ids)]
    assert [subject for _, _, subject in scene.audit()] == [str(id) for id in sorted(ids)]


def test_what_is_done_in_part_is_told_and_has_its_own_exit_code(scene: Scene, cli: Cli) -> None:
    (dead,), (succeeded,), unknown = scene.dead(), scene.succeeded(), uuid4()
    told = cli("tasks", "retry", str(dead), str(succeeded), str(unknown), "zz", "--json")
    assert told.exit_code == 6
    document = json.loads(told.stdout)
    assert document["counts"] == {"done": 1, "refused": 2, "not found": 1}
    assert {each["id"]: each["outcome"] for each in document["results"]} == {
        str(dead): "retried", str(succeeded): "refused", str(unknown): "not found", "zz": "refused",
    }  # fmt: skip
    assert scene.state(dead) == "pending"


def test_reschedule_by_time_and_by_duration(scene: Scene, cli: Cli) -> None:
    (id,) = scene.pending()
    told = cli("tasks", "reschedule", str(id), "--at", "2030-01-31T09:00+00:00")
    assert told.stdout == f"{id}\tdue 2030-01-31T09:00:00+00:00\n"
    assert cli("tasks", "reschedule", str(id), "--in", "2h").exit_code == 0
    task = scene.reader.task(scene.conn, id)
    assert task is not None
    assert timedelta(hours=1, minutes=59) < task.due_at - datetime.now(UTC) < timedelta(hours=2, minutes=1)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["list", "--state", "lost"], 2), (["list", "state:lost"], 2), (["list", "colour:red"], 2),
        (["retry", 'error:"open'], 2), (["cancel", "since:soon", "--yes"], 2),
        (["list", "since:2h", "--since", "3h"], 2), (["list", "--since", "soon"], 2), (["list", "--cursor", "x"], 2),
        (["list", "--limit", "0"], 2), (["show", "zz"], 2), (["show", "ffff"], 3), (["show", str(uuid4())], 3),
        (["retry", str(uuid4())], 3), (["reschedule", "ff"], 2), (["reschedule", "ff", "--in", "soon"], 2),
        (["reschedule", "ff", "--in", "1h", "--at", "tomorrow"], 2), (["cancel", "zz"], 2), (["nonsense"], 2),
    ],
)  # fmt: skip
def test_exit_codes_of_what_cannot_be_done(scene: Scene, cli: Cli, words: list[str], code: int) -> None:
    told = cli("tasks", *words)
    assert (told.exit_code, told.stdout) == (code, "")
    assert told.stderr
    assert "Traceback" not in told.stderr


@pytest.mark.parametrize(("act", "state"), [("retry", "succeeded"), ("cancel", "dead")])
def test_a_refusal_says_why_and_exits_4(scene: Scene, cli: Cli, act: str, state: str) -> None:
    (id,) = getattr(scene, state)()
    told = cli("tasks", act, str(id))
    assert (told.exit_code, told.stdout) == (4, "")
    assert f"error: Task {id} is {state}" in told.stderr


def test_a_moved_running_task_is_refused(scene: Scene, cli: Cli) -> None:
    (id,) = scene.running()
    told = cli("tasks", "reschedule", str(id), "--in", "1h")
    assert (told.exit_code, "claimed by a worker" in told.stderr) == (4, True)


def test_an_interrupt_stops_at_the_edge_of_a_batch(scene: Scene, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from outbox import operate

    ids, calls, real = scene.dead(250), [0], operate.retry

    def interrupted(*args: Any, **options: Any) -> None:
        calls[0] += 1
        if calls[0] == 150:
            raise KeyboardInterrupt
        real(*args, **options)

    monkeypatch.setattr(operate, "retry", interrupted)
    told = cli("tasks", "retry", "--state", "dead", "--yes")
    assert told.exit_code == 130
    assert "Stopped after 100 of 250; what was done stays done." in told.stderr
    assert sum(scene.state(id) == "pending" for id in ids) == len(lines(told.stdout)) == 100
