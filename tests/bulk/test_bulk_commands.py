"""`outbox bulk`, and `outbox tasks … --background`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest
from awaiting import await_that

from outbox.bulk import Bulks
from outbox.cli import bulks
from tests.bulk.conftest import Begin, Carry
from tests.cli.conftest import Cli, Scene, lines


@contextmanager
def carrying(a_carrier: Carry) -> Iterator[None]:
    """A carrier at work, as in a relay."""
    mover = a_carrier()
    mover.start()
    try:
        yield
    finally:
        mover.stop()


@pytest.mark.parametrize(
    ("words", "action"),
    [
        (["retry", "actor:send"], "retry"),
        (["cancel", "actor:send", "--reason", "not wanted"], "cancel"),
        (["reschedule", "actor:send", "--in", "2h"], "reschedule"),
    ],
)
def test_in_the_background_prints_the_id_alone(scene: Scene, cli: Cli, words: list[str], action: str) -> None:
    told = cli("tasks", *words, "--background", "--yes", "--who", "ann", "--rate", "50")
    ((id,),) = lines(told.stdout)
    begun = Bulks().one(scene.conn, UUID(id))
    assert (told.exit_code, begun.action, begun.who, begun.rate, begun.state) == (0, action, "ann", 50, "running")
    assert f"outbox bulk watch {id}" in told.stderr
    assert "No relay runs" in told.stderr


def test_it_is_shown_and_asked_for_first(scene: Scene, cli: Cli) -> None:
    scene.dead(3, actor="send")
    told = cli("tasks", "retry", "actor:send", "--background", stdin="n\n")
    assert "3 tasks to retry" in told.stderr
    assert "state:dead actor:send" in told.stderr
    assert cli("tasks", "retry", "actor:send", "--background", "--dry-run").exit_code == 0
    assert Bulks().all(scene.conn) == []


@pytest.mark.parametrize(
    "words",
    [["--background"], ["01a2", "--background"], ["actor:send", "--rate", "5"]],
    ids=["nothing said", "ids", "a rate alone"],
)
def test_what_makes_no_sense_is_wrong_usage(scene: Scene, cli: Cli, words: list[str]) -> None:
    assert cli("tasks", "retry", *words, "--yes").exit_code == 2
    assert Bulks().all(scene.conn) == []


def test_watching_ends_with_the_act_and_says_how_it_went(
    scene: Scene, cli: Cli, begin: Begin, a_carrier: Carry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulks, "PACE", 0.02)
    scene.dead(30)
    id = begin("retry", "queue:default").id
    with carrying(a_carrier):
        told = cli("bulk", "watch", str(id), "--json")
    assert told.exit_code == 0
    seen = json.loads(told.stdout)
    assert (seen["state"], seen["done"], seen["refused"], seen["matched"]["number"]) == ("done", 30, 0, 30)


def test_what_was_refused_is_told_by_the_exit_code(scene: Scene, cli: Cli, begin: Begin, a_carrier: Carry) -> None:
    scene.succeeded(2)
    none = begin("retry", "state:succeeded").id
    with carrying(a_carrier):
        await_that(lambda: Bulks().one(scene.conn, none).state == "done")
    told = cli("bulk", "watch", none.hex[:30])
    assert told.exit_code == 4
    assert "0 done, 2 refused" in told.stderr


def test_an_aborted_act_is_watched_no_longer(scene: Scene, cli: Cli, begin: Begin) -> None:
    id = begin("retry", "queue:default").id
    assert cli("bulk", "abort", str(id), "--who", "bob").exit_code == 0
    assert scene.audit()[-1] == ("bob", "abort bulk", f"bulk/{id}")
    assert cli("bulk", "watch", str(id)).exit_code == 1
    assert cli("bulk", "abort", str(id)).exit_code == 4


def test_the_list_and_one_of_it(scene: Scene, cli: Cli, begin: Begin) -> None:
    scene.dead(2)
    first, second = begin("retry", "queue:default"), begin("cancel", "queue:none")
    rows = lines(cli("bulk", "list").stdout)
    assert [row[:7] for row in rows] == [
        [str(second.id), "cancel", "running", "0", "0", "0", "ann"],
        [str(first.id), "retry", "running", "2", "0", "0", "ann"],
    ]
    assert rows[1][8] == first.query
    shown = dict(lines(cli("bulk", "show", str(first.id)).stdout))
    assert (shown["query"], shown["matched"], shown["state"]) == (first.query, "2", "running")
    assert cli("bulk", "show", "ffff").exit_code == 3
    assert json.loads(cli("bulk", "list", "--json").stdout)["items"][0]["id"] == str(second.id)
