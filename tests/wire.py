"""A wire between a client and a server that can fail in the ways real ones do."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

__all__ = ["Wire"]


@dataclass(eq=False)
class _Pair:
    client: socket.socket
    server: socket.socket
    vanished: bool = False
    #: Once a request with these bytes went through, its reply is lost and the connection with it.
    losing: bool = field(default=False)


class Wire:
    """A TCP proxy on loopback in front of the server of `url`. What is done to it hits the connections of that moment."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[_Pair] = []
        self._needle: bytes | None = None
        self._cut = False
        self.lost_replies = 0
        #: Seconds that each piece takes longer, in either direction.
        self.delay = 0.0
        threading.Thread(target=self._accept, name="wire", daemon=True).start()

    @property
    def url(self) -> str:
        """The server's URL by way of this wire."""
        login = self._parts.netloc.rpartition("@")[0]
        return urlunsplit(self._parts._replace(netloc=f"{login}@127.0.0.1:{self._listener.getsockname()[1]}"))

    @property
    def connections(self) -> int:
        return len(self._pairs)

    def vanish(self) -> None:
        """The peer is gone without a word: bytes are taken and go nowhere, in both directions."""
        for pair in self._pairs:
            pair.vanished = True

    def hang_up(self) -> None:
        """The server's side ends in order (FIN), as a load balancer does with an idle connection."""
        for pair in self._pairs:
            _end(pair.server, socket.SHUT_RDWR)
            _end(pair.client, socket.SHUT_WR)
        self._pairs.clear()

    def cut(self) -> None:
        """Both sides end, and nobody gets through until `mend`."""
        self._cut = True
        self._sever()

    def mend(self) -> None:
        self._cut = False

    def lead_to(self, url: str) -> None:
        """New connections reach this server from now on, as an address that moves to another machine; the others end."""
        self._parts = urlsplit(url)
        self._sever()

    def lose_reply_to(self, request: bytes) -> None:
        """Let the next request with these bytes reach the server, and lose its reply together with the connection."""
        self._needle = request

    def close(self) -> None:
        self._listener.close()
        self._sever()

    def _sever(self) -> None:
        for pair in self._pairs:
            for each in (pair.client, pair.server):
                _end(each, socket.SHUT_RDWR)
        self._pairs.clear()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = None if self._cut else self._server()
                if server is None:
                    client.close()
                    continue
                pair = _Pair(client, server)
                self._pairs.append(pair)
                for pump in (self._to_server, self._to_client):
                    threading.Thread(target=pump, args=(pair,), name="wire", daemon=True).start()

    def _server(self) -> socket.socket | None:
        """None while it is down."""
        try:
            return socket.create_connection((self._parts.hostname or "", self._parts.port or 0))
        except OSError:
            return None

    def _to_server(self, pair: _Pair) -> None:
        with contextlib.suppress(OSError):
            while taken := pair.client.recv(65_536):
                if self._needle is not None and self._needle in taken:
                    self._needle, pair.losing = None, True
                time.sleep(self.delay)
                if not pair.vanished:
                    pair.server.sendall(taken)
        if not pair.vanished:
            _end(pair.server, socket.SHUT_WR)

    def _to_client(self, pair: _Pair) -> None:
        with contextlib.suppress(OSError):
            while taken := pair.server.recv(65_536):
                if pair.losing:
                    self.lost_replies += 1
                    break
                time.sleep(self.delay)
                if not pair.vanished:
                    pair.client.sendall(taken)
        if not pair.vanished:
            _end(pair.client, socket.SHUT_RDWR if pair.losing else socket.SHUT_WR)


def _end(side: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):
        side.shutdown(how)
