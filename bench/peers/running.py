"""One system in one round: its processes, and its `drive`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import processes
from bench.apps import stamp
from bench.ground import Field, Ground
from bench.peers.catalogue import OURS, System
from bench.peers.environment import NotInstalled, environment
from bench.waiting import until
from deploy.local.child import Child
from deploy.local.place import ROOT
from deploy.local.ports import free_ports, is_listening


@dataclass
class Running:
    """A system on a field of its own."""

    system: System
    here: Field
    more: dict[str, str]
    commands: Path

    def drive(self, *words: str, seconds: float = 90.0) -> Any:
        """What its `drive` printed, as JSON; RuntimeError when it fails or takes longer."""
        command = [str(self.commands / "python"), "-m", "bench.peers.drive", self.system.app, *words]
        try:
            told = subprocess.run(
                command, env=self._environment(), cwd=ROOT, capture_output=True, text=True, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{' '.join(words)} took more than {seconds:.0f} s") from None
        if told.returncode:
            raise RuntimeError(f"{' '.join(words)} ended with {told.returncode}:\n{told.stderr.strip()[-1500:]}")
        return json.loads(told.stdout) if told.stdout else None

    def start(self, **more: str) -> list[Child]:
        """Its workers, and its relay where it has one."""
        if self.system is OURS:
            return [*processes.workers(self.here, app=more), processes.relay(self.here, app=more)]
        return [self._spawn(number, line, more) for number, line in enumerate(self.system.workers, 1)]

    def stop(self, children: list[Child]) -> None:
        """Ends them, and forgets what the tasks have noted so far."""
        for child in children:
            child.terminate()
        for child in children:
            child.stop()
            self.here.children.remove(child)
        for path in self.here.stamps.iterdir():
            path.unlink()

    def preflight(self) -> None:
        """RuntimeError unless it runs a task; RabbitMQ's queue and its tables are there afterwards."""
        before = stamp.count(self.here.stamps)
        self.drive("pace", "1", "1")
        until(lambda: stamp.count(self.here.stamps) > before, "a first task has run", here=self.here, seconds=30)

    def _spawn(self, number: int, line: str, more: dict[str, str]) -> Child:
        program, *rest = line.split()
        environment = self._environment() | more
        return self.here.spawn(f"{self.system.app}-{number}", [str(self.commands / program), *rest], environment)

    def _environment(self) -> dict[str, str]:
        return self.here.environment(**self.more)


@contextmanager
def running(ground: Ground, system: System) -> Iterator[Running]:
    """The system's tables and queues on an empty field; nothing of it runs yet."""
    commands = Path(sys.executable).parent if system.package is None else environment(system.package)
    with ground.round() as here:
        more = {"REDIS_URL": _redis(here)} if system.redis else {}
        peer = Running(system, here, more, commands)
        peer.drive("prepare")
        yield peer


def _redis(here: Field) -> str:
    """A server of this round's own, with its append-only file as Redis documents it: on disk every second."""
    programs = list(environment("valkey").parent.rglob("valkey-server"))
    if not programs:
        raise NotInstalled("its wheel holds no valkey-server for this machine")
    (port,) = free_ports(1)
    words = [str(programs[0]), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(here.directory)]
    here.spawn("valkey", [*words, "--save", "", "--appendonly", "yes", "--appendfsync", "everysec"])
    until(lambda: is_listening(port), "valkey listens", here=here, seconds=15)
    return f"redis://127.0.0.1:{port}/0"
