"""Addresses that get no mail, of one stream or of any, and why.

Asked in the moment before a mail is sent: what is told here counts also for mail that is queued already.
"""

import re
import unicodedata
from datetime import timedelta
from enum import StrEnum
from typing import Protocol

from sqlalchemy import Select, delete, select, text
from sqlalchemy.orm import Session

from actors.mail.replies import Phase, Reply
from actors.tables import Suppression

__all__ = ["EVERY", "Reason", "held", "key_of", "lift", "note_refusal", "suppress", "suppressed"]

#: The stream that stands for all of them.
EVERY = "*"
#: How long an address that does not exist is spared: somebody may get it one day.
BOUNCE_LASTS = timedelta(days=30)

# No such mailbox, no such domain, no mailbox of that syntax, a domain without mail, a mailbox that was closed.
# Never 5.7.x: that is about us, not about the address.
_NOBODY_THERE = re.compile(r"5[.](?:1[.](?:1|2|3|10)|2[.]1)(?![\d.])")


class Reason(StrEnum):
    HARD_BOUNCE = "hard_bounce"
    COMPLAINT = "complaint"
    UNSUBSCRIBE = "unsubscribe"
    MANUAL = "manual"


class Addressed(Protocol):
    """A mail, or what was read of one."""

    @property
    def recipient(self) -> str: ...


def key_of(recipient: str) -> str:
    """The one spelling under which an address is found: nobody has a second mailbox that differs in case alone."""
    return unicodedata.normalize("NFC", recipient.casefold())


def suppressed(session: Session, recipient: str, stream: str) -> bool:
    """Whether mail of this stream is not to be sent to this address."""
    asked = {"recipient": key_of(recipient), "streams": [stream, EVERY]}
    return session.execute(_SUPPRESSED, asked).first() is not None


def suppress(
    session: Session,
    recipient: str,
    *,
    stream: str = EVERY,
    reason: Reason,
    source: str = "",
    lasting: timedelta | None = None,
) -> None:
    """From the commit on, the address gets no mail of the stream. Said twice, the longer of the two holds."""
    values = {"recipient": key_of(recipient), "stream": stream, "reason": str(reason), "source": source}
    session.execute(_SUPPRESS, {**values, "lasting": lasting})


def lift(session: Session, recipient: str, *, stream: str, reason: Reason) -> bool:
    """From the commit on, this reason counts no more; others may. False if there was none."""
    which = (
        Suppression.recipient == key_of(recipient), Suppression.stream == stream, Suppression.reason == str(reason),
    )  # fmt: skip
    found = session.execute(delete(Suppression).where(*which).returning(Suppression.recipient))
    return found.first() is not None


def held(recipient: str, *, stream: str | None = None, reason: Reason | None = None) -> Select[Suppression]:
    """What is kept about an address, expired or not; of one stream or for one reason, if asked."""
    found = select(Suppression).where(Suppression.recipient == key_of(recipient))
    if stream is not None:
        found = found.where(Suppression.stream == stream)
    return found if reason is None else found.where(Suppression.reason == str(reason))


def note_refusal(session: Session, mail: Addressed, reply: Reply) -> bool:
    """A server refused the recipient: where its words say that nobody is there, the address is spared for a while."""
    final = reply.phase is Phase.RCPT and reply.code is not None and reply.code >= 500
    if not final or not _NOBODY_THERE.match(reply.text.lstrip()):
        return False
    suppress(session, mail.recipient, reason=Reason.HARD_BOUNCE, source="smtp", lasting=BOUNCE_LASTS)
    return True


def nobody_there(status: str) -> bool:
    """Whether an enhanced status code says that there is no such mailbox."""
    return _NOBODY_THERE.fullmatch(status) is not None


_SUPPRESSED = text("""
select
from app.suppression s
where s.recipient = :recipient
and s.stream = any(:streams)
and (s.expires_at is null or s.expires_at > clock_timestamp())
limit 1
""")

# `greatest` would ignore a null, which is the longest of all.
_SUPPRESS = text("""
insert into app.suppression as kept (recipient, stream, reason, source, expires_at)
values (:recipient, :stream, :reason, :source, clock_timestamp() + cast(:lasting as interval))
on conflict (recipient, stream, reason) do update
set
    source = excluded.source,
    expires_at = case
        when kept.expires_at is null or excluded.expires_at is null then null
        else greatest(kept.expires_at, excluded.expires_at)
    end
""")
