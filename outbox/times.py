"""How durations are written: `90s`, `2h`, `1d12h`."""

from __future__ import annotations

import re
from datetime import timedelta

__all__ = ["duration", "spelled"]

_UNITS = {
    "ms": timedelta(milliseconds=1), "s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1),
    "d": timedelta(days=1), "w": timedelta(weeks=1),
}  # fmt: skip
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d|w)")


def duration(text: str) -> timedelta:
    """`90s`, `2h`, `1d12h`, or plain seconds. Raises ValueError."""
    if re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", text):
        text += "s"
    if not text or _PART.sub("", text):
        raise ValueError(f"{text!r} is not a duration such as 90s, 15m, 2h or 1d12h")
    try:
        return sum((float(number) * _UNITS[unit] for number, unit in _PART.findall(text)), timedelta())
    except OverflowError:
        raise ValueError(f"{text!r} is too long") from None


def spelled(span: timedelta) -> str:
    """The shortest text that `duration` reads as this span, which is not negative: `1d12h`, `0s`."""
    rest, parts = span, []
    for unit in ("d", "h", "m"):
        number, rest = divmod(rest, _UNITS[unit])
        parts += [f"{number}{unit}"] if number else []
    if rest or not parts:
        parts.append(f"{rest.total_seconds():.6f}".rstrip("0").rstrip(".") + "s")
    return "".join(parts)
