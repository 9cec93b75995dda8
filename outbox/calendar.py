"""When a cron expression fires in a time zone, through every change of its clocks.

The matching of local times is cronsim's, on plain local times only; what daylight saving does to them is decided
here, because cronsim's own way loses fires where a clock moves by half an hour or at midnight, and can answer a
time that has passed in the repeated hour.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from outbox.errors import ConfigurationError

__all__ = ["Calendar", "calendar_of"]

_ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_TO_SUNDAY = re.compile(r"\b([1-6]|MON|TUE|WED|THU|FRI|SAT)-(?:SUN|0)\b")
_DAY, _SECOND = timedelta(days=1), timedelta(seconds=1)


class Calendar:
    """The fire times of a cron expression.

    `spec` is `minute hour day-of-month month day-of-week` or an alias such as `@daily`; Sunday is 0, 7 or sun; where
    neither day field contains a star, either may match. `zone` is an IANA name.

    Where clocks move forward, a time that does not exist fires once, at the first instant after the gap; only what
    fires in every hour goes on hour by hour. Where they move back, a fixed time fires once, at its first occurrence;
    a starred minute or hour follows the real time and fires in both.

    Raises ConfigurationError for an expression or zone that means nothing, or that never fires.
    """

    def __init__(self, spec: str, zone: str = "UTC") -> None:
        self.spec, self.zone = spec, zone
        self._fields = _checked_fields(spec)
        self._clocks = _clocks(zone)
        minute, hour, *_ = self._fields.split()
        self._every_hour = len(CronSim(self._fields, datetime.min).hours) == 24
        self._repeats = self._every_hour or minute.startswith("*") or hour.startswith("*")

    def after(self, instant: datetime) -> Iterator[datetime]:
        """All fires later than an aware instant, in order, each once: aware, in UTC."""
        latest = instant.astimezone(UTC)
        for fire in self._fires(self._start(latest)):
            if fire > latest:
                latest = fire
                yield fire

    def _start(self, instant: datetime) -> datetime:
        """In the repeated hour a fixed time has fired already: begin where that can be seen."""
        again = instant.astimezone(self._clocks).fold == 1
        return instant - 2 * _DAY if again and not self._repeats else instant

    def _fires(self, start: datetime) -> Iterator[datetime]:
        """Walk from one change of the clocks to the next; between them, local time is UTC plus an offset."""
        offset = self._offset(start)
        while True:
            local = (start + offset).replace(tzinfo=None)
            for match in CronSim(self._fields, local - _SECOND):
                fire = (match - offset).replace(tzinfo=UTC)
                change = self._change(start, fire, offset)
                if change is not None:
                    break
                yield fire
                start = fire
            else:
                return
            moved = self._offset(change) - offset
            if not self._every_hour and match < (change + offset + moved).replace(tzinfo=None):
                yield change
            start = change if self._repeats else max(change, change - moved)
            offset += moved

    def _offset(self, instant: datetime) -> timedelta:
        return instant.astimezone(self._clocks).utcoffset() or timedelta(0)

    def _change(self, start: datetime, end: datetime, offset: timedelta) -> datetime | None:
        """The first instant in (start, end] at which local time is no longer UTC plus `offset`."""
        while start < end:
            step = min(start + _DAY, end)
            if self._offset(step) != offset:
                return self._change_between(start, step, offset)
            start = step
        return None

    def _change_between(self, before: datetime, after: datetime, offset: timedelta) -> datetime:
        low, high = int(before.timestamp()), int(after.timestamp())
        while high - low > 1:
            middle = (low + high) // 2
            if self._offset(datetime.fromtimestamp(middle, UTC)) == offset:
                low = middle
            else:
                high = middle
        return datetime.fromtimestamp(high, UTC)


@lru_cache(maxsize=1024)
def calendar_of(spec: str, zone: str) -> Calendar:
    """The calendar of an expression in a zone, made once."""
    return Calendar(spec, zone)


def _checked_fields(spec: str) -> str:
    """Five fields as cronsim reads them."""
    text = _ALIASES.get(spec.strip().lower(), spec).upper()
    fields = text.split()
    if len(fields) != 5:
        known = ", ".join(_ALIASES)
        raise ConfigurationError(
            f"cron {spec[:100]!r}: five fields are needed (minute hour day month weekday), or {known}."
        )
    fields[4] = _TO_SUNDAY.sub(r"\1-7", fields[4])
    text = " ".join(fields)
    try:
        first = next(CronSim(text, datetime(2000, 1, 1)), None)
    except (CronSimError, ValueError) as error:
        raise ConfigurationError(f"cron {spec[:100]!r}: {str(error)[:100]}.") from None
    if first is None:
        raise ConfigurationError(f"cron {spec!r} never fires.")
    return text


def _clocks(zone: str) -> ZoneInfo:
    try:
        return ZoneInfo(zone)
    except (LookupError, ValueError, OSError):
        raise ConfigurationError(f"cron zone {zone[:100]!r} is not an IANA time zone such as 'Europe/Paris'.") from None
