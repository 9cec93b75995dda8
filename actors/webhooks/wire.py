"""One TCP or TLS connection to vetted addresses, under a deadline that nothing can stretch.

httpcore2's own timeouts start anew with every read, so a server that drips bytes holds a thread for as long as it
likes. Here each wait gets what is left of one absolute deadline, and the number of bytes read is bounded too. Both hold
for the bytes on the wire, below TLS: OpenSSL would read on for as long as a server sends it session tickets.
"""

import errno
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import partial
from ipaddress import ip_address
from typing import Any, TypeVar

import httpcore2
from httpcore2 import NetworkBackend, NetworkStream

from actors.webhooks.guard import Address

MAX_READ = 256 * 1024
_CHUNK = 16 * 1024  # a full TLS record; between two chunks the deadline is looked at
_CONNECT_LIMIT = timedelta(seconds=5)
_EXHAUSTION = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


T = TypeVar("T")


class Phase(StrEnum):
    """How far an attempt came."""

    RESOLVE = "resolve"
    VET = "vet"
    CONNECT = "connect"
    TLS = "tls"
    SEND = "send"
    HEADERS = "headers"
    BODY = "body"


class Interrupted(Exception):
    """The conversation ended without an answer; `phase` says where."""

    def __init__(self, phase: Phase, reason: str) -> None:
        super().__init__(reason)
        self.phase = phase
        self.reason = reason


class Exhausted(Exception):
    """We ourselves are short of threads or sockets: that says nothing about the endpoint."""


@dataclass(slots=True)
class Attempt:
    """The clock and the position of one attempt, shared by all who wait on its behalf."""

    started: float
    limit: timedelta
    phase: Phase = Phase.RESOLVE

    @classmethod
    def begin(cls, limit: timedelta) -> "Attempt":
        return cls(started=time.monotonic(), limit=limit)

    @property
    def duration(self) -> timedelta:
        return timedelta(seconds=time.monotonic() - self.started)

    def remaining(self) -> timedelta:
        """What is left of the deadline; Interrupted when nothing is."""
        left = self.limit - self.duration
        if left <= timedelta():
            raise self.interrupted("the deadline passed")
        return left

    def interrupted(self, reason: str) -> Interrupted:
        return Interrupted(self.phase, reason)


class PinnedBackend(NetworkBackend):
    """Connects to the given addresses and to nothing else, whatever name it is asked for."""

    def __init__(self, addresses: Sequence[Address], attempt: Attempt) -> None:
        self._addresses = addresses
        self._attempt = attempt

    def connect_tcp(
        self,
        host: str,  # noqa: ARG002 -- resolved and vetted before; looking it up again would reopen DNS rebinding
        port: int,
        timeout: float | None = None,  # noqa: ARG002 -- the attempt's deadline rules
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002
    ) -> NetworkStream:
        self._attempt.phase = Phase.CONNECT
        reason = "no address to connect to"
        for tried, address in enumerate(self._addresses):
            share = self._attempt.remaining() / (len(self._addresses) - tried)
            try:
                return DeadlineStream(_connected(address, port, min(share, _CONNECT_LIMIT)), self._attempt)
            except OSError as error:
                if error.errno in _EXHAUSTION:
                    raise Exhausted(_reason(error)) from error
                reason = _reason(error)
        raise self._attempt.interrupted(reason)

    def connect_unix_socket(self, path: str, timeout: float | None = None, socket_options: Any = None) -> NetworkStream:  # noqa: ARG002
        raise self._attempt.interrupted("webhooks go over TCP only")


class DeadlineStream(NetworkStream):
    """A socket whose every wait ends at the attempt's deadline, and which yields at most MAX_READ bytes."""

    def __init__(self, sock: socket.socket, attempt: Attempt) -> None:
        self._sock = sock
        self._attempt = attempt
        self._read = 0

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        if self._attempt.phase is Phase.SEND:
            self._attempt.phase = Phase.HEADERS
        try:
            return self.receive(max_bytes)
        except OSError as error:
            raise httpcore2.ReadError(_reason(error)) from error

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._attempt.phase = Phase.SEND
        try:
            self.send(buffer)
        except OSError as error:
            # httpcore2 then reads on: a server may answer and close before it has read everything.
            raise httpcore2.WriteError(_reason(error)) from error

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> NetworkStream:
        self._attempt.phase = Phase.TLS
        try:
            return TLSStream(self, ssl_context, server_hostname, self._attempt)
        except (OSError, ValueError) as error:
            self.close()
            raise self._attempt.interrupted(_reason(error)) from error

    def close(self) -> None:
        self._sock.close()

    def get_extra_info(self, info: str) -> Any:
        return False if info == "is_readable" else None

    def receive(self, max_bytes: int) -> bytes:
        """What has arrived, empty at the end; OSError when the connection broke."""
        self._sock.settimeout(self._attempt.remaining().total_seconds())
        try:
            chunk = self._sock.recv(min(max_bytes, _CHUNK))
        except TimeoutError:
            raise self._attempt.interrupted("the deadline passed") from None
        self._read += len(chunk)
        if self._read > MAX_READ:
            raise self._attempt.interrupted(f"the answer exceeds {MAX_READ} bytes")
        return chunk

    def send(self, buffer: bytes | memoryview) -> None:
        """All of it, or OSError."""
        rest = memoryview(buffer)
        while rest:
            self._sock.settimeout(self._attempt.remaining().total_seconds())
            try:
                rest = rest[self._sock.send(rest) :]
            except TimeoutError:
                raise self._attempt.interrupted("the deadline passed") from None


class TLSStream(DeadlineStream):
    """TLS over such a socket. OpenSSL sees memory only, and gets its bytes chunk by chunk."""

    def __init__(self, wire: DeadlineStream, context: ssl.SSLContext, name: str | None, attempt: Attempt) -> None:
        self._wire = wire
        self._attempt = attempt
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._with_what_arrives(self._tls.do_handshake)

    def receive(self, max_bytes: int) -> bytes:
        try:
            return self._with_what_arrives(partial(self._tls.read, min(max_bytes, _CHUNK)))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    def send(self, buffer: bytes | memoryview) -> None:
        rest = memoryview(buffer)
        while rest:
            part = rest[:_CHUNK]
            rest = rest[self._with_what_arrives(partial(self._tls.write, part)) :]

    def close(self) -> None:
        self._wire.close()

    def get_extra_info(self, info: str) -> Any:
        return self._tls if info == "ssl_object" else super().get_extra_info(info)

    def _with_what_arrives(self, step: Callable[[], T]) -> T:
        """What `step` comes to, once enough has arrived for it; what it wants to say is sent."""
        while True:
            self._attempt.remaining()
            try:
                done = step()
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
            except ssl.SSLError:
                with suppress(OSError):
                    self._flush()  # the alert: it tells the endpoint's owner what we did not accept
                raise
            else:
                self._flush()
                return done

    def _flush(self) -> None:
        self._wire.send(self._outgoing.read())

    def _fill(self) -> None:
        if chunk := self._wire.receive(_CHUNK):
            self._incoming.write(chunk)
        else:
            self._incoming.write_eof()


def _connected(address: Address, port: int, within: timedelta) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(within.total_seconds())
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect((str(address), port))
        if ip_address(sock.getpeername()[0]) != address:
            raise OSError("connected to another address than the vetted one")
    except BaseException:
        sock.close()
        raise
    return sock


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate was not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {(error.reason or 'protocol error').lower().replace('_', ' ')}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
