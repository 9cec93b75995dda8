"""The queue between the consumers and the threads of a worker: whose turn is next."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dramatiq.worker import _WorkQueueItem as Item

__all__ = ["Turns"]


class Turns:
    """Dramatiq's work queue, as far as a worker uses it: the most urgent first, equals in the order in which they came.

    Dramatiq's own is a heap under one lock: each message is compared with others, and all threads queue for the lock.
    Here each priority has its own line, and a token is put down after each message: whoever has a token finds a message,
    unless what it stood for was dropped.
    """

    def __init__(self) -> None:
        self._lines: dict[int, deque[Item]] = {}
        self._beginning = threading.Lock()
        self._tokens: SimpleQueue[None] = SimpleQueue()
        self._unfinished: deque[None] = deque()

    def put(self, item: Item) -> None:
        line = self._lines.get(item.priority)
        if line is None:
            line = self._begin(item.priority)
        self._unfinished.append(None)
        line.append(item)
        self._tokens.put(None)

    def _begin(self, priority: int) -> deque[Item]:
        """A dict of lines is never changed, only replaced: other threads walk along it."""
        with self._beginning:
            if priority not in self._lines:
                self._lines = dict(sorted({**self._lines, priority: deque()}.items()))
            return self._lines[priority]

    def get(self, block: bool = True, timeout: float | None = None) -> Item:
        """Raises Empty when there is none within the time."""
        self._tokens.get(block, timeout)
        while any(self._lines.values()):
            for line in self._lines.values():
                with suppress(IndexError):  # another thread was faster: there is one in a line that was passed
                    return line.popleft()
        raise Empty

    def get_nowait(self) -> Item:
        return self.get(block=False)

    def drop(self, unwanted: Callable[[Item], bool]) -> None:
        """Nobody gets these any more, if no thread has them yet."""
        for line in self._lines.values():
            for item in filter(unwanted, line.copy()):
                with suppress(ValueError, IndexError):  # a thread took it, or another one meanwhile: then next time
                    line.remove(item)
                    self.task_done()
                    with suppress(Empty):
                        self._tokens.get_nowait()

    def qsize(self) -> int:
        return sum(map(len, self._lines.values()))

    @property
    def unfinished_tasks(self) -> int:
        return len(self._unfinished)

    def task_done(self) -> None:
        self._unfinished.pop()

    def join(self) -> None:
        while self._unfinished:
            time.sleep(0.01)
