"""Domains that take only so many mails: `MAIL_DOMAIN_LIMITS`. Without it, nothing of this happens."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from actors.mail.address import AddressRefused
from actors.mail.address import parse as parse_address

__all__ = ["DomainLimit", "domain_of", "lane", "parse", "reserve", "stands"]

_LIMIT = re.compile(r"(?:(?P<count>\d{1,6}(?:\.\d{1,3})?)/(?P<unit>[smh]))?(?::(?P<concurrency>\d{1,4}))?")
_UNITS = {"s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1)}


@dataclass(frozen=True, slots=True)
class DomainLimit:
    """`interval`: from one mail to the next. `concurrency`: mails under way at once. None: as many as there are."""

    interval: timedelta | None
    concurrency: int | None


def parse(setting: str) -> Mapping[str, DomainLimit]:
    """`gmail.com=20/s:10,example.org=30/m,example.com=:2` by domain; else ValueError, which says what to do."""
    limits: dict[str, DomainLimit] = {}
    for item in filter(None, (piece.strip() for piece in setting.split(","))):
        domain, _, said = item.partition("=")
        found = _LIMIT.fullmatch(said.strip())
        if found is None or not any(found.groups()):
            raise ValueError(_advice(item))
        try:
            name = parse_address(f"x@{domain.strip()}").domain
            limits[name] = _limit(found["count"], found["unit"], found["concurrency"])
        except (AddressRefused, ZeroDivisionError):
            raise ValueError(_advice(item)) from None
    return limits


def domain_of(recipient: str) -> str:
    """Of an address as a mail's row has it: in lower case, as A-labels."""
    return recipient.rpartition("@")[2]


def lane(recipient: str, limits: Mapping[str, DomainLimit]) -> tuple[str | None, int | None]:
    """The concurrency key of a mail and its limit, or nothing."""
    domain = domain_of(recipient)
    limit = limits.get(domain)
    return (f"mail/{domain}", limit.concurrency) if limit and limit.concurrency else (None, None)


def reserve(session: Session, mail_id: UUID, domain: str, interval: timedelta) -> timedelta:
    """A mail's own slot among those of its domain, kept in its row. Answers how long it is until then."""
    left: timedelta = session.execute(_RESERVE, {"id": mail_id, "domain": domain, "interval": interval}).scalar_one()
    return left


def stands(session: Session, mail_id: UUID, domain: str, interval: timedelta) -> bool:
    """Whether a mail's slot still counts: those given at another pace do not, once a mail has asked at this one."""
    found = session.execute(_STANDS, {"id": mail_id, "domain": domain, "interval": interval}).first()
    return found is not None


def _limit(count: str | None, unit: str | None, concurrency: str | None) -> DomainLimit:
    interval = _UNITS[unit] / float(count) if count and unit else None
    if concurrency is not None and int(concurrency) == 0:
        raise ZeroDivisionError
    return DomainLimit(interval, int(concurrency) if concurrency else None)


def _advice(item: str) -> str:
    return (
        f"MAIL_DOMAIN_LIMITS: {item!r} is not understood: write domain=RATE:CONCURRENCY, such as gmail.com=20/s:10, "
        "or one of the two: example.org=30/m, example.com=:2"
    )


# GCRA without a burst: a domain's next slot is all there is to know. Another pace begins anew.
_RESERVE = text("""
with gate as (
    insert into app.mail_gate as g (domain, next_at, pace)
    values (:domain, clock_timestamp() + cast(:interval as interval), :interval)
    on conflict (domain) do update
    set next_at = case when g.pace = excluded.pace then greatest(g.next_at, clock_timestamp()) else clock_timestamp() end
            + excluded.pace,
        pace = excluded.pace
    returning next_at - cast(:interval as interval) as slot
)
update app.mail m
set slot_at = gate.slot
from gate
where m.id = :id
returning gate.slot - clock_timestamp()
""")

_STANDS = text("""
select
from app.mail m
join app.mail_gate g on g.domain = :domain and g.pace = :interval and m.slot_at < g.next_at
where m.id = :id
""")
