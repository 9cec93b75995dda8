"""How fast callers may come: so many at once, then a steady rate. Each API process counts for itself.

Why our own: the storage in memory of the library `limits` starts a thread for its expiry at nearly every request that
comes alone (0.1 to 0.3 ms, measured), asks a clock that can be set, and keeps any number of names.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from service.settings import Settings

__all__ = ["Pace", "Paces", "Turn", "paces_for"]

#: Callers that are remembered; beyond, the one that has not come for longest is forgotten.
MOST = 10_000
_SECOND = 1_000_000_000

#: Nanoseconds since some instant; it never goes back.
Clock = Callable[[], int]


@dataclass(frozen=True, slots=True)
class Turn:
    """Whether a request may be served now; `wait`: whole seconds until the next one may be."""

    granted: bool
    wait: int
    #: `RateLimit-Policy` and `RateLimit`, as draft-ietf-httpapi-ratelimit-headers has them; none without a limit.
    headers: dict[str, str]


class Pace:
    """In any `t` seconds, a caller is granted at most `burst + rate * t` requests. Rate 0: no limit.

    A token bucket as GCRA keeps it: of each caller, the instant at which its bucket is full again. Whole nanoseconds,
    rounded in favour of the limit. Not for several threads: the event loop calls it.
    """

    def __init__(self, name: str, *, rate: int, burst: int, clock: Clock) -> None:
        self._name = name
        self._burst = burst
        self._clock = clock
        self._each = -(-_SECOND // rate) if rate else 0
        self._all = self._each * burst
        self._full_at: OrderedDict[Hashable, int] = OrderedDict()

    def __contains__(self, caller: Hashable) -> bool:
        """Whether it was ever served, as far as that is remembered."""
        return caller in self._full_at

    def look(self, caller: Hashable) -> Turn:
        """What `take` would answer; nothing is taken."""
        missing = self._missing(caller, self._clock())
        return self._turn(missing, granted=self._grants(missing))

    def take(self, caller: Hashable) -> Turn:
        """One request, if it is granted."""
        now = self._clock()
        missing = self._missing(caller, now)
        granted = self._grants(missing)
        if granted:
            missing += self._each
        self._keep(caller, now + missing)
        return self._turn(missing, granted=granted)

    def charge(self, caller: Hashable) -> None:
        """One request that was served already, within the limit or not: the next ones wait for it."""
        now = self._clock()
        self._keep(caller, now + min(self._missing(caller, now) + self._each, self._all + self._each))

    def forget(self, caller: Hashable) -> None:
        self._full_at.pop(caller, None)

    def _missing(self, caller: Hashable, now: int) -> int:
        """How much of the caller's bucket is empty, as the time that fills it."""
        return max(0, self._full_at.get(caller, now) - now)

    def _grants(self, missing: int) -> bool:
        return missing + self._each <= self._all

    def _keep(self, caller: Hashable, full_at: int) -> None:
        self._full_at[caller] = full_at
        self._full_at.move_to_end(caller)
        if len(self._full_at) > MOST:
            self._full_at.popitem(last=False)

    def _turn(self, missing: int, *, granted: bool) -> Turn:
        if not self._each:
            return Turn(granted, 0, {})
        left = max(0, self._all - missing) // self._each
        headers = {
            "RateLimit-Policy": f'"{self._name}";q={self._burst};w={_seconds(self._all)}',
            "RateLimit": f'"{self._name}";r={left};t={_seconds(missing)}',
        }
        return Turn(granted, _seconds(max(0, missing + self._each - self._all)), headers)


@dataclass(frozen=True, slots=True)
class Paces:
    """`callers`: by the digest of an API key in force. `guesses`: by the address that keys come from which are not."""

    callers: Pace
    guesses: Pace


def paces_for(settings: Settings, *, clock: Clock = time.monotonic_ns) -> Paces:
    return Paces(
        callers=Pace("default", rate=settings.rate, burst=settings.burst, clock=clock),
        guesses=Pace("refused-keys", rate=settings.refusals, burst=max(1, settings.refusals), clock=clock),
    )


def _seconds(nanoseconds: int) -> int:
    return -(-nanoseconds // _SECOND)
