"""Where things lie: `.dev/` for the system, a slot of `.dev/test/` for each run of the tests."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]


class PlaceTaken(Exception):
    """Another living run holds this place."""


@dataclass(frozen=True)
class Place:
    """A directory that one run at a time owns. The lock dies with its owner, so what a new owner finds is an orphan."""

    directory: Path
    lock: IO[str]

    @property
    def pids(self) -> Path:
        return self.directory / "pids"

    @property
    def logs(self) -> Path:
        return self.directory / "logs"

    def leave(self) -> None:
        self.lock.close()


def take(directory: Path) -> Place:
    """The place, locked until this process ends or leaves it. PlaceTaken while another one has it."""
    directory.mkdir(parents=True, exist_ok=True)
    lock = (directory / "lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        owner = lock.read().strip()
        lock.close()
        raise PlaceTaken(f"{directory} is in use by process {owner or 'unknown'}") from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    for part in ("pids", "logs"):
        (directory / part).mkdir(exist_ok=True)
    return Place(directory, lock)


def take_free_slot(directory: Path, *, slots: int = 16) -> Place:
    """The first free of the numbered places in `directory`: several runs of the tests do not meet."""
    for number in range(1, slots + 1):
        try:
            return take(directory / str(number))
        except PlaceTaken:
            continue
    raise PlaceTaken(f"all {slots} slots of {directory} are in use")
