"""`outbox schedules`: the cron schedules, their last and next fires; run one now, pause, resume."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from outbox.cli import show
from outbox.cli.door import now, opened, whoever
from outbox.cli.options import Json, Who
from outbox.cli.show import Column

if TYPE_CHECKING:
    from outbox.reads import ScheduleView

__all__ = ["join"]

schedules = typer.Typer(invoke_without_command=True, help="Cron schedules; run one now, pause, resume.")
Name = Annotated[str, typer.Argument(metavar="SCHEDULE", help="The schedule's name.")]


def join(root: typer.Typer) -> None:
    root.add_typer(schedules, name="schedules", rich_help_panel="Operators")


@schedules.callback()
def schedules_(ctx: typer.Context, json: Json = False) -> None:
    """Cron schedules; run one now, pause, resume. Without a command: list."""
    if ctx.invoked_subcommand is None:
        list_(json)


@schedules.command("list")
def list_(json: Json = False) -> None:
    """List the schedules.

    Columns: name, actor, queue, cron, zone, state (active, paused, retired), last fire, its outcome, next fire.
    """
    with opened() as door:
        found = [(each, _next(each)) for each in door.reader.schedules(door.conn)]
    if json:
        show.document({"items": [{**show.fields(each), "next_fire_at": following} for each, following in found]})
        return
    show.table(found, COLUMNS, empty="No schedule is declared: start outbox scheduler with --app MODULE.")


@schedules.command("show")
def show_(name: Name, json: Json = False) -> None:
    """Show a schedule: its next fires, and its last, the newest first.

    Columns of the last: fire, outcome, fired, the task's id.
    """
    from outbox.cron import ScheduleNotFound, next_fires

    with opened() as door:
        found = next((each for each in door.reader.schedules(door.conn) if each.name == name), None)
        if found is None:
            raise ScheduleNotFound(f"No schedule is named {name!r}.")
        fires, following = door.reader.fires(door.conn, name), next_fires(found, door.reader.now(door.conn))
    told = {**show.fields(found), "next_fire_at": next(iter(following), None), "next_fires": following}
    if json:
        show.document({**told, "fires": fires})
        return
    show.record({**told, "next_fires": " ".join(each.isoformat() for each in following)})
    show.table(fires, FIRES, empty="It has not fired yet.")


@schedules.command()
def run(name: Name, who: Who = None, json: Json = False) -> None:
    """Enqueue the schedule's task now, beside its calendar. Prints the task's id."""
    from outbox import cron

    with opened() as door, door.conn.transaction():
        task_id = cron.run_now(door.conn, door.ledger, name, who=who or whoever())
    if json:
        show.document({"schedule": name, "task_id": task_id})
    else:
        sys.stdout.write(f"{task_id}\n")


@schedules.command()
def pause(name: Name, who: Who = None, json: Json = False) -> None:
    """Let a schedule fire no more, until it is resumed. What it has enqueued is not touched."""
    from outbox import cron

    with opened() as door, door.conn.transaction():
        cron.pause(door.conn, door.ledger, name, who=who or whoever())
    if json:
        show.document({"schedule": name, "paused": True})
    show.note(f"Schedule {name} is paused.")


@schedules.command()
def resume(name: Name, who: Who = None, json: Json = False) -> None:
    """Let a paused schedule fire again, from now on."""
    from outbox import cron

    with opened() as door, door.conn.transaction():
        cron.resume(door.conn, door.ledger, name, who=who or whoever())
    if json:
        show.document({"schedule": name, "paused": False})
    show.note(f"Schedule {name} fires again.")


def _next(schedule: ScheduleView) -> datetime | None:
    """The next fire, as the scheduler will reckon it."""
    from outbox.cron import next_fires

    return next(iter(next_fires(schedule, now(), count=1)), None)


def _state(schedule: ScheduleView) -> str:
    return "retired" if schedule.retired else "paused" if schedule.paused else "active"


COLUMNS = (
    Column("name", lambda s: s[0].name),
    Column("actor", lambda s: s[0].actor),
    Column("queue", lambda s: s[0].queue),
    Column("cron", lambda s: s[0].cron),
    Column("zone", lambda s: s[0].zone),
    Column("state", lambda s: _state(s[0])),
    Column("last fire", lambda s: s[0].last_fire_at),
    Column("outcome", lambda s: s[0].last_outcome),
    Column("next fire", lambda s: s[1]),
)

FIRES = (
    Column("fire", lambda f: f.fire_at),
    Column("outcome", lambda f: f.outcome),
    Column("fired", lambda f: f.fired_at),
    Column("task", lambda f: f.task_id),
)
