"""`outbox attention`: what is not as it should be, each with what mends it."""

from __future__ import annotations

import typer

from outbox.cli import show
from outbox.cli.door import opened
from outbox.cli.exits import Exit
from outbox.cli.options import Json
from outbox.cli.show import Column

__all__ = ["CONCERNS", "join"]


def join(root: typer.Typer) -> None:
    root.command("attention", rich_help_panel="Operators")(attention)


def attention(json: Json = False) -> None:
    """Say what needs attention, the serious first. Exit 1 when something is serious, else 0: for a monitor to ask.

    Columns: severity, sentence, since, what mends it, tasks that it is about (a query), section of the runbooks.
    """
    from outbox.attention import attention as concerns

    with opened() as door:
        found = concerns(door.conn, schema=door.reader.schema)
    if json:
        show.document({"items": found})
    else:
        show.table(found, CONCERNS, empty="All is clear.")
    if any(each.severity == "serious" for each in found):
        raise typer.Exit(Exit.ERROR)


def _severity(word: str) -> str:
    return f"[bold red]{word}[/]" if word == "serious" else f"[yellow]{word}[/]"


CONCERNS = (
    Column("severity", lambda c: c.severity, _severity),
    Column("what", lambda c: c.told),
    Column("since", lambda c: c.since, width=120),
    Column("mend", lambda c: c.mend),
    Column("tasks", lambda c: c.query, width=160),
    Column("runbook", lambda c: c.runbook, width=160),
)
