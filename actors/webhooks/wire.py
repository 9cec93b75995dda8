"""One TCP or TLS connection to vetted addresses, under a deadline that nothing can stretch.

httpcore2's own timeouts start anew with every read, so a server that drips bytes holds a thread for as long as it
likes. Here each wait gets what is left of one absolute deadline, and the number of bytes read is bounded too.
"""

import socket
import ssl
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from ipaddress import ip_address
from typing import Any

import httpcore2
from httpcore2 import NetworkBackend, NetworkStream

from actors.webhooks.guard import Address

MAX_READ = 256 * 1024
_CONNECT_LIMIT = timedelta(seconds=5)


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
                reason = _reason(error)
        raise self._attempt.interrupted(reason)

    def connect_unix_socket(self, path: str, timeout: float | None = None, socket_options: Any = None) -> NetworkStream:  # noqa: ARG002
        raise self._attempt.interrupted("webhooks go over TCP only")


class DeadlineStream(NetworkStream):
    """A socket whose every wait ends at the attempt's deadline, and which yields at most MAX_READ bytes."""

    def __init__(self, sock: socket.socket, attempt: Attempt, read: int = 0) -> None:
        self._sock = sock
        self._attempt = attempt
        self._read = read

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        if self._attempt.phase is Phase.SEND:
            self._attempt.phase = Phase.HEADERS
        self._sock.settimeout(self._attempt.remaining().total_seconds())
        try:
            chunk = self._sock.recv(max_bytes)
        except TimeoutError:
            raise self._attempt.interrupted("the deadline passed") from None
        except OSError as error:
            raise httpcore2.ReadError(_reason(error)) from error
        self._read += len(chunk)
        if self._read > MAX_READ:
            raise self._attempt.interrupted(f"the answer exceeds {MAX_READ} bytes")
        return chunk

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._attempt.phase = Phase.SEND
        rest = memoryview(buffer)
        while rest:
            self._sock.settimeout(self._attempt.remaining().total_seconds())
            try:
                rest = rest[self._sock.send(rest) :]
            except TimeoutError:
                raise self._attempt.interrupted("the deadline passed") from None
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
        # OpenSSL's handshake takes the timeout for the whole of it, however slowly its bytes come.
        self._sock.settimeout(self._attempt.remaining().total_seconds())
        try:
            wrapped = ssl_context.wrap_socket(self._sock, server_hostname=server_hostname)
        except (OSError, ValueError) as error:
            self.close()
            raise self._attempt.interrupted(_reason(error)) from error
        return DeadlineStream(wrapped, self._attempt, self._read)

    def close(self) -> None:
        self._sock.close()

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object" and isinstance(self._sock, ssl.SSLSocket):
            return self._sock
        if info == "is_readable":
            return False
        return None


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
