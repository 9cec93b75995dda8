"""Whether the mail server can be used, in one row that every worker reads: while it cannot, mails wait in PostgreSQL,
and one at a time finds out whether it can again."""

import random
from datetime import datetime, timedelta
from typing import NamedTuple

from prometheus_client import Counter
from sqlalchemy import text
from sqlalchemy.orm import Session

from actors.mail.replies import TransportTrouble
from outbox.logs import get_logger

__all__ = ["PROBE", "TROUBLES", "Probe", "begin_probe", "pause", "resume", "wait_for"]

log = get_logger("actors.mail")

TROUBLES = Counter("mail_transport_troubles", "How often the mail server could not be used, and mails were held back.")

_FIRST = timedelta(seconds=5)
_MOST = timedelta(minutes=5)
#: The time that a probe has before another may begin.
PROBE = timedelta(minutes=1)
_SPREAD = timedelta(minutes=1)


class Probe(NamedTuple):
    """The one mail that goes out to see. `until`: from then on another may; `troubles`: what was known when it began."""

    until: datetime
    troubles: int


def wait_for(left: timedelta) -> timedelta:
    """How long a mail waits that finds a pause: not all of them come back in one moment."""
    return left + min(_SPREAD, left) * random.random()  # noqa: S311 -- no secret


def begin_probe(session: Session, server: str) -> Probe | None:
    """The right to find out, from the commit on; None while another has it."""
    row = session.execute(_BEGIN_PROBE, {"server": server, "probe": PROBE}).one_or_none()
    return Probe(*row) if row else None


def pause(session: Session, server: str, trouble: TransportTrouble, probe: Probe | None) -> timedelta | None:
    """A fresh connection met trouble: all mails wait, longer each time. None where another said so a moment ago."""
    said = {
        "server": server,
        "reason": str(trouble.reply),
        "probe": probe.until if probe else None,
        "first": _FIRST,
        "most": _MOST,
        "asked": trouble.wait or timedelta(),
    }
    row = session.execute(_PAUSE, said).one_or_none()
    if row is None:
        return None
    paused: timedelta = row.paused
    TROUBLES.inc()
    log.error(
        "mails wait: the server cannot be used", server=server, reason=said["reason"], troubles=row.troubles,
        seconds=round(paused.total_seconds()),
    )  # fmt: skip
    return paused


def resume(session: Session, server: str, probe: Probe) -> None:
    """The server took what a probe said; unless another has met trouble meanwhile, nobody waits any more."""
    if session.execute(_RESUME, {"server": server, "troubles": probe.troubles}).one_or_none():
        log.info("the mail server can be used again", server=server)


_BEGIN_PROBE = text("""
update app.transport
set paused_until = clock_timestamp() + cast(:probe as interval)
where name = :server and paused_until <= clock_timestamp()
returning paused_until, troubles
""")

# What began before the pause and fails during it says nothing new: sixteen threads are one trouble.
_PAUSE = text("""
insert into app.transport as t (name, paused_until, reason, troubles)
values (
    :server,
    clock_timestamp() + greatest(cast(:first as interval), cast(:asked as interval)),
    :reason,
    1)
on conflict (name) do update
set
    paused_until = clock_timestamp() + greatest(
        least(cast(:first as interval) * 2 ^ least(t.troubles, 20), cast(:most as interval)),
        cast(:asked as interval)),
    reason = excluded.reason,
    troubles = t.troubles + 1
where t.paused_until is null
or t.paused_until <= clock_timestamp()
or t.paused_until = cast(:probe as timestamptz)
returning troubles, paused_until - clock_timestamp() as paused
""")

_RESUME = text("""
update app.transport
set paused_until = null, reason = null, troubles = 0
where name = :server and troubles = :troubles and paused_until is not null
returning name
""")
