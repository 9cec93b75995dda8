"""A wrong word on the command line is refused in one sentence: no traceback, no change of data, no steering of the terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from outbox.cli.exits import Exit
from outbox.cli.root import command
from tests.cli.conftest import Cli, Scene

WORDS = [
    "", " ", "-1", "-0", "9" * 400, "x" * 10_000, "\ud800", "\udcff", "\x1b[2J\x1b]0;owned\x07", "\x9b31m",
    "a\nb", "'; drop table outbox.task; --", "%s%s", "{0.__class__}", "../../etc/passwd", "\uff11\uff12", "nan", "1e999", "inf",
    "ffffffff", "0" * 36, "[red]x[/]", "\U0001f4a3", "9999-99-99", "0001-01-01T00:00:00+14:00", "999999999d", "-",
]  # fmt: skip
#: What runs until it is told to stop, or changes the tables themselves: `--help` and wrong usage are tested elsewhere.
NOT_CALLED = {
    ("relay",),
    ("worker",),
    ("scheduler",),
    ("top",),
    ("db", "upgrade"),
    ("db", "downgrade"),
    ("db", "sql"),
    ("purge",),
}
#: What answers with its exit code, and says 1 of what it has found.
ANSWERS = {("attention",)}
#: Raw, each of these can move the cursor, set colours or titles, or turn the direction of writing round.
STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
DATA = (
    "select 'task', to_jsonb(t)::text from outbox.task t union all select 'dead', to_jsonb(d)::text from outbox.dead d \
union all select 'audit', to_jsonb(a)::text from outbox.audit a union all select 'queue', to_jsonb(q)::text from outbox.queue q \
union all select 'schedule', to_jsonb(s)::text from outbox.schedule s order by 1, 2"
)


def commands(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that there is, so that a new one is called too."""
    if getattr(node, "commands", None):
        for name, below in node.commands.items():
            yield from commands(below, (*path, name))
    else:
        yield path, node


CALLED = [(path, node) for path, node in commands(command()) if path not in NOT_CALLED]


def calls(path: tuple[str, ...], node: Any, turn: int) -> Iterator[list[str]]:
    """A word in place of each argument, and another as the value of one option, each in its turn."""
    arguments = [WORDS[turn] for each in node.params if each.param_type_name == "argument"]
    yield [*path, *(arguments or [WORDS[turn]])]
    options = [each.opts[0] for each in node.params if each.param_type_name == "option"]
    if options:
        yield [*path, *arguments, f"{options[turn % len(options)]}={WORDS[turn]}"]


@pytest.mark.parametrize(("path", "node"), CALLED, ids=[" ".join(path) for path, _ in CALLED])
def test_no_word_breaks_a_command_or_changes_anything(scene: Scene, cli: Cli, path: tuple[str, ...], node: Any) -> None:
    scene.scheduled()
    scene.dead()
    before = scene.conn.execute(DATA).fetchall()
    for turn in range(len(WORDS)):
        for words in calls(path, node, turn):
            told = cli(*words, env={"RABBITMQ_URL": "amqp://127.0.0.1:1/"})
            assert told.exception is None or isinstance(told.exception, SystemExit), words
            assert told.exit_code in set(Exit) - ({Exit.ERROR} if path not in ANSWERS else set()), (words, told.stderr)
            assert "Traceback" not in told.output, words
            assert not STEERING.search(told.output), (words, told.output)
    assert scene.conn.execute(DATA).fetchall() == before


def test_what_a_task_carries_cannot_steer_the_terminal_that_shows_it(scene: Scene, cli: Cli) -> None:
    evil = "\x1b[2J\x1b]0;owned\x07 \x9b31m \u202egnp.exe \x7f \r\n"
    (id,) = scene.dead(actor="act\x1b[31m", queue="q\x9b1m", args=[evil, {evil: evil}], error=evil)
    for words in (
        ["tasks", "list"],
        ["tasks", "show", str(id)],
        ["queues"],
        ["stats"],
        ["tasks", "retry", "--all", "--dry-run"],
    ):
        for form in ([], ["--json"]):
            told = cli(*words, *form)
            assert not STEERING.search(told.output), (words, told.output)
    shown = json.loads(cli("tasks", "show", str(id), "--json").stdout)
    assert shown["args"][0] == evil  # escaped, and yet the same
