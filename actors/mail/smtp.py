"""One mail to one recipient over SMTP. What was learned comes back as a value, never as an exception."""

import re
import smtplib
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from actors.mail.address import Address
from actors.mail.connection import Client, Patience, opened
from actors.mail.replies import HeldBack, Outcome, Permanent, Phase, Reply, Sent, TransportTrouble, judge
from actors.mail.server import Server
from actors.tls import verified_tls

__all__ = ["Patience", "Transport"]

#: Many servers count the mails of a connection, and end it rudely.
MOST_MAILS = 100

_BLOCK = 64 * 1024
_DOT_AT_START = re.compile(rb"^\.", re.M)


class Transport:
    """Sends mails through one server. Each thread keeps a connection of its own and uses it again while it is young,
    was used a moment ago and has never been in doubt."""

    def __init__(
        self, server: Server, *, helo: str, tls: ssl.SSLContext | None = None, patience: Patience | None = None
    ) -> None:
        self.server = server
        self._helo = helo
        self._tls = tls or verified_tls()
        self._patience = patience or Patience()
        self._kept = threading.local()

    def send(self, message: bytes, *, sender: Address, recipient: Address, before_dot: Callable[[], bool]) -> Outcome:
        """One attempt. `message` has CRLF line ends and no bare CR or LF.

        `before_dot` is asked when all is said but the message's last block, and at most once: only after a yes can the
        server have accepted anything. TransportTrouble is what a fresh connection met: a kept one is replaced first.
        """
        kept = self._take_kept()
        if kept is not None and not kept.usable():
            kept.end()
        elif kept is not None:
            outcome = self._spoken(kept, message, sender, recipient, before_dot)
            if not isinstance(outcome, TransportTrouble):
                return outcome
        client = opened(self.server, helo=self._helo, tls=self._tls, patience=self._patience)
        if isinstance(client, Reply):
            return judge(client)
        return self._spoken(Conversation(client, self._patience), message, sender, recipient, before_dot)

    def close(self) -> None:
        """Ends the calling thread's connection, if there is one."""
        if kept := self._take_kept():
            kept.end()

    def _spoken(
        self,
        conversation: "Conversation",
        message: bytes,
        sender: Address,
        recipient: Address,
        before_dot: Callable[[], bool],
    ) -> Outcome:
        try:
            outcome = conversation.send(message, sender=sender, recipient=recipient, before_dot=before_dot)
        except BaseException:
            conversation.abandon()
            raise
        if isinstance(outcome, Sent):
            self._kept.conversation = conversation
        elif isinstance(outcome, HeldBack):
            conversation.abandon()
        else:
            conversation.end()
        return outcome

    def _take_kept(self) -> "Conversation | None":
        kept: Conversation | None = getattr(self._kept, "conversation", None)
        self._kept.conversation = None
        return kept


class Conversation:
    """An open, greeted, secured and authenticated connection."""

    def __init__(self, client: Client, patience: Patience) -> None:
        self._client = client
        self._patience = patience
        self._opened = self._used = time.monotonic()
        self._mails = 0

    def usable(self) -> bool:
        """True while the connection is young and fresh, and the server still answers on it."""
        now = time.monotonic()
        if self._mails >= MOST_MAILS:
            return False
        if now - self._used > self._patience.idle.total_seconds():
            return False
        if now - self._opened > self._patience.age.total_seconds():
            return False
        try:
            return self._command(Phase.MAIL, "RSET").code == 250
        except (smtplib.SMTPException, OSError):
            return False

    def send(self, message: bytes, *, sender: Address, recipient: Address, before_dot: Callable[[], bool]) -> Outcome:
        international = sender.international or recipient.international or not _head(message).isascii()
        if (refusal := self._unfit(message, international)) is not None:
            return Permanent(refusal)
        self._client.command_encoding = "utf-8" if international else "ascii"
        self._mails += 1
        phase = Phase.MAIL
        try:
            for phase, command, expected in self._envelope(message, sender, recipient, international):
                reply = self._command(phase, command)
                if reply.code not in expected:
                    return judge(reply, international=international)
            phase = Phase.BODY
            last = self._send_all_but_the_last_block(message)
            if not before_dot():
                return HeldBack(Reply.missing(Phase.BODY, "held back before its end"))
            self._send_block(last)
            phase = Phase.DOT
            outcome = judge(self._final_reply())
        except (smtplib.SMTPException, OSError) as error:
            return judge(Reply.missing(phase, f"the connection was lost: {error}"))
        self._used = time.monotonic()
        return outcome

    def end(self) -> None:
        with suppress(smtplib.SMTPException, OSError):
            if self._client.sock is not None:
                self._client.within(self._patience.quit)
                self._client.docmd("QUIT")
        self._client.close()

    def abandon(self) -> None:
        """Hang up in the middle: nothing more is said, for the server might take it for a part of the mail."""
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
        self._client.within(self._patience.command)
        return Reply.of(phase, *self._client.docmd(command))

    def _send_all_but_the_last_block(self, message: bytes) -> bytes:
        """Answers the last block, which holds the whole final dot: until all of that is sent, nothing is accepted."""
        stuffed = _DOT_AT_START.sub(b"..", message)
        first_of_last = (len(stuffed) - 1) // _BLOCK * _BLOCK
        for start in range(0, first_of_last, _BLOCK):
            self._send_block(stuffed[start : start + _BLOCK])
        return stuffed[first_of_last:] + b".\r\n"

    def _send_block(self, block: bytes) -> None:
        # One call a block, so that the timeout is a block's.
        self._client.within(self._patience.block)
        self._client.send(block)

    def _final_reply(self) -> Reply:
        self._client.within(self._patience.dot)
        return Reply.of(Phase.DOT, *self._client.getreply())


def _head(message: bytes) -> bytes:
    return message[: message.find(b"\r\n\r\n")]
