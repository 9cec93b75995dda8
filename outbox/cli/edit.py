"""`outbox tasks edit`: a dead or cancelled task runs again with other arguments."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from outbox.cli import show
from outbox.cli.door import opened, whoever
from outbox.cli.exits import Exit, Trouble
from outbox.cli.options import Json, Who

__all__ = ["edit"]


def edit(
    id: Annotated[str, typer.Argument(metavar="ID", help="The task's id, or its beginning.")],
    args: Annotated[str | None, typer.Option("--args", metavar="JSON", help="The arguments by position, all.")] = None,
    kwargs: Annotated[str | None, typer.Option("--kwargs", metavar="JSON", help="Those by name, all.")] = None,
    who: Who = None,
    as_json: Json = False,
) -> None:
    """Run a dead or cancelled task again with other arguments: as a new task, whose id is printed.

    The old one stays as it ended; the audit of each names the other. A value given as [redacted] stays what it was.
    """
    from outbox import operate

    new_args, new_kwargs = _read("--args", args, list), _read("--kwargs", kwargs, dict)
    with opened() as door:
        old = door.reader.resolve(door.conn, id)
        with door.conn.transaction():
            new = operate.edit_and_retry(
                door.conn, door.ledger, old, who=who or whoever(), args=new_args, kwargs=new_kwargs
            )
    if as_json:
        show.document({"id": new, "edited_from": old})
    else:
        sys.stdout.write(f"{new}\n")


def _read(option: str, text: str | None, kind: type[Any]) -> Any:
    if text is None:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, kind):
        raise Trouble(Exit.USAGE, f"{option} must be {'a JSON array' if kind is list else 'a JSON object'}.")
    return found
