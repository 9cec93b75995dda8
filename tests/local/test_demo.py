"""`make demo` as whoever looks for the first time sees it: a fixed load, two kills in its middle, a verdict."""

from __future__ import annotations

import email
import email.policy
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from deploy.local.demo import ONE_LOAD
from deploy.local.place import ROOT
from tests.awaiting import await_that

LONG = timedelta(seconds=90)

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


@contextmanager
def demo(directory: Path) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """`demo --once` in this directory, and the lines that it prints."""
    given = ("DATABASE_URL", "RABBITMQ_URL")
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.local", "--directory", str(directory), "demo", "--once"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in given},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said: list[str] = []
    assert process.stdout
    reader = threading.Thread(target=said.extend, args=(process.stdout,))
    reader.start()
    try:
        yield process, said
        process.wait(240)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(150)
        reader.join()


def test_the_first_start_and_the_second(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _everything_arrives_although_a_worker_and_the_relay_are_killed_in_the_middle(tmp_path)
    _the_second_is_quick_and_what_does_not_arrive_is_told_and_makes_the_exit_code(tmp_path, capsys)


def _everything_arrives_although_a_worker_and_the_relay_are_killed_in_the_middle(place: Path) -> None:
    with demo(place) as (process, said):
        pass
    told = "".join(said)
    assert process.returncode == 0, told
    assert re.search(r"kill -9 worker-1 and relay, with [1-9]\d* promised tasks unfinished", told), told
    for name in ("worker-1", "relay"):
        assert f"{name} died; starts again" in told
    assert "lost: 0" in said[-3], told
    assert len(_mails(place)) == ONE_LOAD["sign-ups"] + ONE_LOAD["orders"]
    assert len(_webhooks(place)) == ONE_LOAD["orders"] + ONE_LOAD["events"]


def _the_second_is_quick_and_what_does_not_arrive_is_told_and_makes_the_exit_code(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The far world freezes as soon as the load begins, and the demo is ended before it thaws."""
    began = time.monotonic()
    with demo(place) as (process, said):
        await_that(lambda: _line(said, "ready after") or process.poll() is not None, LONG)
        took = time.monotonic() - began
        receivers = int((place / "pids" / "receivers.pid").read_text())
        os.kill(receivers, signal.SIGSTOP)
        await_that(lambda: _line(said, "kill -9") or process.poll() is not None, LONG)
        process.terminate()
        await_that(lambda: _line(said, "stopping") or process.poll() is not None, LONG)
        os.kill(receivers, signal.SIGCONT)
    told = "".join(said)
    assert process.returncode == 1, told
    assert "NOT everything was carried out" in told
    if os.getloadavg()[0] < 2 * (os.cpu_count() or 1):  # else it is the machine that is measured
        assert took < 20
    with capsys.disabled():
        print(f"\n  second start: ready after {took:.1f} s")


def _line(said: Sequence[str], part: str) -> str | None:
    return next((line for line in list(said) if part in line), None)


def _mails(place: Path) -> set[str]:
    """The Message-IDs of what the demo's mail server has caught."""
    files = (place / "mail").glob("[!.]*.eml")
    return {email.message_from_bytes(file.read_bytes(), policy=email.policy.default)["Message-ID"] for file in files}


def _webhooks(place: Path) -> set[str]:
    caught = place / "webhooks.jsonl"
    lines = caught.read_text().splitlines() if caught.exists() else []
    return {json.loads(line)["headers"]["webhook-id"] for line in lines}
