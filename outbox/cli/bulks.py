"""`outbox bulk`: acts on many tasks that a relay carries out; begun by `outbox tasks … --background`."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from outbox.cli import show
from outbox.cli.bulk import PATIENCE, Asked, ask, check_which, tell_of_look_back
from outbox.cli.door import Door, opened, whoever
from outbox.cli.exits import Exit, Trouble
from outbox.cli.options import Json, Who
from outbox.cli.show import Column

if TYPE_CHECKING:
    from outbox.bulk import Action, Bulk, Preview

__all__ = ["in_background", "join"]

bulk = typer.Typer(no_args_is_help=True, help="Acts on many tasks, carried out in the background.")

#: Seconds between two looks of `watch`.
PACE = 0.5

Id = Annotated[str, typer.Argument(help="The act's id, or its beginning.")]


def join(root: typer.Typer) -> None:
    root.add_typer(bulk, name="bulk", rich_help_panel="Operators")


def in_background(
    action: Action,
    asked: Asked,
    *,
    everything: bool,
    yes: bool,
    dry_run: bool,
    who: str | None,
    as_json: bool,
    reason: str | None = None,
    run_at: datetime | None = None,
    delay: timedelta | None = None,
    rate: int | None = None,
) -> None:
    """Begin it, and print its id. It goes on without this command, wherever a relay runs."""
    from outbox import bulk as acts

    check_which(action, asked, everything)
    if asked.ids:
        raise Trouble(Exit.USAGE, "--background takes a query, no ids.", "As part of a query an id is written id:01a2.")
    with opened() as door:
        seen = acts.preview(door.conn, action, asked.query, schema=door.ledger.schema, within=PATIENCE)
        _tell(action, seen)
        tell_of_look_back(acts.whole(action, asked.query))
        if dry_run:
            return
        if not yes:
            ask(f"{action} {seen.count} tasks, in the background?")
        with door.conn.transaction():
            begun = acts.begin(
                door.conn, door.ledger, action=action, query=asked.query, who=who or whoever(), reason=reason, run_at=run_at,
                delay=delay, rate=rate, everything=everything, within=PATIENCE,
            )  # fmt: skip
        _tell_of_relays(door)
    if as_json:
        show.document(begun)
    else:
        show.table([begun.id], [Column("id", lambda id: id)], empty="")
    show.note(f"How it goes: outbox bulk watch {begun.id}")


@bulk.command("list")
def list_(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="How many, the newest first.")] = 50,
    json: Json = False,
) -> None:
    """List acts, the newest first. Columns: id, action, state, matched, done, refused, who, created, query."""
    from outbox.bulk import Bulks

    with opened() as door:
        found = Bulks(door.ledger.schema).all(door.conn, limit=limit)
    if json:
        show.document({"items": found})
    else:
        show.table(found, COLUMNS, empty="There is no act on many tasks.")


@bulk.command("show")
def show_(id: Id, json: Json = False) -> None:
    """Show an act, and how far it is."""
    with opened() as door:
        _say(_found(door, id), json)


@bulk.command()
def watch(id: Id, json: Json = False) -> None:
    """Show how it goes on, until it ends. To stop looking stops nothing; `abort` does.

    Leaves with 0 when it was done to all, 6 when not to all, 4 when to none, 1 when it was aborted or failed.
    """
    with opened() as door:
        seen = _found(door, id)
        if seen.state == "running":
            _tell_of_relays(door)
        total = None if seen.matched.at_least else seen.matched.number
        with show.progress(seen.action, total) as advance:
            advance(seen.seen)
            while seen.state == "running":
                time.sleep(PACE)
                before, seen = seen.seen, _look(door, seen.id)
                advance(seen.seen - before)
    _say(seen, json)
    code = _code(seen)
    if code != Exit.OK:
        raise Trouble(code, f"It is {seen.state}: {seen.done} done, {seen.refused} refused. {seen.error or ''}".strip())


@bulk.command()
def abort(id: Id, who: Who = None, json: Json = False) -> None:
    """Do nothing more of it. What was done stays done."""
    from outbox import bulk as acts

    with opened() as door:
        found = _found(door, id)
        with door.conn.transaction():
            aborted = acts.abort(door.conn, door.ledger, found.id, who=who or whoever())
    _say(aborted, json)


# ---------------------------------------------------------------------- looking


def _found(door: Door, text: str) -> Bulk:
    from outbox.bulk import Bulks

    digits = text.lower().replace("-", "")
    found = [each for each in Bulks(door.ledger.schema).all(door.conn, limit=10_000) if each.id.hex.startswith(digits)]
    if not digits or not found:
        raise Trouble(Exit.NOT_FOUND, f"No act's id begins with {text!r}.", "outbox bulk list shows what there is.")
    if len(found) > 1:
        raise Trouble(Exit.USAGE, f"{text} fits more than one act: give more digits.")
    return found[0]


def _look(door: Door, id: UUID) -> Bulk:
    from outbox.bulk import Bulks

    return Bulks(door.ledger.schema).one(door.conn, id)


def _tell(action: Action, seen: Preview) -> None:
    some = f", for example {seen.sample[0].id}" if seen.sample else ""
    show.note(f"{seen.count} tasks to {action}{some}: {seen.query}")


def _tell_of_relays(door: Door) -> None:
    if not any(each.kind == "relay" and each.alive for each in door.reader.workers(door.conn)):
        show.note("No relay runs: it goes on as soon as one does.")


def _say(seen: Bulk, as_json: bool) -> None:
    if as_json:
        show.document(seen)
        return
    told: dict[str, Any] = {**show.fields(seen), "matched": str(seen.matched)}
    show.record(told)


def _code(seen: Bulk) -> Exit:
    if seen.state != "done":
        return Exit.ERROR
    if not seen.refused:
        return Exit.OK
    return Exit.PARTLY if seen.done else Exit.REFUSED


COLUMNS = (
    Column("id", lambda b: b.id),
    Column("action", lambda b: b.action),
    Column("state", lambda b: b.state),
    Column("matched", lambda b: str(b.matched), right=True),
    Column("done", lambda b: b.done, right=True),
    Column("refused", lambda b: b.refused, right=True, width=100),
    Column("who", lambda b: b.who, width=140),
    Column("created", lambda b: b.created_at, width=120),
    Column("query", lambda b: b.query, width=160),
)
