"""SIGTERM and SIGINT: the first asks a process to stop, the second ends it now."""

from __future__ import annotations

import os
import signal
from queue import Empty, SimpleQueue
from types import FrameType

__all__ = ["StopSignal"]


class StopSignal:
    """Listens from its making on. For a process's main thread.

    A SimpleQueue, not an Event: a signal may interrupt it anywhere, also where an Event holds its own lock.
    """

    def __init__(self) -> None:
        self._told: SimpleQueue[int] = SimpleQueue()
        self._asked = False
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, self._ask)

    def wait(self, timeout: float | None = None) -> bool:
        """Whether the process was asked to stop, at once or within the time."""
        try:
            return bool(self._told.get(timeout=timeout))
        except Empty:
            return False

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        if self._asked:
            os._exit(128 + number)  # SystemExit would wait for threads that may never end
        self._asked = True
        self._told.put(number)
