"""SIGTERM and SIGINT: the first asks a process to stop, the second ends it now; a server's streams end with the first."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from types import FrameType

__all__ = ["StopSignal", "closed_by_signals"]


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


@contextmanager
def closed_by_signals(close: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGINT close what lasts, at once: a server waits for the answers under way, and a stream is one.

    Whoever listened for them before still hears them. Elsewhere than in the main thread no signal arrives.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def heard(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(close)
        then = before[signal.Signals(number)]
        if callable(then):
            then(number, frame)

    for number, then in before.items():
        if callable(then):  # else nobody waits for the streams: the signal ends the process as it is
            signal.signal(number, heard)
    try:
        yield
    finally:
        for number, then in before.items():
            if signal.getsignal(number) is heard:
                signal.signal(number, then)
