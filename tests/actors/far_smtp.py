"""SMTP servers as the far world has them: aiosmtpd for the regular ones, a raw socket for those that misbehave."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session


@dataclass
class Mailroom:
    """An aiosmtpd handler: keeps what it accepts, answers a phase as told."""

    replies: dict[str, str] = field(default_factory=dict)
    envelopes: list[Envelope] = field(default_factory=list)
    connections: int = 0
    secured: list[bool] = field(default_factory=list)
    logins: list[tuple[bytes, bytes]] = field(default_factory=list)

    async def handle_EHLO(
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        if session.ssl is None:
            self.connections += 1
        return [self.replies["EHLO"]] if "EHLO" in self.replies else responses

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if "MAIL" in self.replies:
            return self.replies["MAIL"]
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if "RCPT" in self.replies:
            return self.replies["RCPT"]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if "DOT" in self.replies:
            return self.replies["DOT"]
        self.envelopes.append(envelope)
        self.secured.append(session.ssl is not None)
        return "250 2.0.0 OK: queued as ABC123"

    def authenticate(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, auth: Any) -> AuthResult:
        assert isinstance(auth, LoginPassword)
        self.logins.append((auth.login, auth.password))
        return AuthResult(success=auth.password == b"s3cret:/@", handled=False)


@contextmanager
def mailroom(*, implicit_tls: ssl.SSLContext | None = None, **options: Any) -> Iterator[tuple[Mailroom, int]]:
    room, port = options.pop("room", None) or Mailroom(), options.pop("port", None) or _free_port()
    controller = Controller(room, hostname="127.0.0.1", port=port, ssl_context=implicit_tls, **options)
    controller.start()
    try:
        yield room, controller.port
    finally:
        controller.stop()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


DROP = "drop"
HANG = "hang"
DRIP = "drip"
HOLD = "hold"


@dataclass
class RawServer:
    """Speaks just enough SMTP to lie: `replies` maps greeting, EHLO, EHLO2 (after STARTTLS), STARTTLS, TLS, AUTH, RSET,
    MAIL, RCPT, DATA, BODY and DOT to a reply line, DROP, HANG (until `released`, then DROP), HOLD (until `released`, then as
    usual) or DRIP (a byte now and then)."""

    port: int
    replies: dict[str, str]
    tls: ssl.SSLContext | None = None
    commands: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    #: Each octet that came, of all connections in the order in which they were opened.
    received: list[bytearray] = field(default_factory=list)
    connections: int = 0
    ended: int = 0
    released: threading.Event = field(default_factory=threading.Event)

    def said(self, verb: str) -> int:
        """How many commands began with this word."""
        return sum(command.split()[0].upper() == verb for command in self.commands if command)


@contextmanager
def raw_server(*, tls: ssl.SSLContext | None = None, port: int = 0, **replies: str) -> Iterator[RawServer]:
    with socket.create_server(("127.0.0.1", port)) as listener:
        server = RawServer(listener.getsockname()[1], replies, tls)
        listener.settimeout(0.05)
        stop = threading.Event()

        def accept() -> None:
            while not stop.is_set():
                with suppress(OSError):
                    connection, _ = listener.accept()
                    server.connections += 1
                    server.received.append(bytearray())
                    threading.Thread(target=_speak, args=(server, connection, server.received[-1]), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            stop.set()
            server.released.set()
            thread.join(5)


_DEFAULTS = {
    "DATA": "354 go on",
    "QUIT": "221 bye",
    "STARTTLS": "220 go on",
    "AUTH": "235 welcome",
    "EHLO": "250-here\r\n250-STARTTLS\r\n250-AUTH PLAIN\r\n250 SIZE 40000000",
}


def _speak(server: RawServer, connection: socket.socket, received: bytearray) -> None:
    _converse(server, connection, received)
    server.ended += 1


def _converse(server: RawServer, connection: socket.socket, received: bytearray) -> None:
    with suppress(OSError, ValueError), connection:
        connection.settimeout(60)
        if not _reply(server, connection, "greeting", "220 ready"):
            return
        secured = _take_commands(server, connection, received, secure=False)
        if secured is not None:
            with secured:
                _take_commands(server, secured, received, secure=True)


def _take_commands(
    server: RawServer, connection: socket.socket, received: bytearray, *, secure: bool
) -> ssl.SSLSocket | None:
    """The same connection over TLS, if the client asked for that."""
    with connection.makefile("rb") as lines:
        for line in lines:
            received += line
            command = line.decode().strip()
            server.commands.append(command)
            verb = command.split(":")[0].split()[0].upper() if command else ""
            asked = "EHLO2" if verb == "EHLO" and secure and "EHLO2" in server.replies else verb
            if not _reply(server, connection, asked, _DEFAULTS.get(verb, "250 ok")) or verb == "QUIT":
                return None
            if verb == "STARTTLS" and server.replies.get(verb, "220").startswith("220"):
                return _secured(server, connection)
            going_on = verb == "DATA" and server.replies.get("DATA", "354").startswith("354")
            if going_on and not _take_body(server, connection, lines, received):
                return None
    return None


def _secured(server: RawServer, connection: socket.socket) -> ssl.SSLSocket | None:
    if "TLS" in server.replies or server.tls is None:
        _reply(server, connection, "TLS", DROP)
        return None
    return server.tls.wrap_socket(connection, server_side=True)


def _take_body(server: RawServer, connection: socket.socket, lines: Any, received: bytearray) -> bool:
    if "BODY" in server.replies:
        received += lines.readline()
        return _reply(server, connection, "BODY", DROP)
    body = b""
    for line in lines:
        received += line
        if line == b".\r\n":
            server.bodies.append(body)
            return _reply(server, connection, "DOT", "250 2.0.0 queued as RAW")
        body += line
    return False


def _reply(server: RawServer, connection: socket.socket, verb: str, default: str) -> bool:
    reply = server.replies.get(verb, default)
    if reply == DROP:
        return False
    if reply == HANG:
        server.released.wait(60)
        return False
    if reply == HOLD:
        server.released.wait(60)
        reply = default
    while reply == DRIP and not server.released.wait(0.05):
        connection.sendall(b"2")
    connection.sendall(f"{reply}\r\n".encode())
    return True
