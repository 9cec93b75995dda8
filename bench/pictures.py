"""Lines as SVG, readable in light and dark, without scripts: `chart` answers the text of a file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

Point = tuple[float, float]

WIDTH, HEIGHT = 860, 460
LEFT, RIGHT, TOP, BOTTOM = 78, 190, 56, 58
COLOURS = ("#d1242f", "#0969da", "#1a7f37", "#9a6700", "#8250df", "#bf3989", "#1b7c83", "#bc4c00", "#57606a")
DARK_COLOURS = ("#ff7b72", "#79c0ff", "#56d364", "#e3b341", "#d2a8ff", "#ff9bce", "#76e3ea", "#ffa657", "#9ea7b3")


@dataclass(frozen=True)
class Axis:
    """From the least to the greatest value shown, marked at `ticks`."""

    label: str
    least: float
    most: float
    ticks: Sequence[float]
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Where on the axis, from 0 to 1: what lies outside is drawn at its edge."""
        if self.logarithmic:
            part = math.log(max(value, self.least) / self.least) / math.log(self.most / self.least)
        else:
            part = (value - self.least) / (self.most - self.least)
        return min(1.0, max(0.0, part))


def linear(label: str, most: float) -> Axis:
    """From 0, with four to eight round ticks."""
    step = 10 ** math.floor(math.log10(most or 1))
    while most / step < 4:
        step /= 2
    ticks = [step * number for number in range(int(most / step) + 1)]
    return Axis(label, 0.0, most, ticks)


def decades(label: str, least: float, most: float) -> Axis:
    """A logarithmic axis between the powers of ten around these values."""
    low, high = math.floor(math.log10(least)), math.ceil(math.log10(most))
    high = max(high, low + 1)
    return Axis(label, 10.0**low, 10.0**high, [10.0**power for power in range(low, high + 1)], logarithmic=True)


def chart(title: str, lines: Mapping[str, Sequence[Point]], x: Axis, y: Axis) -> str:
    """One line for each name, the first one heavier; names stand at the right, in the order given."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_quoted(title)}">',
        f"<title>{escape(title)}</title>",
        f"<style>{_style()}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}" rx="6"/>',
        f'<text class="title" x="{LEFT}" y="30">{escape(title)}</text>',
        *_grid(x, y),
    ]
    for number, (name, points) in enumerate(lines.items()):
        colour = f"c{number % len(COLOURS)}"
        heavy = " first" if not number else ""
        path = " ".join(f"{_across(x, at):.1f},{_up(y, value):.1f}" for at, value in points)
        above = TOP + 12 + 24 * number
        edge = WIDTH - RIGHT + 16
        parts += [
            f'<polyline class="line {colour}{heavy}" points="{path}"/>',
            f'<line class="line {colour}{heavy}" x1="{edge}" x2="{edge + 20}" y1="{above}" y2="{above}"/>',
            f'<text x="{edge + 28}" y="{above + 4}">{escape(name)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def _grid(x: Axis, y: Axis) -> list[str]:
    floor, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for tick in x.ticks:
        at = _across(x, tick)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{floor}"/>')
        parts.append(f'<text class="middle" x="{at:.1f}" y="{floor + 20}">{_number(tick)}</text>')
    for tick in y.ticks:
        at = _up(y, tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="end" x="{LEFT - 8}" y="{at + 4:.1f}">{_number(tick)}</text>')
    middle = (TOP + floor) / 2
    return [
        *parts,
        f'<text class="middle" x="{(LEFT + right) / 2:.0f}" y="{HEIGHT - 14}">{escape(x.label)}</text>',
        f'<text class="middle" transform="translate(18 {middle:.0f}) rotate(-90)">{escape(y.label)}</text>',
    ]


def _style() -> str:
    light = "".join(f".c{number}{{stroke:{colour}}}" for number, colour in enumerate(COLOURS))
    dark = "".join(f".c{number}{{stroke:{colour}}}" for number, colour in enumerate(DARK_COLOURS))
    return (
        "text{font:13px system-ui,sans-serif;fill:#1f2328}.title{font-size:16px;font-weight:600}"
        ".middle{text-anchor:middle}.end{text-anchor:end}.ground{fill:#fff}.grid{stroke:#d1d9e0}"
        f".line{{fill:none;stroke-width:1.6;stroke-linejoin:round}}.first{{stroke-width:3.2}}{light}"
        "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.ground{fill:#0d1117}.grid{stroke:#30363d}"
        f"{dark}}}"
    )


def _across(axis: Axis, value: float) -> float:
    return LEFT + axis.share(value) * (WIDTH - LEFT - RIGHT)


def _up(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - TOP - BOTTOM)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


def _quoted(text: str) -> str:
    return escape(text, {'"': "&quot;"})
