"""What a measurement answers: series of rounds, some of them judged against a target."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass
class Series:
    """One thing, measured once in each round. Judged when it has a target."""

    name: str
    unit: str
    values: list[float] = field(default_factory=list)
    at_least: float | None = None
    at_most: float | None = None

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the median meets the target; None where there is none, or nothing was measured."""
        if not self.values or (self.at_least is None and self.at_most is None):
            return None
        return (self.at_least is None or self.median >= self.at_least) and (
            self.at_most is None or self.median <= self.at_most
        )

    def asdict(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"name": self.name, "unit": self.unit, "rounds": self.values}
        if self.values:
            shown |= {"median": self.median, "min": min(self.values), "max": max(self.values)}
        if self.met is not None:
            shown |= {"at_least": self.at_least, "at_most": self.at_most, "met": self.met}
        return shown


@dataclass
class Report:
    """One measurement: its settings in words, its series, what a reader should know, and what can be seen."""

    title: str
    settings: list[str]
    series: list[Series] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    #: File name: text of an SVG.
    pictures: dict[str, str] = field(default_factory=dict)

    def asdict(self) -> dict[str, Any]:
        series = [each.asdict() for each in self.series]
        return {"title": self.title, "settings": self.settings, "series": series, "notes": self.notes}


def ratio(name: str, of: Series, to: Series, *, at_least: float | None = None, at_most: float | None = None) -> Series:
    """Round by round, so that what slowed a whole round down cancels out."""
    values = [a / b for a, b in zip(of.values, to.values, strict=True)]
    return Series(name, "×", values, at_least, at_most)


def rate(instants: Iterable[float]) -> float:
    """Events a second between the first 5 % and the last 5 %: neither the start nor the tail counts."""
    ordered = sorted(instants)
    if len(ordered) < 100:
        raise ValueError(f"only {len(ordered)} events: too few for a rate")
    first, last = len(ordered) // 20, len(ordered) - 1 - len(ordered) // 20
    return (last - first) / (ordered[last] - ordered[first])


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
