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


@dataclass
class RawServer:
    """Speaks just enough SMTP to lie: `replies` maps greeting, EHLO, RSET, MAIL, RCPT, DATA and DOT to a reply line,
    DROP or HANG."""

    port: int
    replies: dict[str, str]
    commands: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0


@contextmanager
def raw_server(**replies: str) -> Iterator[RawServer]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = RawServer(listener.getsockname()[1], replies)
        listener.settimeout(0.05)
        stop = threading.Event()

        def accept() -> None:
            while not stop.is_set():
                with suppress(OSError):
                    connection, _ = listener.accept()
                    server.connections += 1
                    threading.Thread(target=_speak, args=(server, connection, stop), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            stop.set()
            thread.join(5)


def _speak(server: RawServer, connection: socket.socket, stop: threading.Event) -> None:
    with suppress(OSError), connection, connection.makefile("rb") as lines:
        connection.settimeout(10)
        if not _reply(server, connection, "greeting", "220 ready", stop):
            return
        for line in lines:
            command = line.decode().strip()
            server.commands.append(command)
            verb = command.split(":")[0].split()[0].upper()
            default = {"DATA": "354 go on", "QUIT": "221 bye", "EHLO": "250-here\r\n250 SIZE 40000000"}.get(
                verb, "250 ok"
            )
            if not _reply(server, connection, verb, default, stop) or verb == "QUIT":
                return
            going_on = verb == "DATA" and server.replies.get("DATA", "354").startswith("354")
            if going_on and not _take_body(server, connection, lines, stop):
                return


def _take_body(server: RawServer, connection: socket.socket, lines: Any, stop: threading.Event) -> bool:
    if server.replies.get("BODY") == DROP:
        lines.readline()
        return False
    body = b""
    for line in lines:
        if line == b".\r\n":
            server.bodies.append(body)
            return _reply(server, connection, "DOT", "250 2.0.0 queued as RAW", stop)
        body += line
    return False


def _reply(server: RawServer, connection: socket.socket, verb: str, default: str, stop: threading.Event) -> bool:
    reply = server.replies.get(verb, default)
    if reply == DROP:
        return False
    if reply == HANG:
        stop.wait(10)
        return False
    connection.sendall(f"{reply}\r\n".encode())
    return True
