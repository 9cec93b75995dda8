"""`make up` as an operator sees it: real processes, killed with SIGKILL, one of them the supervisor itself."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from awaiting import await_that

from deploy.local.child import is_alive
from deploy.local.place import ROOT

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]
NAMES = ("api", "relay", "worker-1", "worker-2", "worker-heavy", "scheduler", "receivers", "postgres", "rabbitmq")


@pytest.fixture(scope="module", autouse=True)
def no_usual_port() -> Iterator[None]:
    """8000 is taken all the while: other systems prefer it too, and one that starts while ours is down would get it."""
    with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", 8000)):
        yield
        return
    yield


@dataclass
class Up:
    """The system in a directory of this test's own."""

    directory: Path
    supervisor: subprocess.Popen[str] | None = None

    def start(self) -> None:
        given = ("DATABASE_URL", "RABBITMQ_URL")
        words = [sys.executable, "-m", "deploy.local", "--directory", str(self.directory), "up"]
        with (self.directory / "out").open("a") as out:
            self.supervisor = subprocess.Popen(
                words,
                cwd=ROOT,
                env={name: value for name, value in os.environ.items() if name not in given},
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self.until(lambda: (self.directory / "env").exists(), "it is ready")

    def stop(self) -> int:
        assert self.supervisor
        self.supervisor.terminate()
        return self.supervisor.wait(150)

    def pid(self, name: str) -> int:
        try:
            return int((self.directory / "pids" / f"{name}.pid").read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def env(self) -> dict[str, str]:
        lines = (self.directory / "env").read_text().splitlines()
        return dict(line.removeprefix("export ").split("=", 1) for line in lines)

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.env()['API_URL']}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def ports(self) -> list[int]:
        env = self.env()
        return [int(env[name].rsplit(":")[-1].split("/")[0]) for name in ("API_URL", "SMTP_URL", "DATABASE_URL")]

    def until(self, reached: Callable[[], bool], what: str) -> None:
        assert self.supervisor
        supervisor = self.supervisor
        try:
            await_that(lambda: supervisor.poll() is not None or reached(), timedelta(seconds=90))
        except AssertionError as error:
            raise AssertionError(f"{what}: {error}\n{(self.directory / 'out').read_text()}") from None
        assert supervisor.poll() is None, (self.directory / "out").read_text()


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    up = Up(tmp_path)
    up.start()
    yield up
    assert up.supervisor
    if up.supervisor.poll() is None:
        up.stop()


def test_whatever_is_killed_runs_again_and_the_end_leaves_nothing(up: Up) -> None:
    before = {name: up.pid(name) for name in NAMES}
    assert all(before.values())
    for name in NAMES:
        os.kill(before[name], signal.SIGKILL)
    for name in NAMES:
        up.until(lambda name=name: up.pid(name) not in (0, before[name]), f"{name} runs again")  # type: ignore[misc]
    up.until(up.is_ready, "the API is ready again")

    _kill_and_delete_rabbitmq(up)

    after, ports = [up.pid(name) for name in NAMES], up.ports()
    assert up.stop() == 0
    assert not [pid for pid in after if is_alive(pid)]
    assert not [port for port in ports if _is_open(port)]
    assert not list((up.directory / "pids").iterdir())
    assert not (up.directory / "env").exists()


def test_after_sigkill_the_next_start_ends_the_orphans_and_keeps_every_address(up: Up) -> None:
    assert up.supervisor
    orphans, env = [up.pid(name) for name in NAMES], up.env()
    up.supervisor.kill()
    up.supervisor.wait()
    assert all(is_alive(pid) for pid in orphans)
    (up.directory / "env").unlink()
    up.start()
    assert not [pid for pid in orphans if is_alive(pid)]
    assert up.env() == env


def _kill_and_delete_rabbitmq(up: Up) -> None:
    node = up.pid("rabbitmq")
    os.kill(node, signal.SIGKILL)
    shutil.rmtree((up.directory / "rabbitmq").rename(up.directory / "gone"))  # at once, whoever writes there meanwhile
    port = int(up.env()["RABBITMQ_URL"].rsplit(":", 1)[1].split("/")[0])
    up.until(lambda: up.pid("rabbitmq") != node and _is_open(port), "RabbitMQ is back with an empty disk")


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
