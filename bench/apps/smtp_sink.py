"""`python -m bench.apps.smtp_sink PORT [--delay SECONDS]`: takes every mail; its last reply comes after that time.

It stamps the first byte of each mail's transaction, its MAIL command, under the id in the mail's Message-ID.
"""

from __future__ import annotations

import asyncio
import re
import time
from uuid import UUID

from bench.apps.sink import run
from bench.apps.stamp import Stamps, number_of

REPLIES = {
    b"EHLO": b"250-bench\r\n250-8BITMIME\r\n250 SIZE 40000000\r\n",
    b"DATA": b"354 go on\r\n",
    b"QUIT": b"221 bye\r\n",
}
ID = re.compile(rb"^message-id: ?<([0-9a-f-]{36})@", re.IGNORECASE | re.MULTILINE)
END = b"\r\n.\r\n"


class Receiver(asyncio.Protocol):
    """One connection: mails one after the other."""

    transport: asyncio.Transport

    def __init__(self, stamps: Stamps, delay: float) -> None:
        self._stamps, self._delay = stamps, delay
        self._received, self._began, self._in_body = bytearray(), 0.0, False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(b"220 bench ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        self._received += data
        while not self._in_body and b"\r\n" in self._received:
            command, _, rest = self._received.partition(b"\r\n")
            self._received = rest
            self._obey(bytes(command[:4]).upper())
        if self._in_body and self._received.endswith(END):
            self._take()

    def _obey(self, verb: bytes) -> None:
        if verb == b"MAIL":
            self._began = time.monotonic()
        self.transport.write(REPLIES.get(verb, b"250 ok\r\n"))
        self._in_body = verb == b"DATA"
        if verb == b"QUIT":
            self.transport.close()

    def _take(self) -> None:
        if (found := ID.search(self._received)) is not None:
            self._stamps.put(number_of(UUID(found[1].decode())), self._began)
        self._received.clear()
        self._in_body = False
        asyncio.get_running_loop().call_later(self._delay, self.transport.write, b"250 2.0.0 taken\r\n")


if __name__ == "__main__":
    run(Receiver, __doc__)
