"""`outbox failures`: what fails, by its kind; all tasks of a kind run again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from outbox.cli import bulk, show, tasks
from outbox.cli.door import now, opened
from outbox.cli.exits import Exit, Trouble
from outbox.cli.options import DryRun, Json, Who, Yes
from outbox.cli.show import Column
from outbox.cli.times import ago

if TYPE_CHECKING:
    from outbox.failures import FailureGroup

__all__ = ["join"]

failures = typer.Typer(no_args_is_help=True, help="Look at what fails, by its kind; retry a kind.")


def join(root: typer.Typer) -> None:
    root.add_typer(failures, name="failures", rich_help_panel="Operators")


Kind = Annotated[str, typer.Argument(metavar="FAILURE", help="Its twelve digits, as the list shows them.")]


@failures.command("list")
def list_(
    since: Annotated[str | None, typer.Option("--since", help="Failed since: 2h, 1d12h, ISO 8601.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="How many, the largest first.")] = 50,
    json: Json = False,
) -> None:
    """List the kinds of failure of dead and retrying tasks, the largest first.

    Columns: failure, tasks, dead, retrying, first, last, actors, error of one of them.
    """
    from outbox.failures import Failures

    try:
        instant = ago(since, now()) if since else None
    except ValueError as error:
        raise Trouble(Exit.USAGE, f"--since: {error}.") from None
    with opened() as door:
        kinds = Failures(door.reader.schema)
        found = kinds.groups(door.conn, since=instant, limit=limit, within=bulk.PATIENCE)
    if json:
        show.document({"items": [_object(each) for each in found]})
        return
    show.table(found, COLUMNS, empty="Nothing fails.")


@failures.command("show")
def show_(failure: Kind, json: Json = False) -> None:
    """Show a kind of failure: how many tasks have it, since when, and one of them with its traceback."""
    from outbox.failures import Failures

    with opened() as door:
        found = Failures(door.reader.schema).group(door.conn, failure, within=bulk.PATIENCE)
    if found is None:
        raise Trouble(Exit.NOT_FOUND, f"No task failed like {failure}.", "outbox failures list shows what there is.")
    if json:
        show.document(_object(found))
        return
    told = {name: value for name, value in _object(found).items() if name not in ("traceback", "logs")}
    show.record({**told, "hours": " ".join(map(str, found.hours))})
    for name, text in (("traceback", found.traceback), ("logs", found.logs)):
        if not show.on_terminal():
            show.record({name: text})
        elif text:
            show.record({name: ""})
            show.block(text)


@failures.command()
def retry(failure: Kind, yes: Yes = False, dry_run: DryRun = False, who: Who = None, json: Json = False) -> None:
    """Run the dead tasks of a kind now: the same as `outbox tasks retry 'state:dead failure:…'`."""
    tasks.retry([f"state:dead failure:{failure}"], yes=yes, dry_run=dry_run, who=who, json=json)


def _object(group: FailureGroup) -> dict[str, Any]:
    return {**show.fields(group), "count": group.count.number, "at_least": group.count.at_least}


COLUMNS = (
    Column("failure", lambda f: f.failure),
    Column("tasks", lambda f: str(f.count), right=True),
    Column("dead", lambda f: f.dead, right=True),
    Column("retrying", lambda f: f.retrying, right=True),
    Column("first", lambda f: f.first_at, width=160),
    Column("last", lambda f: f.last_at, width=120),
    Column("actors", lambda f: ",".join(f.actors), width=100),
    Column("error", lambda f: f.error),
)
