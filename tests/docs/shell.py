"""A page as its reader follows it: files are written, commands are typed, and what they print is what the page shows."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

from awaiting import SOON, await_that
from pages import page

__all__ = ["Shell", "follow", "open_shell"]

_STEP = re.compile(r'^```(?:console|\w+ title="(?P<title>[^"]+)")\n(?P<content>.*?)^```$', re.MULTILINE | re.DOTALL)
#: Commands that only look: the reader looks again until it is there.
_LOOKS = re.compile(r"(cat|outbox \w+ (list|show))\b")


class Shell:
    """One bash in one folder, so that variables and what runs in the background outlast a command."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._bash = subprocess.Popen(
            ["bash"],
            cwd=folder,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, command: str) -> str:
        """What the command prints, without what it says on stderr."""
        assert self._bash.stdin
        assert self._bash.stdout
        end = secrets.token_hex(8)
        self._bash.stdin.write(f"{command}\necho; echo {end}\n")
        self._bash.stdin.flush()
        return "".join(iter(self._bash.stdout.readline, f"{end}\n"))

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.communicate()


@contextmanager
def open_shell(folder: Path, env: Mapping[str, str]) -> Iterator[Shell]:
    shell = Shell(folder, env)
    try:
        yield shell
    finally:
        shell.end()


def follow(name: str, shell: Shell, folder: Path, *, instead: Mapping[str, str]) -> None:
    """Do what the page says, from top to bottom. `instead`: words of its commands that are others here, such as a port."""
    for step in _STEP.finditer(page(name)):
        if step["title"]:
            (folder / step["title"]).write_text(step["content"])
            continue
        for command, shown in _commands(step["content"]):
            for theirs, ours in instead.items():
                command = command.replace(theirs, ours)
            _do(shell, command, shown)


def _do(shell: Shell, command: str, shown: list[str]) -> None:
    told = shell.run(command)
    if not _LOOKS.match(command):
        assert _shows(told, shown), f"{command}\n{told}"
    elif not _shows(told, shown):
        await_that(lambda: _shows(shell.run(command), shown), SOON, pace=timedelta(milliseconds=100))


def _commands(block: str) -> Iterator[tuple[str, list[str]]]:
    for each in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, *shown = each.splitlines()
        yield command, shown


def _shows(told: str, shown: list[str]) -> bool:
    """Whether what is shown stands in what was told, line after line; spaces are no matter, `…` is anything."""
    pattern = r"\n(?:.*\n)*?".join(_line(each) for each in shown)
    return bool(re.search(f"^{pattern}$", told, re.MULTILINE)) if shown else True


def _line(shown: str) -> str:
    return r"[ \t]*" + r"[ \t]+".join(".*" if word == "…" else re.escape(word) for word in shown.split()) + r"[ \t]*"
