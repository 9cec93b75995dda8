"""A wall clock that can be stepped, for processes that are started with its environment. The machine's own stays as it is.

A library that is preloaded answers for libc's clocks, so that every layer of the process is deceived: Python, C extensions, TLS.
Deadlines of waits that the kernel keeps on the wall clock are not.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from datetime import timedelta
from pathlib import Path

__all__ = ["Clock"]

SOURCE = Path(__file__).with_name("clock.c")


class Clock:
    """Its `environment` is empty where no C compiler is at hand: then no step reaches anybody."""

    def __init__(self, directory: Path) -> None:
        file = directory / "clock"
        file.write_bytes(bytes(8))
        with file.open("r+b") as opened:
            self._ahead = mmap.mmap(opened.fileno(), 8)
        library = _compiled(directory)
        self.environment = {"LD_PRELOAD": str(library), "CAMPAIGN_CLOCK": str(file)} if library else {}

    def step_to(self, ahead: timedelta) -> None:
        """All of them show the machine's time and this much more, from now on."""
        self._ahead[:] = struct.pack("q", int(ahead.total_seconds()))


def _compiled(directory: Path) -> Path | None:
    compiler, library = shutil.which("cc"), directory / "clock.so"
    if compiler is None:
        return None
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return library
