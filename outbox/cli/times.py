"""How people write durations and instants: `90s`, `2h`, `1d12h`, ISO 8601, `yesterday 09:00`."""

from __future__ import annotations

from datetime import datetime, time, timedelta

from outbox.times import duration

__all__ = ["ago", "ahead", "duration", "in_words", "instant"]

_DAYS = {"yesterday": -1, "today": 0, "tomorrow": 1}


def instant(text: str, now: datetime) -> datetime:
    """ISO 8601 (without an offset: local time), or `yesterday`, `today`, `tomorrow` with or without `HH:MM`."""
    day, _, clock = text.strip().partition(" ")
    if day.lower() in _DAYS:
        at = time.fromisoformat(clock) if clock else time()
        return datetime.combine(now.date() + timedelta(days=_DAYS[day.lower()]), at).astimezone()
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"{text!r} is not an instant such as 2030-01-31T09:00+01:00, or tomorrow 09:00") from None
    return found if found.tzinfo else found.astimezone()


def ago(text: str, now: datetime) -> datetime:
    """An instant, or a duration before now."""
    return _moved(text, now, -1)


def ahead(text: str, now: datetime) -> datetime:
    """An instant, or a duration from now."""
    return _moved(text, now, 1)


def _moved(text: str, now: datetime, sign: int) -> datetime:
    try:
        span = duration(text)
    except ValueError:
        return instant(text, now)
    try:
        return now + sign * span
    except OverflowError:
        raise ValueError(f"{text!r} is too long") from None


def in_words(span: timedelta) -> str:
    """Two figures that matter: `0.4 ms`, `350 ms`, `4.2 s`, `3m 12s`, `5h 2m`, `12d 4h`."""
    seconds = abs(span.total_seconds())
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f}m {seconds % 60:.0f}s"
    if seconds < 86400:
        return f"{seconds // 3600:.0f}h {seconds % 3600 // 60:.0f}m"
    return f"{seconds // 86400:.0f}d {seconds % 86400 // 3600:.0f}h"
