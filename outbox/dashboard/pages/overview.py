"""The overview: what is wrong first, then how it goes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from outbox.attention import attention
from outbox.dashboard.charts import Slot
from outbox.dashboard.page import Ask, Page
from outbox.dashboard.render import exactly, span
from outbox.figures import Figures, Moment
from outbox.reads import Count, QueueView

__all__ = ["RANGES", "show"]


class Range(NamedTuple):
    """A span of the charts, and how long each of their columns is."""

    span: timedelta
    step: timedelta


RANGES = {
    "1h": Range(timedelta(hours=1), timedelta(minutes=1)),
    "6h": Range(timedelta(hours=6), timedelta(minutes=5)),
    "24h": Range(timedelta(days=1), timedelta(minutes=15)),
    "7d": Range(timedelta(days=7), timedelta(hours=2)),
}


def show(ask: Ask) -> Page:
    """Concerns, tiles, charts, queues and actors."""
    now, chosen = ask.now(), ask.params.get("range", "1h")
    chosen = chosen if chosen in RANGES else "1h"
    figures = Figures(ask.schema)
    since = now - RANGES[chosen].span
    seen = figures.look(ask.conn, since=since, until=now, step=RANGES[chosen].step)
    series = seen.series
    queues = ask.reader.queues(ask.conn)
    known = [panel.concerns for panel in ask.panels if panel.concerns]
    values = {
        "now": now,
        "range": chosen,
        "ranges": RANGES,
        "concerns": attention(ask.conn, schema=ask.schema, others=known, queues=queues),
        "tiles": _tiles(queues, series, RANGES[chosen].step),
        "ended": [_ended(each) for each in series],
        "speeds": [_speed(each) for each in series],
        "queues": queues,
        "by_queue": {each.name: each for each in seen.queues},
        "actors": seen.actors,
    }
    return Page("overview.html", "Overview", values)


class Tile(NamedTuple):
    """A figure, what it counts, and how it went."""

    title: str
    figure: str
    note: str
    course: Sequence[float]
    path: str


def _tiles(queues: Sequence[QueueView], series: Sequence[Moment], step: timedelta) -> list[Tile]:
    waiting = _sum(queues, ("pending", "waiting"))
    oldest = max((each.oldest_due for each in queues if each.oldest_due), default=None)
    closed = [each for each in series if not each.open] or list(series)
    ended = [each.succeeded + each.dead + each.cancelled for each in closed]
    succeeded, dead = sum(each.succeeded for each in series), sum(each.dead for each in series)
    minutes = step / timedelta(minutes=1)
    latest = next((each.p95 for each in reversed(series) if each.p95 is not None), None)
    late = f"oldest due {span(oldest)}" if oldest else "nothing is late"
    speeds = [_seconds(each.p95) for each in closed]
    lost = [each.dead for each in closed]
    return [
        Tile("To be published", str(waiting), late, [], "/tasks?q=state:pending"),
        Tile("In queues", str(_sum(queues, ["published"])), "published, not started", [], "/tasks?q=state:published"),
        Tile("Running", str(_sum(queues, ["running"])), _retrying(queues), [], "/tasks?q=state:running"),
        Tile("Finished a minute", _rate(ended, minutes), "in the last whole step", ended, "/tasks"),
        Tile("Success", _share(succeeded, dead), f"{dead} dead of {succeeded + dead}", lost, "/tasks?q=state:dead"),
        Tile("p95, commit to done", span(latest), "of the last step that had any", speeds, "/tasks"),
    ]


def _retrying(queues: Sequence[QueueView]) -> str:
    return f"{_sum(queues, ['retrying'])} wait for a retry"


def _rate(ended: Sequence[int], minutes: float) -> str:
    return f"{ended[-1] / minutes:.0f}" if ended else "0"


def _sum(queues: Sequence[QueueView], states: Sequence[str]) -> Count:
    found = [each.counts[state] for each in queues for state in states if state in each.counts]
    return Count(sum(each.number for each in found), any(each.at_least for each in found))


def _share(succeeded: int, dead: int) -> str:
    if not succeeded + dead:
        return "–"
    share = succeeded / (succeeded + dead)
    return "100%" if not dead else f"{min(share, 0.9999):.2%}"


def _ended(moment: Moment) -> Slot:
    told = f"{moment.succeeded} succeeded, {moment.dead} dead, {moment.cancelled} cancelled; attempts that failed: {moment.failures}"
    return Slot(moment.at, [moment.succeeded, moment.cancelled, moment.dead], f"{_at(moment.at)}: {told}")


def _speed(moment: Moment) -> Slot:
    told = f"{_at(moment.at)}: p50 {span(moment.p50)}, p95 {span(moment.p95)}, p99 {span(moment.p99)}"
    return Slot(moment.at, [_seconds(each) for each in (moment.p50, moment.p95, moment.p99)], told)


def _at(at: datetime) -> str:
    return exactly(at)[:16]


def _seconds(value: timedelta | None) -> float:
    return value.total_seconds() if value is not None else 0.0
