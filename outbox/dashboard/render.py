"""Pages become HTML: the templates, the words for times and numbers, and the two files that every page loads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import BaseLoader, ChoiceLoader, Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from outbox.dashboard import charts
from outbox.dashboard.page import Page
from outbox.reads import Count, PublicState, QueueView, TaskView

__all__ = ["ASSETS", "POLICY", "Asset", "Pages", "exactly", "queried", "span"]

HERE = Path(__file__).parent
LIVE = "live_"

#: No script, style, picture or frame that is not ours, and no form that goes elsewhere.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)


class Asset:
    """A file that pages load, under a name that changes with its content: browsers keep it for ever."""

    def __init__(self, name: str, media_type: str) -> None:
        self.content = (HERE / "static" / name).read_bytes()
        self.media_type = media_type
        stem, _, suffix = name.rpartition(".")
        self.name = f"{stem}-{hashlib.sha256(self.content).hexdigest()[:12]}.{suffix}"


ASSETS = {
    "style": Asset("dashboard.css", "text/css"),
    "script": Asset("dashboard.js", "text/javascript"),
    "icon": Asset("icon.svg", "image/svg+xml"),
}


class Pages:
    """The templates of the dashboard, and of what was added to it."""

    def __init__(self, more: Sequence[BaseLoader] = ()) -> None:
        self._pages = Environment(
            loader=ChoiceLoader([FileSystemLoader(HERE / "templates"), *more]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._pages.filters.update(
            when=_when, span=span, number=_number, short=_short, shown=_shown, exactly=exactly, percent=_percent,
            size=_size, pathed=_pathed, stand=_stand, unfinished=_unfinished, outcomes=_outcomes, bar=charts.parts,
        )  # fmt: skip
        self._pages.globals.update(area=charts.area, lines=charts.lines, spark=charts.spark)

    def whole(self, page: Page, values: Mapping[str, Any]) -> str:
        """The page, from its head to its foot."""
        return self._pages.get_template(page.template).render(self._filled(page, values))

    def live(self, page: Page, values: Mapping[str, Any]) -> dict[str, str]:
        """Its blocks that are kept fresh, by name."""
        template = self._pages.get_template(page.template)
        context = template.new_context(self._filled(page, values))
        return {name: "".join(block(context)) for name, block in _live_blocks(template.blocks)}

    def _filled(self, page: Page, values: Mapping[str, Any]) -> dict[str, Any]:
        part = self._pages.get_template("parts.html").make_module({"base": values["base"], "here": values["here"]})
        return {**values, **page.values, "title": page.title, "part": part}


def _live_blocks(blocks: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((name.removeprefix(LIVE), block) for name, block in blocks.items() if name.startswith(LIVE))


# ---------------------------------------------------------------------- words


def _when(at: datetime | None, now: datetime, otherwise: str = "–") -> Markup:
    """An instant, as how long ago or in how long; the exact one on hovering, and for the script, which keeps it right."""
    if at is None:
        return Markup('<span class="none">{}</span>').format(otherwise)
    stamp = exactly(at)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        at.astimezone(UTC).isoformat(), stamp, _ago(at, now)
    )


def _ago(at: datetime, now: datetime) -> str:
    away = now - at
    if away < timedelta(0):
        return f"in {span(-away)}"
    return f"{span(away)} ago" if away >= timedelta(seconds=1) else "now"


def exactly(at: datetime) -> str:
    """An instant in UTC, to the millisecond."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03} UTC"


def span(length: timedelta | None) -> str:
    """A duration in the two units that say most: 12 ms, 3.4 s, 2 min 5 s, 3 h 12 min, 4 d 2 h."""
    if length is None:
        return "–"
    seconds = max(length.total_seconds(), 0.0)
    if seconds < 0.0995:
        return f"{seconds * 1000:.3g} ms" if seconds else "0 ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    size, unit, part, less = next(each for each in _UNITS if seconds >= each[0])
    whole, rest = divmod(int(seconds), size)
    return f"{whole} {unit} {rest // part} {less}" if rest // part else f"{whole} {unit}"


_UNITS = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))


def _number(number: object) -> str:
    """1234567 → 1 234 567, with narrow spaces that do not break."""
    text = str(number)
    digits = text.rstrip("+")
    return f"{int(digits):,}".replace(",", "\u202f") + text[len(digits) :] if digits.isdigit() else text


def _percent(share: float | None) -> str:
    if share is None:
        return "–"
    return f"{share:.0%}" if share in (0, 1) else f"{share:.1%}" if share < 0.9995 else ">99.9%"


def _stand(queue: QueueView, state: PublicState) -> Count:
    """How many of the queue are in this state."""
    return queue.counts.get(state, Count(0))


def _unfinished(queue: QueueView) -> list[tuple[str, int]]:
    states: tuple[PublicState, ...] = ("pending", "waiting", "published", "running", "retrying", "scheduled")
    return [(state, _stand(queue, state).number) for state in states]


def _outcomes(figures: Any) -> list[tuple[str, int]]:
    return [(name, getattr(figures, name)) for name in ("succeeded", "cancelled", "dead")]


def _size(text: str) -> str:
    octets = len(text.encode())
    return f"{octets} bytes" if octets < 2048 else f"{octets / 1024:.0f} kB"


def _short(id: object) -> str:
    """The end of an id: the beginnings of ids made in one minute are all alike."""
    return str(id)[-8:]


def _pathed(text: str) -> str:
    """A name as one part of a path, whatever is in it."""
    return quote(text, safe="")


def _shown(value: object, longest: int = 0) -> str:
    """JSON for people: on one line, cut where it is longer."""
    if isinstance(value, TaskView):
        given = [json.dumps(each, ensure_ascii=False) for each in value.args]
        given += [f"{name}={json.dumps(each, ensure_ascii=False)}" for name, each in value.kwargs.items()]
        text = ", ".join(given)
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=None if longest else 2)
    return text if not longest or len(text) <= longest else text[: longest - 1] + "…"


def queried(path: str, **params: str | None) -> str:
    """A path with those parameters that are given."""
    given = {name: value for name, value in params.items() if value}
    return f"{path}?{urlencode(given)}" if given else path
