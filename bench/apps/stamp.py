"""What every compared actor does: one small write that says that it started, and when."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from uuid import UUID

RECORD = struct.Struct("<qd")


class Stamps:
    """A file for each process in one directory; CLOCK_MONOTONIC, which all processes of a machine share."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)
        self._owner = 0
        self._file = -1

    def put(self, number: int, at: float | None = None) -> None:
        """`at`: when it was, if that was not now."""
        if self._owner != os.getpid():  # a prefork server forked since
            self._owner = os.getpid()
            path = self._directory / f"{self._owner}.stamps"
            self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.write(self._file, RECORD.pack(number, time.monotonic() if at is None else at))

    def perform(self, number: int) -> None:
        """The whole task: a start and, when BENCH_TASK_SECONDS makes it last, an end under the negative number."""
        self.put(number)
        if seconds := float(os.environ.get("BENCH_TASK_SECONDS", "0")):
            time.sleep(seconds)
            self.put(-number)

    async def perform_async(self, number: int) -> None:
        import asyncio  # here: it would count in the memory of those that need none

        self.put(number)
        if seconds := float(os.environ.get("BENCH_TASK_SECONDS", "0")):
            await asyncio.sleep(seconds)
            self.put(-number)


def number_of(id: UUID) -> int:
    """The number that stands for a delivery or a mail: of its id, the bits that are random."""
    return id.int & (1 << 62) - 1


def read(directory: Path) -> list[tuple[int, float]]:
    """(number, seconds) of every start, in the order of time."""
    found = [each for path in directory.glob("*.stamps") for each in RECORD.iter_unpack(path.read_bytes())]
    return sorted(((int(number), float(at)) for number, at in found), key=lambda each: each[1])


def count(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.stamps")) // RECORD.size
