"""What else operators ask on the command line: attention, the audit, a schedule, another call, and all of it live."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from uuid import UUID

import pytest

from outbox import operate
from outbox.errors import WrongState
from tests.cli.conftest import Cli, Scene, lines
from tests.cli.test_entry import OUTBOX, on_a_terminal


def test_attention_ends_with_1_while_something_is_serious(scene: Scene, cli: Cli) -> None:
    scene.pending()
    told = cli("attention")
    assert told.exit_code == 1
    assert lines(told.stdout)[0][:2] == [
        "serious", "No relay is alive: nothing is published, no delayed task becomes due, no dead worker's task is rescued.",
    ]  # fmt: skip
    assert json.loads(cli("attention", "--json").stdout)["items"][0]["cause"] == "no_relay"
    scene.join(kind="relay", queues=())
    clear = cli("attention")
    assert (clear.exit_code, clear.stdout) == (0, "")


def test_the_audit_is_read_by_who_what_and_to_what(scene: Scene, cli: Cli) -> None:
    first, second = scene.dead(2)
    cli("tasks", "retry", str(first), "--who", "ada")
    cli("tasks", "cancel", str(second), "--who", "bob", "--reason", "postgresql://me:sesame@host/x")
    cli("tasks", "retry", str(second), "--who", "bob")
    assert [line[2:5] for line in lines(cli("audit", "list").stdout)] == [
        ["bob", "retry", str(second)], ["ada", "retry", str(first)],
    ]  # fmt: skip
    page = cli("audit", "list", "-n", "1")
    assert "More: --cursor" in page.stderr
    rest = cli("audit", "list", "-n", "1", "--cursor", page.stderr.split()[-1], "--json")
    assert json.loads(rest.stdout)["items"][0]["who"] == "ada"
    assert len(lines(cli("audit", "list", "--action", "retry", "--subject", str(first), "--who", "ada").stdout)) == 1
    assert cli("audit", "list", "--cursor", "x").exit_code == 2


def test_a_schedule_is_shown_with_its_next_fires_and_its_last(scene: Scene, cli: Cli) -> None:
    scene.conn.execute(
        "insert into outbox.schedule (name, actor, queue, cron, fired_through) values"
        " ('nightly', 'report', 'default', '0 2 * * *', clock_timestamp())"
    )
    cli("schedules", "run", "nightly")
    shown = json.loads(cli("schedules", "show", "nightly", "--json").stdout)
    assert [each[11:16] for each in shown["next_fires"]] == ["02:00"] * 5
    assert shown["next_fire_at"] == shown["next_fires"][0]
    assert [each["outcome"] for each in shown["fires"]] == ["by hand"]
    assert "next_fires\t" in cli("schedules", "show", "nightly").stdout
    assert cli("schedules", "show", "nothing").exit_code == 3


# ---------------------------------------------------------------------- another call


def test_a_dead_task_runs_again_with_other_arguments_as_another(scene: Scene, cli: Cli) -> None:
    (old,) = scene.dead(args=[1], kwargs={"a": 1})
    new = cli("tasks", "edit", str(old)[:-2], "--kwargs", '{"a": 2}').stdout.strip()
    task = scene.reader.task(scene.conn, UUID(new))
    assert task is not None
    assert (task.state, task.args, task.kwargs, task.options["edited_from"]) == ("pending", [1], {"a": 2}, str(old))
    assert scene.state(old) == "dead"
    assert [line[1:] for line in scene.audit()] == [("edit and retry", str(old)), ("made by an edit", new)]


def test_an_edit_that_makes_no_sense_changes_nothing(scene: Scene, cli: Cli) -> None:
    (dead,), (pending,) = scene.dead(), scene.pending()
    for wrong in (["--args", "{}"], ["--kwargs", "[1]"], ["--kwargs", "{"], ["--args", '["\\u0000"]']):
        assert cli("tasks", "edit", str(dead), *wrong).exit_code == 2, wrong
    assert cli("tasks", "edit", str(pending)).exit_code == 4
    assert scene.audit() == []


def test_an_edit_gives_up_the_lane_of_the_old_and_queues_at_its_end(scene: Scene) -> None:
    (old,) = scene.dead(lane="order/a", lane_holds=True)
    (follower,) = scene.pending(lane="order/a")
    assert scene.state(follower) == "waiting"
    new = operate.edit_and_retry(scene.conn, scene.ledger, old, who="ada", args=[2])
    assert (scene.state(follower), scene.state(new)) == ("pending", "waiting")
    assert scene.state(old) == "dead"


def test_an_edit_is_refused_while_another_has_its_unique_key(scene: Scene) -> None:
    (old,) = scene.dead(unique_key="k")
    (other,) = scene.pending(unique_key="k")
    with pytest.raises(WrongState, match="unique key"), scene.conn.transaction():
        operate.edit_and_retry(scene.conn, scene.ledger, old, who="ada")
    scene.ledger.cancel(scene.conn, other, reason="gone")
    new = operate.edit_and_retry(scene.conn, scene.ledger, old, who="ada")
    task = scene.reader.task(scene.conn, new)
    assert task is not None
    assert task.unique_key == "k"


# ---------------------------------------------------------------------- top


def test_top_tells_each_part_in_lines(scene: Scene, cli: Cli) -> None:
    scene.pending(2, queue="mail")
    (dead,) = scene.dead(error="postgresql://me:sesame@host/x\nand more")
    told = lines(cli("top", "--once").stdout)
    assert {line[0] for line in told} == {"attention", "queues", "processes", "dead"}
    assert ["mail", "no", "0", "2"] in [line[1:5] for line in told]
    (last,) = (line for line in told if line[0] == "dead")
    assert (last[1], last[4]) == (str(dead), "postgresql://[redacted]@host/x")


def test_top_on_a_terminal_draws_each_part(scene: Scene) -> None:
    seen = on_a_terminal("top", "--once", env={"DATABASE_URL": scene.url})
    plain = re.sub(r"\x1b\[[0-9;]*m", "", seen)
    assert re.search(r"ATTENTION.*No relay.*QUEUES.*FIGURES.*PROCESSES.*DEAD", plain, re.DOTALL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_top_goes_on_until_it_is_told_to_end(scene: Scene, number: signal.Signals) -> None:
    scene.pending(queue="mail")
    process = subprocess.Popen(
        [OUTBOX, "top"], env={**os.environ, "DATABASE_URL": scene.url}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    looks = 0
    for line in process.stdout:
        looks += line.startswith("queues\tmail\t")
        if looks == 2:
            break
    process.send_signal(number)
    _, told = process.communicate(timeout=30)
    assert (process.returncode, told) == (0, "")
