"""Output: data on stdout as a table, as tab-separated lines, or as one JSON document; all else on stderr."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from outbox.cli.times import in_words

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = [
    "Column", "age", "block", "document", "fields", "grid", "note", "on_terminal", "plain", "progress", "record", "state",
    "table", "unsteered",
]  # fmt: skip

_STATES = {
    "scheduled": "blue", "waiting": "magenta", "pending": "white", "published": "cyan", "running": "bold cyan",
    "retrying": "yellow", "succeeded": "green", "dead": "bold red", "cancelled": "magenta",
}  # fmt: skip


#: A task's own text must not steer the terminal, nor break a line in two.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\\]")
_UNSTEERED = re.compile(_CONTROL.pattern.replace("\\\\", ""))
#: Of these, what JSON leaves as it is: also what turns the direction of writing round, and halves of a pair.
_UNSAID = re.compile(r"[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Column(NamedTuple):
    """A column: its heading, its value, how a person reads that value on a terminal, and from which width on."""

    heading: str
    value: Callable[[Any], Any]
    human: Callable[[Any], str] | None = None
    right: bool = False
    width: int = 0


def table(rows: Iterable[Any], columns: Sequence[Column], *, empty: str) -> None:
    """A table on a terminal; elsewhere one line a row, all of it, tabs between the columns, no heading."""
    if not sys.stdout.isatty():
        for row in rows:
            sys.stdout.write("\t".join(plain(column.value(row)) for column in columns) + "\n")
        return
    console = _stdout()
    drawn = grid(rows, columns, width=console.width)
    if drawn.row_count:
        console.print(drawn)
    else:
        note(empty)


def grid(rows: Iterable[Any], columns: Sequence[Column], *, width: int) -> Table:
    """The table as a terminal of that width shows it."""
    from rich.table import Table

    columns = [column for column in columns if column.width <= width]
    drawn = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        drawn.add_column(
            column.heading, justify="right" if column.right else "left", overflow="fold", no_wrap=column.heading == "id"
        )
    for row in rows:
        drawn.add_row(*(_human(column, row) for column in columns))
    return drawn


def record(fields: Mapping[str, Any]) -> None:
    """One thing, a line a field: its name, a tab (spaces on a terminal), its value."""
    wide = max(map(len, fields), default=0)
    for name, value in fields.items():
        if sys.stdout.isatty():
            sys.stdout.write(f"{name:<{wide}}  {plain(value)}\n")
        else:
            sys.stdout.write(f"{name}\t{plain(value)}\n")


def document(value: Any) -> None:
    """One JSON document: dataclasses as objects, instants as ISO 8601, durations as seconds."""
    sys.stdout.write(_json(value, indent=2) + "\n")


def block(text: str) -> None:
    """Text of several lines."""
    lines = (_CONTROL.sub(_escaped, line) for line in text.rstrip("\n").split("\n"))
    sys.stdout.write("\n".join(lines) + "\n")


def on_terminal() -> bool:
    return sys.stdout.isatty()


def fields(value: Any) -> dict[str, Any]:
    """A dataclass as the object that `document` makes of it."""
    return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}


def note(text: str) -> None:
    """A remark for people, on stderr."""
    sys.stderr.write(unsteered(text) + "\n")


def unsteered(text: str) -> str:
    """Text of several lines without what steers a terminal: names of tasks and queues, a server's words."""
    return "\n".join(_UNSTEERED.sub(_escaped, line) for line in text.split("\n"))


def plain(value: Any) -> str:
    """A value on one line, complete."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return f"{value.total_seconds():.3f}"
    if isinstance(value, (dict, list, tuple)):
        return _json(value)
    return _CONTROL.sub(_escaped, str(value))


def age(span: timedelta | None) -> str:
    return "" if span is None else in_words(span)


def state(word: str) -> str:
    """A state in its colour; the word alone says it too."""
    style = _STATES.get(word)
    return f"[{style}]{word}[/]" if style else word


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Progress on stderr: a bar with rate and remaining time on a terminal, a line every five seconds elsewhere."""
    if not sys.stderr.isatty():
        yield _Lines(label, total).advance
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    words = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*words, console=Console(stderr=True), transient=True) as bar:
        drawn = bar.add_task(label, total=total)
        yield lambda step: bar.advance(drawn, step)


class _Lines:
    def __init__(self, label: str, total: int | None) -> None:
        self.label, self.total, self.done = label, total, 0
        self.began = self.said = time.monotonic()

    def advance(self, step: int) -> None:
        self.done += step
        now = time.monotonic()
        if now - self.said >= 5:
            self.said = now
            of = f" of {self.total}" if self.total is not None else ""
            note(f"{self.label}: {self.done}{of}, {self.done / (now - self.began):.0f} a second")


def _json(value: Any, *, indent: int | None = None) -> str:
    """Legible, and yet without what steers a terminal: JSON itself escapes only what lies below the space."""
    text = json.dumps(value, default=_encoded, ensure_ascii=False, indent=indent)
    return _UNSAID.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def _human(column: Column, row: Any) -> str:
    from rich.markup import escape

    value = column.value(row)
    if column.human is not None and value is not None:
        return column.human(value)
    if isinstance(value, datetime):
        return f"{value.astimezone():%Y-%m-%d %H:%M:%S}"
    return escape(plain(value))


def _stdout() -> Console:
    from rich.console import Console

    return Console(highlight=False)


def _encoded(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return fields(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Enum):
        return value.value
    return str(value)
