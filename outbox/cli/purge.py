"""`outbox purge`: what is past its retention goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outbox.cli import show
from outbox.cli.bulk import ask
from outbox.cli.door import opened
from outbox.cli.exits import Exit, Trouble
from outbox.cli.options import DryRun, Json, Yes
from outbox.cli.show import Column

if TYPE_CHECKING:
    from outbox.purge import Step

__all__ = ["join"]


def join(root: typer.Typer) -> None:
    root.command("purge", rich_help_panel="Operators")(purge)


def purge(
    history_days: Annotated[
        int | None, typer.Option("--history-days", min=1, help="Default: OUTBOX_HISTORY_DAYS.")
    ] = None,
    dead_days: Annotated[int | None, typer.Option("--dead-days", min=1, help="Default: OUTBOX_DEAD_DAYS.")] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Remove succeeded, cancelled and dead tasks whose retention is over. Unfinished tasks are never touched.

    The audit is kept for as long as dead tasks are. Days of the history go as whole partitions, with a short lock
    timeout. Prints a line for each step: what, name, outcome, rows.
    """
    from outbox import purge as retention

    with opened() as door:
        days = timedelta(days=history_days or door.settings.history_days)
        dead = timedelta(days=dead_days or door.settings.dead_days)
        plan = retention.look(door.conn, door.ledger, history=days, dead=dead)
        show.note(
            f"{len(plan.partitions)} days of the history before {plan.history_before:%Y-%m-%d}, "
            f"and the dead and the audit before {plan.dead_before:%Y-%m-%d}"
        )
        if dry_run:
            _say(plan, plan.partitions, PARTITIONS, as_json=json)
            return
        if not yes:
            ask("Remove them for good?")
        steps = _carry_out(retention.purge(door.conn, door.ledger, plan), len(plan.partitions))
    _say({"steps": steps}, steps, STEPS, as_json=json)
    busy = [step.name for step in steps if step.outcome == "busy"]
    if busy:
        raise Trouble(Exit.TRY_LATER, f"Locked all the while: {', '.join(busy)}.", "Run outbox purge again later.")


def _carry_out(steps: Iterator[Step], partitions: int) -> list[Step]:
    """All steps; the batches of one table summed up."""
    done: dict[str, Step] = {}
    with show.progress("purge", partitions or None) as advance:
        for step in steps:
            before = done.get(step.name)
            done[step.name] = replace(step, rows=step.rows + (before.rows if before else 0))
            advance(1 if step.what == "partition" else 0)
    return list(done.values())


def _say(whole: Any, rows: Sequence[Any], columns: Sequence[Column], *, as_json: bool) -> None:
    if as_json:
        show.document(whole)
    else:
        show.table(rows, columns, empty="Nothing is over.")


PARTITIONS = (Column("partition", lambda name: name),)
STEPS = (
    Column("what", lambda step: step.what),
    Column("name", lambda step: step.name),
    Column("outcome", lambda step: step.outcome),
    Column("rows", lambda step: step.rows, right=True),
)
