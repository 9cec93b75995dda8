"""An SMTP connection until its first mail: connected, greeted, secured, authenticated, each phase within its time."""

import io
import smtplib
import socket
import ssl
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from actors.mail.replies import Phase, Reply
from actors.mail.server import Security, Server

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

#: Octets of a whole reply. Real ones have a few hundred.
_LONGEST_REPLY = 64 * 1024


@dataclass(frozen=True, slots=True)
class Patience:
    """How long each phase may take. Giving up before the final dot is harmless, giving up after it makes copies:
    hence the ten minutes that RFC 5321 §4.5.3.2.6 asks for."""

    connect: timedelta = timedelta(seconds=30)
    command: timedelta = timedelta(minutes=1)
    block: timedelta = timedelta(minutes=1)
    dot: timedelta = timedelta(minutes=10)
    quit: timedelta = timedelta(seconds=2)
    idle: timedelta = timedelta(seconds=20)
    age: timedelta = timedelta(minutes=5)


class Client(smtplib.SMTP):
    """smtplib's client, whose own timeouts start anew with every read. Here a phase is over when its time is, however
    slowly bytes drip, and a reply has an end."""

    def __init__(self, server: Server, *, helo: str, limit: timedelta) -> None:
        self.within(limit)
        # Host and port in the constructor: smtplib verifies certificates against that name only.
        super().__init__(server.host, server.port, local_hostname=helo, timeout=limit.total_seconds())

    def within(self, limit: timedelta) -> None:
        """Here begins a phase: what it sends and reads takes at most this long."""
        self._deadline = time.monotonic() + limit.total_seconds()
        self._unread = _LONGEST_REPLY
        if self.sock is not None:
            self.sock.settimeout(limit.total_seconds())

    def getreply(self) -> tuple[int, bytes]:
        if self.file is None:
            self.file = io.BufferedReader(_Replies(self))
        return super().getreply()

    def read_into(self, buffer: "WriteableBuffer") -> int:
        """What has come, as soon as something has. TimeoutError when the phase's time is over."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        if self._unread <= 0:
            raise OSError(f"the reply is longer than {_LONGEST_REPLY} octets")
        assert self.sock is not None
        self.sock.settimeout(left)
        count = self.sock.recv_into(buffer)
        self._unread -= count
        return count


class SecureClient(Client, smtplib.SMTP_SSL):
    """The same over TLS from the first octet on. The handshake takes the timeout for the whole of itself."""

    def __init__(self, server: Server, *, helo: str, limit: timedelta, tls: ssl.SSLContext) -> None:
        self.within(limit)
        smtplib.SMTP_SSL.__init__(
            self, server.host, server.port, local_hostname=helo, timeout=limit.total_seconds(), context=tls
        )


class _Replies(io.RawIOBase):
    """The client's side of what the server says, for a buffered reader."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        return self._client.read_into(buffer)


def opened(server: Server, *, helo: str, tls: ssl.SSLContext, patience: Patience) -> Client | Reply:
    """A connection ready for its first mail, or the reply (or its absence) that prevented it."""
    client = _connected(server, tls, helo, patience.connect)
    if isinstance(client, Reply):
        return client
    failure = _prepared(client, server, tls, patience.command)
    if failure is not None:
        client.close()
        return failure
    return client


def _connected(server: Server, tls: ssl.SSLContext, helo: str, limit: timedelta) -> Client | Reply:
    try:
        if server.security is Security.TLS:
            return SecureClient(server, helo=helo, limit=limit, tls=tls)
        return Client(server, helo=helo, limit=limit)
    except smtplib.SMTPResponseException as refusal:
        return Reply.of(Phase.GREETING, refusal.smtp_code, _octets(refusal.smtp_error))
    except smtplib.SMTPException as error:
        return Reply.missing(Phase.GREETING, str(error))
    except ssl.SSLError as error:
        return Reply.missing(Phase.TLS, _tls_reason(error))
    except (OSError, UnicodeError) as error:
        return Reply.missing(Phase.CONNECT, str(error))


def _prepared(client: Client, server: Server, tls: ssl.SSLContext, limit: timedelta) -> Reply | None:
    """None once the connection is ready for mail."""
    phase = Phase.EHLO
    try:
        assert client.sock is not None
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.within(limit)
        client.ehlo_or_helo_if_needed()
        if server.security is Security.STARTTLS:
            phase = Phase.TLS
            client.within(limit)
            client.starttls(context=tls)
            phase = Phase.EHLO
            client.within(limit)
            client.ehlo_or_helo_if_needed()
        if server.user is not None:
            phase = Phase.AUTH
            client.within(limit)
            client.login(server.user, server.password or "")
    except smtplib.SMTPResponseException as refusal:
        return Reply.of(phase, refusal.smtp_code, _octets(refusal.smtp_error))
    except ssl.SSLError as error:
        return Reply.missing(phase, _tls_reason(error))
    except (smtplib.SMTPException, OSError, ValueError) as error:
        return Reply.missing(phase, str(error))
    return None


def _octets(text: bytes | str) -> bytes:
    return text if isinstance(text, bytes) else text.encode(errors="replace")


def _tls_reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate was not accepted: {error.verify_message}"
    return f"TLS failed: {error.reason or error}"
