"""One mail to one recipient over SMTP. What was learned comes back as a value, never as an exception."""

import re
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from actors.mail.address import Address
from actors.mail.replies import Outcome, Permanent, Phase, Reply, Sent, TransportTrouble, judge
from actors.mail.server import Security, Server
from actors.tls import verified_tls

_BLOCK = 64 * 1024
_DOT_AT_START = re.compile(rb"^\.", re.M)


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


class Transport:
    """Sends mails through one server. Each thread keeps a connection of its own and uses it again while it is young,
    was used a moment ago and has never been in doubt."""

    def __init__(
        self, server: Server, *, helo: str, tls: ssl.SSLContext | None = None, patience: Patience | None = None
    ) -> None:
        self._server = server
        self._helo = helo
        self._tls = tls or verified_tls()
        self._patience = patience or Patience()
        self._kept = threading.local()

    def send(self, message: bytes, *, sender: Address, recipient: Address) -> Outcome:
        """One attempt. `message` has CRLF line ends and no bare CR or LF."""
        kept = self._take_kept()
        if kept is not None and not kept.usable():
            kept.end()
        elif kept is not None:
            outcome = self._spoken(kept, message, sender, recipient)
            if not isinstance(outcome, TransportTrouble) or outcome.reply.code is not None:
                return outcome
        opened = self._opened()
        if isinstance(opened, Reply):
            return judge(opened)
        return self._spoken(opened, message, sender, recipient)

    def close(self) -> None:
        """Ends the calling thread's connection, if there is one."""
        if kept := self._take_kept():
            kept.end()

    def _opened(self) -> "Conversation | Reply":
        return open_conversation(self._server, helo=self._helo, tls=self._tls, patience=self._patience)

    def _spoken(self, conversation: "Conversation", message: bytes, sender: Address, recipient: Address) -> Outcome:
        try:
            outcome = conversation.send(message, sender=sender, recipient=recipient)
        except BaseException:
            conversation.end()
            raise
        if isinstance(outcome, Sent):
            self._kept.conversation = conversation
        else:
            conversation.end()
        return outcome

    def _take_kept(self) -> "Conversation | None":
        kept: Conversation | None = getattr(self._kept, "conversation", None)
        self._kept.conversation = None
        return kept


class Conversation:
    """An open, greeted, secured and authenticated connection."""

    def __init__(self, client: smtplib.SMTP, patience: Patience) -> None:
        self._client = client
        self._patience = patience
        self._opened = self._used = time.monotonic()

    def usable(self) -> bool:
        """True while the connection is young and fresh, and the server still answers on it."""
        now = time.monotonic()
        if now - self._used > self._patience.idle.total_seconds():
            return False
        if now - self._opened > self._patience.age.total_seconds():
            return False
        try:
            return self._command(Phase.MAIL, "RSET").code == 250
        except (smtplib.SMTPException, OSError):
            return False

    def send(self, message: bytes, *, sender: Address, recipient: Address) -> Outcome:
        international = sender.international or recipient.international
        if (refusal := self._unfit(message, international)) is not None:
            return Permanent(refusal)
        self._client.command_encoding = "utf-8" if international else "ascii"
        phase = Phase.MAIL
        try:
            for phase, command, expected in self._envelope(message, sender, recipient, international):
                reply = self._command(phase, command)
                if reply.code not in expected:
                    return judge(reply)
            phase = Phase.BODY
            self._send_body(message)
            phase = Phase.DOT
            outcome = judge(self._final_reply())
        except (smtplib.SMTPException, OSError) as error:
            return judge(Reply.missing(phase, f"the connection was lost: {error}"))
        self._used = time.monotonic()
        return outcome

    def end(self) -> None:
        with suppress(smtplib.SMTPException, OSError):
            if self._client.sock is not None:
                self._wait_at_most(self._patience.quit)
                self._client.docmd("QUIT")
        self._client.close()

    def _unfit(self, message: bytes, international: bool) -> Reply | None:
        if international and not self._client.has_extn("smtputf8"):
            return Reply.missing(Phase.MAIL, "the server does not take international addresses (SMTPUTF8)")
        limit = self._client.esmtp_features.get("size", "")
        if limit.isdigit() and 0 < int(limit) < len(message):
            return Reply.missing(Phase.MAIL, f"the mail has {len(message)} octets, the server takes {limit}")
        return None

    def _envelope(
        self, message: bytes, sender: Address, recipient: Address, international: bool
    ) -> Iterator[tuple[Phase, str, tuple[int, ...]]]:
        # docmd, not mail() and rcpt(): those parse the address again, and send what they make of it.
        size = f" SIZE={len(message)}" if self._client.has_extn("size") else ""
        utf8 = " BODY=8BITMIME SMTPUTF8" if international else ""
        yield Phase.MAIL, f"MAIL FROM:<{sender}>{size}{utf8}", (250,)
        yield Phase.RCPT, f"RCPT TO:<{recipient}>", (250, 251)
        yield Phase.DATA, "DATA", (354,)

    def _command(self, phase: Phase, command: str) -> Reply:
        self._wait_at_most(self._patience.command)
        return Reply.of(phase, *self._client.docmd(command))

    def _send_body(self, message: bytes) -> None:
        stuffed = _DOT_AT_START.sub(b"..", message) + b".\r\n"
        # One call a block, so that the timeout is a block's. A failure leaves the last block, and with it the dot,
        # incomplete: until the loop is done the server cannot have accepted anything.
        for start in range(0, len(stuffed), _BLOCK):
            self._wait_at_most(self._patience.block)
            self._client.send(stuffed[start : start + _BLOCK])

    def _final_reply(self) -> Reply:
        self._wait_at_most(self._patience.dot)
        return Reply.of(Phase.DOT, *self._client.getreply())

    def _wait_at_most(self, limit: timedelta) -> None:
        if self._client.sock is not None:
            self._client.sock.settimeout(limit.total_seconds())


def open_conversation(server: Server, *, helo: str, tls: ssl.SSLContext, patience: Patience) -> Conversation | Reply:
    """A conversation ready for its first mail, or the reply (or its absence) that prevented it."""
    opened = _connected(server, tls, helo, patience)
    if isinstance(opened, Reply):
        return opened
    failure = _prepared(opened, server, tls, patience)
    if failure is not None:
        opened.close()
        return failure
    return Conversation(opened, patience)


def _connected(server: Server, tls: ssl.SSLContext, helo: str, patience: Patience) -> smtplib.SMTP | Reply:
    wait = patience.connect.total_seconds()
    try:
        # Host and port in the constructor: smtplib verifies certificates against that name only.
        if server.security is Security.TLS:
            return smtplib.SMTP_SSL(server.host, server.port, local_hostname=helo, timeout=wait, context=tls)
        return smtplib.SMTP(server.host, server.port, local_hostname=helo, timeout=wait)
    except smtplib.SMTPResponseException as refusal:
        return Reply.of(Phase.GREETING, refusal.smtp_code, _octets(refusal.smtp_error))
    except smtplib.SMTPException as error:
        return Reply.missing(Phase.GREETING, str(error))
    except ssl.SSLError as error:
        return Reply.missing(Phase.TLS, _tls_reason(error))
    except (OSError, UnicodeError) as error:
        return Reply.missing(Phase.CONNECT, str(error))


def _prepared(client: smtplib.SMTP, server: Server, tls: ssl.SSLContext, patience: Patience) -> Reply | None:
    """None once the connection is ready for mail."""
    phase = Phase.EHLO
    try:
        assert client.sock is not None
        client.sock.settimeout(patience.command.total_seconds())
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.ehlo_or_helo_if_needed()
        if server.security is Security.STARTTLS:
            phase = Phase.TLS
            client.starttls(context=tls)
            phase = Phase.EHLO
            client.ehlo_or_helo_if_needed()
        if server.user is not None:
            phase = Phase.AUTH
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
