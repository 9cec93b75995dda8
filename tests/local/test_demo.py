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


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


def test_everything_arrives_although_a_worker_and_the_relay_are_killed_in_the_middle(place: Path) -> None:
    with demo(place) as (process, said):
        pass
    told = "".join(said)
    assert process.returncode == 0, told
    assert re.search(r"kill -9 worker-1 and relay, with [1-9]\d* promised tasks unfinished", told), told
    for name in ("worker-1", "relay"):
        assert f"{name} died; starts again" in told
    assert "lost: 0" in said[-3], told
    mails = [_headers(file) for file in (place / "mail").glob("[!.]*.eml")]
    assert len({mail["Message-ID"] for mail in mails}) == ONE_LOAD["sign-ups"] + ONE_LOAD["orders"]
    requests = [json.loads(line) for line in (place / "webhooks.jsonl").read_text().splitlines()]
    assert len({each["headers"]["webhook-id"] for each in requests}) == ONE_LOAD["orders"] + ONE_LOAD["events"]


def test_a_second_start_is_quick_and_what_does_not_arrive_is_told_and_makes_the_exit_code(
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


def _headers(file: Path) -> email.message.Message:
    return email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
