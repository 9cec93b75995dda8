"""`outbox top`: what needs attention, queues, figures, processes and the newest failures, again every second."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from outbox.cli import concerns, figures, queues, show
from outbox.cli.door import Door, opened
from outbox.cli.show import Column

if TYPE_CHECKING:
    from rich.console import Console, Group

    from outbox.reads import TaskView
    from outbox.signals import StopSignal

__all__ = ["join"]

#: Between two looks; how long one statement of a look may take; what the figures are of.
PACE, PATIENCE, SPAN = timedelta(seconds=1), timedelta(seconds=3), timedelta(minutes=5)
NEWEST = 5


def join(root: typer.Typer) -> None:
    root.command("top", rich_help_panel="Operators")(top)


class Part(NamedTuple):
    """A part of the view. `empty`: what stands there without rows."""

    name: str
    rows: Sequence[Any]
    columns: Sequence[Column]
    empty: str


Parts = list[Part]


def top(once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False) -> None:
    """Watch it all: what needs attention, queues, figures of five minutes, processes, the newest dead tasks.

    Every second, until Ctrl-C. Elsewhere than on a terminal: lines, whose first column names the part.
    """
    if once:
        with opened() as door:
            _say(_look(door))
        return
    from outbox.signals import StopSignal

    stop = StopSignal()
    if show.on_terminal():
        _watch(stop)
        return
    for parts in _looks(stop):
        _say(parts)


def _watch(stop: StopSignal) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        for parts in _looks(stop):
            live.update(_drawn(parts, console), refresh=True)


def _looks(stop: StopSignal) -> Iterator[Parts]:
    """One a second. While the database cannot be reached, that is what there is to see; it is tried again."""
    import psycopg

    from outbox.errors import OutboxError

    with ExitStack() as stack:
        door: Door | None = None
        while True:
            try:
                door = door or stack.enter_context(opened())
                yield _look(door)
            except (psycopg.Error, OutboxError) as error:
                stack.close()
                door = None
                yield [Part("trouble", [" ".join(str(error).split())], TROUBLE, "")]
            if stop.wait(PACE.total_seconds()):
                return


def _look(door: Door) -> Parts:
    """All of it as it stands now, each statement bounded."""
    from outbox.attention import attention
    from outbox.figures import Figures
    from outbox.query import Query
    from outbox.redaction import redacted_view

    conn, reader = door.conn, door.reader
    with conn.transaction():
        conn.execute(
            "select set_config('statement_timeout', %s, true)", [f"{PATIENCE / timedelta(milliseconds=1):.0f}"]
        )
        waiting = reader.queues(conn)
        found = attention(conn, schema=reader.schema, queues=waiting)
        now = reader.now(conn)
        done = Figures(reader.schema).look(conn, since=now - SPAN, until=now).actors
        alive = reader.workers(conn)
        dead = reader.tasks(conn, Query(states=("dead",)), limit=NEWEST, within=PATIENCE)[0]
    return [
        Part("attention", found, concerns.CONCERNS, "All is clear."),
        Part("queues", waiting, queues.COLUMNS, "No queue yet."),
        Part("figures", done, FIGURES, "Nothing ended in the last five minutes."),
        Part("processes", alive, figures.WORKERS, "No process lives."),
        Part("dead", [redacted_view(each) for each in dead], DEAD, "No task is dead."),
    ]


def _say(parts: Parts) -> None:
    """On a terminal as it is drawn; elsewhere each row as a line, the part's name before it."""
    if show.on_terminal():
        from rich.console import Console

        console = Console(highlight=False)
        console.print(_drawn(parts, console))
        return
    for part in parts:
        for row in part.rows:
            told = (show.plain(column.value(row)) for column in part.columns)
            sys.stdout.write("\t".join([part.name, *told]) + "\n")
    sys.stdout.flush()


def _drawn(parts: Parts, console: Console) -> Group:
    from rich.console import Group
    from rich.text import Text

    lines: list[Any] = []
    for part in parts:
        lines.append(Text(part.name.upper(), style="bold cyan"))
        drawn = show.grid(part.rows, part.columns, width=console.width)
        lines += [drawn if part.rows else Text(part.empty, style="dim"), Text()]
    return Group(*lines)


def _why(task: TaskView) -> str:
    return (task.reason or "").split("\n")[0][:200]


TROUBLE = (Column("PostgreSQL does not answer", lambda told: told),)

FIGURES = (
    Column("actor", lambda a: a.name),
    Column("a minute", lambda a: round(a.ended / (SPAN / timedelta(minutes=1)), 1), right=True),
    Column("succeeded", lambda a: a.succeeded, right=True),
    Column("dead", lambda a: a.dead, right=True),
    Column("failures", lambda a: a.failures, right=True),
    Column("p50", lambda a: a.p50, show.age, right=True),
    Column("p95", lambda a: a.p95, show.age, right=True),
)

DEAD = (
    Column("id", lambda t: t.id),
    Column("actor", lambda t: t.actor),
    Column("finished", lambda t: t.finished_at),
    Column("why", _why),
)
