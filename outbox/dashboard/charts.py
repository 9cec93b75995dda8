"""Charts as SVG made by the server: they are there without a script, they print, and they change as pages do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from math import log10
from typing import NamedTuple

from markupsafe import Markup

__all__ = ["Slot", "area", "lines", "parts", "spark"]

WIDTH, HEIGHT = 600, 140
#: Room for the numbers on the left and the hours below.
LEFT, BELOW = 44, 18

_FRAME = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}{}{}</svg>')
_COLUMN = Markup(
    '<g class="slot" data-at="{}"><rect x="{:.1f}" y="0" width="{:.1f}" height="{}"/><title>{}</title></g>'
)
_HOUR = Markup('<text class="hour" x="{:.1f}" y="{}">{}</text>')
_LINE = Markup(
    '<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/><text class="scale" x="{}" y="{:.1f}">{}</text>'
)
_RECT = Markup('<rect class="{}" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}"/>')
_BAR = Markup('<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>')


class Slot(NamedTuple):
    """A point in time of a chart: its beginning, a value for each of the chart's names, and what hovering says."""

    at: datetime
    values: Sequence[float | None]
    told: str


def area(slots: Sequence[Slot], classes: Sequence[str], label: str) -> Markup:
    """Columns, one above the other."""
    most = _round_up(max((sum(value or 0 for value in slot.values) for slot in slots), default=0) or 1)
    wide = (WIDTH - LEFT) / max(len(slots), 1)
    drawn = []
    for place, slot in enumerate(slots):
        below = 0.0
        for value, name in zip(slot.values, classes, strict=True):
            if value:
                tall = (HEIGHT - BELOW) * value / most
                drawn.append(_rect(LEFT + place * wide + 0.5, HEIGHT - BELOW - below - tall, wide - 1, tall, name))
                below += tall
    return _chart(slots, drawn, _scale([0, most / 2, most], lambda value: value / most, _plain), label)


def lines(slots: Sequence[Slot], classes: Sequence[str], label: str) -> Markup:
    """Lines of seconds, on a logarithmic scale: what is slow shows beside what is quick. A gap is where nothing was."""
    found = [value for slot in slots for value in slot.values if value]
    low, high = (10 ** int(log10(min(found)) - 1), max(found) * 1.2) if found else (0.001, 1.0)
    decades = [step for power in range(-4, 7) if low <= (step := 10.0**power) <= high] or [low]

    def share(value: float) -> float:
        return min(max((log10(value) - log10(low)) / (log10(high) - log10(low)), 0), 1)

    wide = (WIDTH - LEFT) / max(len(slots), 1)
    drawn = []
    for number, name in enumerate(classes):
        for stretch in _stretches(slots, number):
            points = " ".join(
                f"{LEFT + (place + 0.5) * wide:.1f},{(HEIGHT - BELOW) * (1 - share(value)):.1f}"
                for place, value in stretch
            )
            drawn.append(Markup('<polyline class="{}" points="{}"/>').format(name, points))
    return _chart(slots, drawn, _scale(decades, share, _seconds), label)


def spark(values: Sequence[float], label: str) -> Markup:
    """The course of one figure, as small as a word."""
    most = max(values, default=0) or 1
    step = 100 / max(len(values) - 1, 1)
    points = " ".join(f"{place * step:.1f},{24 - 22 * value / most:.1f}" for place, value in enumerate(values))
    return Markup(
        '<svg class="spark" viewBox="0 0 100 26" preserveAspectRatio="none" role="img" aria-label="{}">'
        '<polyline points="{}"/></svg>'
    ).format(label, points)


def parts(shares: Sequence[tuple[str, int]], label: str) -> Markup:
    """A bar divided by how many are in each state."""
    total = sum(number for _, number in shares)
    drawn, left = [], 0.0
    for name, number in shares:
        if number:
            wide = 100 * number / total
            drawn.append(_rect(left, 0, wide, 8, f"fill-{name}"))
            left += wide
    return _BAR.format(label, Markup("").join(drawn))


def _chart(slots: Sequence[Slot], drawn: Sequence[Markup], scale: Markup, label: str) -> Markup:
    content = Markup("").join(drawn)
    return _FRAME.format(WIDTH, HEIGHT, label, scale, content, _hours(slots), _slots(slots))


def _slots(slots: Sequence[Slot]) -> Markup:
    """What is pointed at: a column over everything, which says what it stands for."""
    wide = (WIDTH - LEFT) / max(len(slots), 1)
    return Markup("").join(
        _COLUMN.format(place, LEFT + place * wide, wide, HEIGHT - BELOW, slot.told) for place, slot in enumerate(slots)
    )


def _hours(slots: Sequence[Slot]) -> Markup:
    """A few instants below."""
    wide = (WIDTH - LEFT) / max(len(slots), 1)
    every = max(len(slots) // 5, 1)
    clock = "%d %b %H:%M" if slots and slots[-1].at - slots[0].at > timedelta(days=1) else "%H:%M"
    return Markup("").join(
        _HOUR.format(LEFT + (place + 0.5) * wide, HEIGHT - 4, f"{slot.at.astimezone(UTC):{clock}}")
        for place, slot in list(enumerate(slots))[every // 2 :: every]
    )


def _scale(values: Sequence[float], share: Callable[[float], float], spelled: Callable[[float], str]) -> Markup:
    drawn = []
    for value in values:
        y = (HEIGHT - BELOW) * (1 - share(value))
        drawn.append(_LINE.format(LEFT, WIDTH, y, y, LEFT - 5, max(y + 4, 10), spelled(value)))
    return Markup("").join(drawn)


def _rect(x: float, y: float, width: float, height: float, name: str) -> Markup:
    return _RECT.format(name, x, y, max(width, 0.1), height)


def _stretches(slots: Sequence[Slot], number: int) -> Iterator[list[tuple[int, float]]]:
    """The runs of slots that have a value, each with its place."""
    run: list[tuple[int, float]] = []
    for place, slot in enumerate(slots):
        value = slot.values[number]
        if value:
            run.append((place, value))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _round_up(value: float) -> float:
    power: float = 10 ** int(log10(value))
    return next(step * power for step in (1, 2, 4, 5, 10, 20) if step * power >= value)


def _plain(value: float) -> str:
    return f"{value:,.0f}".replace(",", "\u202f") if value == int(value) else f"{value:g}"


def _seconds(value: float) -> str:
    return f"{value * 1000:g} ms" if value < 1 else f"{value:g} s"
