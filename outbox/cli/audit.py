"""`outbox audit`: what people did."""

from __future__ import annotations

from typing import Annotated

import typer

from outbox.cli import show
from outbox.cli.door import opened
from outbox.cli.options import Json
from outbox.cli.show import Column

__all__ = ["join"]

audit = typer.Typer(no_args_is_help=True, help="What people did: who, what, to what, when.")


def join(root: typer.Typer) -> None:
    root.add_typer(audit, name="audit", rich_help_panel="Operators")


@audit.command("list")
def list_(
    who: Annotated[str | None, typer.Option("--who", help="Done by them.")] = None,
    action: Annotated[str | None, typer.Option("--action", help="Such as retry, cancel, pause queue.")] = None,
    subject: Annotated[
        str | None, typer.Option("--subject", help="Done to it: a task's id, queue/NAME, schedule/NAME.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="How many, the newest first.")] = 50,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Go on where a page ended.")] = None,
    json: Json = False,
) -> None:
    """List what was done, the newest first.

    Columns: id, at, who, action, subject, detail.
    """
    from outbox.redaction import usual

    with opened() as door:
        found, following = door.reader.audit(
            door.conn, who=who, action=action, subject=subject, cursor=cursor, limit=limit
        )
    lines = [{**show.fields(each), "detail": usual().value(each.detail)} for each in found]
    if json:
        show.document({"items": lines, "next_cursor": following})
        return
    show.table(lines, COLUMNS, empty="Nobody did anything of that kind.")
    if following:
        show.note(f"More: --cursor {following}")


COLUMNS = (
    Column("id", lambda a: a["id"], right=True),
    Column("at", lambda a: a["at"]),
    Column("who", lambda a: a["who"]),
    Column("action", lambda a: a["action"]),
    Column("subject", lambda a: a["subject"]),
    Column("detail", lambda a: a["detail"], width=120),
)
