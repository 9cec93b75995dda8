"""Ctrl-C and SIGTERM, as two questions: has somebody asked to stop, and has somebody asked twice?"""

from __future__ import annotations

import signal


class Signals:
    def __init__(self) -> None:
        self._received = 0

    def listen(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    def stopping(self) -> bool:
        return self._received > 0

    def hurried(self) -> bool:
        return self._received > 1

    def _note(self, *_: object) -> None:
        self._received += 1
