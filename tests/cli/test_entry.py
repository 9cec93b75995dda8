"""The command as it is installed: a process of its own, with and without a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.cli.conftest import Scene

OUTBOX = str(Path(sysconfig.get_path("scripts")) / "outbox")


def run(*words: str, env: Mapping[str, str] | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [OUTBOX, *words], env={**os.environ, **(env or {})}, input=stdin, capture_output=True, text=True, timeout=60
    )


def on_a_terminal(*words: str, env: Mapping[str, str]) -> str:
    """What a person sees in a window of 160 columns."""
    ours, theirs = pty.openpty()
    settings = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "160", **env}
    process = subprocess.Popen([OUTBOX, *words], env=settings, stdout=theirs, stderr=theirs, stdin=theirs)
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        seen += part
    os.close(ours)
    process.wait(timeout=60)
    return seen.decode()


def test_the_installed_command_reads_and_acts(scene: Scene) -> None:
    (id,) = scene.dead()
    env = {"DATABASE_URL": scene.url}
    listed = run("tasks", "list", "--json", env=env)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert json.loads(listed.stdout)["items"][0]["id"] == str(id)
    retried = run("tasks", "retry", "-", env=env, stdin=f"{id}\n")
    assert (retried.returncode, retried.stdout) == (0, f"{id}\tretried\n")
    assert run("tasks", "retry", str(id), env=env).returncode == 4


def test_on_a_terminal_there_is_a_table_with_a_heading_and_colour(scene: Scene) -> None:
    (id,) = scene.dead(actor="send")
    seen = on_a_terminal("tasks", "list", env={"DATABASE_URL": scene.url})
    assert re.search(r"id\b.*state.*actor", re.sub(r"\x1b\[[0-9;]*m", "", seen))
    assert str(id) in seen
    assert "\x1b[" in seen


def test_no_color_is_honoured(scene: Scene) -> None:
    scene.dead()
    for words in (["tasks", "list"], ["queues"], ["workers"], ["--help"]):
        seen = on_a_terminal(*words, env={"DATABASE_URL": scene.url, "NO_COLOR": "1"})
        assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", seen)


def test_an_empty_list_on_a_terminal_says_so(scene: Scene) -> None:
    assert "No task fits." in on_a_terminal("tasks", "list", env={"DATABASE_URL": scene.url})


def test_the_doctor_speaks_to_people_on_a_terminal(scene: Scene) -> None:
    env = {"DATABASE_URL": scene.url, "RABBITMQ_URL": "amqp://127.0.0.1:1/", "NO_COLOR": "1"}
    seen = re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal("doctor", env=env))
    assert "✓ PostgreSQL" in seen
    assert "✗ RabbitMQ" in seen
    assert "→ Start: outbox relay" in seen


def test_a_reader_that_closes_its_end_is_no_error(scene: Scene) -> None:
    scene.pending(2000)
    told = subprocess.run(
        f"{OUTBOX} tasks list -n 2000 | head -1", shell=True, env={**os.environ, "DATABASE_URL": scene.url},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (told.stdout.count("\n"), told.stderr) == (1, "")


def _hears_ctrl_c() -> None:
    """Whoever starts the tests in the background has its shell make them, and their children, deaf to it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_ctrl_c_exits_130_without_a_traceback_and_nothing_is_done(scene: Scene) -> None:
    (id,) = scene.dead()
    process = subprocess.Popen(
        [OUTBOX, "tasks", "retry", "--all"], env={**os.environ, "DATABASE_URL": scene.url}, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=_hears_ctrl_c,
    )  # fmt: skip
    assert process.stderr is not None
    asked = b""
    while b"[y/N]" not in asked and (part := os.read(process.stderr.fileno(), 4096)):
        asked += part
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert (process.returncode, b"Traceback" in told) == (130, False)
    assert scene.state(id) == "dead"


@pytest.mark.parametrize("name", ["worker", "scheduler"])
def test_worker_and_scheduler_need_an_application(name: str) -> None:
    told = run(name, env={"OUTBOX_APP": ""})
    assert (told.returncode, told.stdout) == (78, "")
    assert "OUTBOX_APP" in told.stderr
    assert "Traceback" not in told.stderr


def test_help_imports_nothing_heavy() -> None:
    """What makes it quick: no database, no broker, no settings."""
    script = (
        "import sys, types\n"
        "package = types.ModuleType('outbox'); package.__path__ = [sys.argv[1]]; sys.modules['outbox'] = package\n"
        "sys.argv[1:] = ['--help']\n"
        "from outbox.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'sqlalchemy', 'psycopg', 'dramatiq', 'pika', 'pydantic', 'alembic', 'structlog', 'fastapi'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    place = str(Path(__file__).parents[2] / "outbox")
    told = subprocess.run([sys.executable, "-c", script, place], capture_output=True, text=True, timeout=60)
    assert told.stderr.strip() == "[]"
    assert "Usage: outbox" in told.stdout


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import outbox", {"dramatiq", "pika", "psycopg", "sqlalchemy", "pydantic", "structlog", "fastapi", "jinja2"}),
        ("from outbox import Settings, Snooze, Task, current_run, enqueue", {"pika", "fastapi", "jinja2"}),
        ("import outbox.fastapi", {"pika", "jinja2"}),
        ("from outbox import OutboxBroker", {"fastapi", "jinja2"}),
    ],
)
def test_an_import_loads_only_what_it_names(statement: str, unwanted: set[str]) -> None:
    script = f"import sys\n{statement}\nprint(*{unwanted!r} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (told.stdout.strip(), told.stderr) == ("", "")


@pytest.mark.parametrize(
    "asked",
    [
        {"_OUTBOX_COMPLETE": "complete_bash", "COMP_WORDS": "outbox tasks list --state ", "COMP_CWORD": "4"},
        {"_OUTBOX_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "outbox tasks list --state "},
    ],
)
def test_a_shell_completes_the_states(asked: dict[str, str]) -> None:
    assert "retrying" in run(env=asked).stdout
