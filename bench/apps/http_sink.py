"""`python -m bench.apps.http_sink PORT [--delay SECONDS]`: answers every POST 204, after that time.

It stamps the first byte of each request under its webhook-id. Below `/hang` nobody is ever answered, nor stamped.
"""

from __future__ import annotations

import asyncio
import re
import time
from uuid import UUID

from bench.apps.sink import run
from bench.apps.stamp import Stamps, number_of

ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"
ID = re.compile(rb"\r\nwebhook-id: ([0-9a-f-]{36})\r\n", re.IGNORECASE)
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
LAST = re.compile(rb"\r\nconnection: close\r\n", re.IGNORECASE)


class Receiver(asyncio.Protocol):
    """One connection: requests one after the other, until the sender has no more."""

    transport: asyncio.Transport

    def __init__(self, stamps: Stamps, delay: float) -> None:
        self._stamps, self._delay = stamps, delay
        self._received, self._began = bytearray(), 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if not self._received:
            self._began = time.monotonic()
        self._received += data
        end = self._received.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        head = bytes(self._received[: end - 2])
        length = LENGTH.search(head)
        if len(self._received) < end + (int(length[1]) if length else 0):
            return
        self._received.clear()
        if not head.startswith(b"POST /hang"):
            self._take(head)

    def _take(self, head: bytes) -> None:
        if (found := ID.search(head)) is not None:
            self._stamps.put(number_of(UUID(found[1].decode())), self._began)
        asyncio.get_running_loop().call_later(self._delay, self._answer, LAST.search(head) is not None)

    def _answer(self, last: bool) -> None:
        self.transport.write(ANSWER)
        if last:
            self.transport.close()


if __name__ == "__main__":
    run(Receiver, __doc__)
