"""HTTP endpoints as the far world has them: each connection is answered by a function that may do anything."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

Script = Callable[[socket.socket], None]


@dataclass
class Endpoint:
    """A listening socket on loopback: how often it was connected to, and what it was sent."""

    port: int
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)


@contextmanager
def endpoint(script: Script, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> Iterator[Endpoint]:
    """Listens on `host`; on `::`, on every address of both families."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, dualstack_ipv6=host == "::") as listener:
        listener.settimeout(0.05)
        far = Endpoint(port=listener.getsockname()[1])
        threads: list[threading.Thread] = []

        def accept() -> None:
            while not far.stop.is_set():
                with suppress(OSError):
                    connection, _ = listener.accept()
                    far.connections += 1
                    threads.append(threading.Thread(target=_answer, args=(connection, script, tls), daemon=True))
                    threads[-1].start()

        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        try:
            yield far
        finally:
            far.stop.set()
            acceptor.join(5)
            for thread in threads:
                thread.join(5)


def _answer(connection: socket.socket, script: Script, tls: ssl.SSLContext | None) -> None:
    with suppress(OSError):
        connection.settimeout(10)
        with tls.wrap_socket(connection, server_side=True) if tls else connection as stream:
            script(stream)
    connection.close()


def read_request(stream: socket.socket) -> bytes:
    """One whole request, by its Content-Length."""
    raw = b""
    while b"\r\n\r\n" not in raw:
        raw += _received(stream)
    head, _, body = raw.partition(b"\r\n\r\n")
    length = int(headers_of(raw).get("content-length", "0"))
    while len(body) < length:
        body += _received(stream)
    return head + b"\r\n\r\n" + body


def _received(stream: socket.socket) -> bytes:
    chunk = stream.recv(65536)
    if not chunk:
        raise ConnectionError("closed in the middle of a request")
    return chunk


def headers_of(request: bytes) -> dict[str, str]:
    lines = request.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def answering(raw: bytes, *, seen: list[bytes] | None = None) -> Script:
    def script(stream: socket.socket) -> None:
        request = read_request(stream)
        if seen is not None:
            seen.append(request)
        stream.sendall(raw)

    return script


def status(code: int, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {code} Whatever", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def dripping(start: bytes, drop: bytes, *, every: float = 0.05, read: bool = True) -> Script:
    """Sends `start`, then `drop` again and again: each wait of the other side is short, the whole has no end."""

    def script(stream: socket.socket) -> None:
        if read:
            read_request(stream)
        stream.sendall(start)
        stream.settimeout(every)
        while True:
            try:
                if not stream.recv(65536):
                    return
            except TimeoutError:
                stream.sendall(drop)

    return script


def flooding(start: bytes, chunk: bytes) -> Script:
    def script(stream: socket.socket) -> None:
        read_request(stream)
        stream.sendall(start)
        while True:
            stream.sendall(chunk)

    return script
