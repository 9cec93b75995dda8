"""What an SMTP server's reply means for a mail: decided by the phase of the conversation and the code.

| phase                                    | reply                           | outcome                            |
|------------------------------------------|---------------------------------|------------------------------------|
| connect, greeting, ehlo, tls, auth, mail | any failure, lost connection    | TransportTrouble                   |
| mail                                     | 552, or 5.3.4: too big          | Permanent                          |
| mail of an international mail            | 555, or 5.6.7: not understood   | Permanent                          |
| rcpt, data, dot                          | 4xx, 5xx that name a throttle   | Throttled                          |
| rcpt, data, dot                          | other 4xx                       | Temporary                          |
| rcpt, data, dot                          | other 5xx                       | Permanent                          |
| rcpt, data, body                         | lost connection, not a reply    | Temporary: nothing was accepted    |
| dot                                      | lost connection, not a reply    | Uncertain: perhaps it was accepted |
| dot                                      | 2xx                             | Sent                               |
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from actors.text import storable, storable_bytes

REPLY_OCTETS = 1000
MAX_WAIT = timedelta(hours=1)


class Phase(StrEnum):
    """How far the conversation came. BODY: before the final dot was sent. DOT: after."""

    CONNECT = "connect"
    GREETING = "greeting"
    EHLO = "ehlo"
    TLS = "tls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    BODY = "body"
    DOT = "dot"


#: The phases in which a reply is about the mail; in those before, it is about the transport.
OF_THE_MAIL = frozenset({Phase.RCPT, Phase.DATA, Phase.BODY, Phase.DOT})


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server said, or why it said nothing (`code` None)."""

    phase: Phase
    code: int | None
    text: str

    @classmethod
    def of(cls, phase: Phase, code: int, text: bytes) -> "Reply":
        return cls(phase, code if 100 <= code <= 599 else None, storable_bytes(text, octets=REPLY_OCTETS))

    @classmethod
    def missing(cls, phase: Phase, reason: str) -> "Reply":
        return cls(phase, None, storable(reason, octets=REPLY_OCTETS))

    def __str__(self) -> str:
        return f"{self.phase}: {self.code or 'no reply'} {self.text}"


@dataclass(frozen=True, slots=True)
class Sent:
    """The server took responsibility; its reply usually carries its queue id."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Temporary:
    """The server refused this mail for now. `wait`: what it asked for, at most an hour."""

    reply: Reply
    wait: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Permanent:
    """The server refused this mail for good."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class TransportTrouble:
    """Not the mail's fault, and no other mail would fare better: it costs no attempt. `wait` as above."""

    reply: Reply
    wait: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Throttled:
    """Too many mails at once for this recipient's server: it costs no attempt, for some days. `wait` as above."""

    reply: Reply
    wait: timedelta | None = None


@dataclass(frozen=True, slots=True)
class HeldBack:
    """Before its end went out the sender thought better of it: the server got no whole mail."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Uncertain:
    """The whole mail went out and no reply came back: it was accepted, or it was not."""

    reply: Reply


Outcome = Sent | Temporary | Permanent | TransportTrouble | Throttled | HeldBack | Uncertain

_TOO_BIG = re.compile(r"5\.3\.4\b")
_NOT_UNDERSTOOD = re.compile(r"5\.6\.7\b")
_THROTTLE = re.compile(
    r"throttl|frequency limited|rate limit|rate exceeded|sending rate|too many (?:connections|messages|mails)", re.I
)
_ASKED_WAIT = re.compile(
    r"(?:try again|retry|wait)\D{0,40}?(\d{1,6})\s*(s(?:ec(?:ond)?s?)?|m(?:in(?:ute)?s?)?)\b", re.I
)


def judge(reply: Reply, *, international: bool = False) -> Outcome:
    """The outcome of the conversation's last reply, by the table above. `international`: it is a mail with SMTPUTF8."""
    if reply.phase not in OF_THE_MAIL:
        final = reply.phase is Phase.MAIL and _of_this_mail(reply, international)
        return Permanent(reply) if final else TransportTrouble(reply, asked_wait(reply.text))
    if reply.code is None or reply.code < 400:
        return _judge_unrefused(reply)
    if _THROTTLE.search(reply.text):
        return Throttled(reply, asked_wait(reply.text))
    return Permanent(reply) if reply.code >= 500 else Temporary(reply, asked_wait(reply.text))


def _of_this_mail(reply: Reply, international: bool) -> bool:
    """Whether a refused MAIL is about this mail: another one may well pass."""
    if reply.code == 552 or _TOO_BIG.match(reply.text):
        return True
    return international and (reply.code == 555 or _NOT_UNDERSTOOD.match(reply.text) is not None)


def _judge_unrefused(reply: Reply) -> Outcome:
    if reply.phase is not Phase.DOT:
        return Temporary(reply)
    return Sent(reply) if reply.code is not None and 200 <= reply.code < 300 else Uncertain(reply)


def asked_wait(text: str) -> timedelta | None:
    """The wait in `try again in 300 seconds` or `retry after 5 minutes`, plus ten seconds, at most an hour."""
    found = _ASKED_WAIT.search(text)
    if found is None:
        return None
    unit = "minutes" if found[2].lower().startswith("m") else "seconds"
    return min(timedelta(**{unit: int(found[1])}) + timedelta(seconds=10), MAX_WAIT)
