"""`outbox queues`: how much waits where, and for how long; pause and resume."""

from __future__ import annotations

from typing import Annotated

import typer

from outbox.cli import show
from outbox.cli.door import opened, whoever
from outbox.cli.options import Json, Who
from outbox.cli.show import Column

__all__ = ["COLUMNS", "join"]

queues = typer.Typer(invoke_without_command=True, help="Queues: what waits in each; pause and resume.")
Name = Annotated[str, typer.Argument(metavar="QUEUE", help="The queue's name.")]


def join(root: typer.Typer) -> None:
    root.add_typer(queues, name="queues", rich_help_panel="Operators")


@queues.callback()
def queues_(ctx: typer.Context, json: Json = False) -> None:
    """Queues: what waits in each; pause and resume. Without a command: list."""
    if ctx.invoked_subcommand is None:
        list_(json)


@queues.command("list")
def list_(json: Json = False) -> None:
    """List the queues.

    Columns: queue, paused, workers, pending, published, running, scheduled, retrying, waiting, seconds for which
    the oldest due task has waited, epoch. Counts stop at 10000+.
    """
    with opened() as door:
        found = door.reader.queues(door.conn)
    if json:
        show.document({"items": found})
        return
    show.table(found, COLUMNS, empty="No queue yet: nothing was enqueued.")


@queues.command()
def pause(name: Name, who: Who = None, json: Json = False) -> None:
    """Start nothing more of a queue, until it is resumed. What runs, ends."""
    from outbox import operate

    with opened() as door, door.conn.transaction():
        unpublished = operate.pause_queue(door.conn, door.ledger, name, who=who or whoever())
    if json:
        show.document({"queue": name, "paused": True, "taken_back": unpublished})
    show.note(f"Queue {name} is paused; {unpublished} published tasks were taken back and wait.")


@queues.command()
def resume(name: Name, who: Who = None, json: Json = False) -> None:
    """Let a paused queue go on."""
    from outbox import operate

    with opened() as door, door.conn.transaction():
        operate.resume_queue(door.conn, door.ledger, name, who=who or whoever())
    if json:
        show.document({"queue": name, "paused": False})
    show.note(f"Queue {name} goes on.")


def _count(state: str) -> Column:
    wide = state in ("published", "retrying", "waiting")
    return Column(state, lambda q: q.counts.get(state, 0), right=True, width=100 if wide else 0)


COLUMNS = (
    Column("queue", lambda q: q.name),
    Column("paused", lambda q: q.paused, lambda paused: "[yellow]paused[/]" if paused else ""),
    Column("workers", lambda q: q.workers, right=True),
    *map(_count, ("pending", "published", "running", "scheduled", "retrying", "waiting")),
    Column("oldest due", lambda q: q.oldest_due, show.age, right=True),
    Column("epoch", lambda q: q.epoch, right=True, width=100),
)
