"""`outbox db`: the tables, by Alembic."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from outbox.cli import show
from outbox.cli.bulk import ask
from outbox.cli.door import settings
from outbox.cli.exits import Exit, Trouble
from outbox.cli.options import Json, Yes

__all__ = ["join"]

db = typer.Typer(
    no_args_is_help=True,
    help="The tables: alembic.ini of the current directory where there is one, else the outbox's own migrations.",
)


def join(root: typer.Typer) -> None:
    root.add_typer(db, name="db", rich_help_panel="Set-up")


@db.command()
def upgrade(
    to: Annotated[str, typer.Argument(metavar="[REVISION]", help="Until which revision.")] = "heads", json: Json = False
) -> None:
    """Apply the migrations that are missing."""
    from outbox import db as migrations

    config, read = migrations.configuration(), settings()
    before = migrations.revisions(config, read)
    migrations.upgrade(config, to=to)
    after = migrations.revisions(config, read)
    applied = [each for each in before.missing if each not in after.missing]
    if json:
        show.document({"applied": applied, "current": after.current})
    show.note(f"Applied {', '.join(applied)}." if applied else "Nothing was missing.")


@db.command()
def current(json: Json = False) -> None:
    """Say where the database stands: a line for each revision it has, then for each that is missing."""
    from outbox import db as migrations

    found = migrations.revisions(migrations.configuration(), settings())
    if json:
        show.document(found)
        return
    for revision in found.current:
        sys.stdout.write(f"{revision}\tapplied\n")
    for revision in found.missing:
        sys.stdout.write(f"{revision}\tmissing\n")


@db.command()
def check(json: Json = False) -> None:
    """Exit 0 only if every migration is applied and the tables are as the models say."""
    from outbox import db as migrations

    config = migrations.configuration()
    found = migrations.revisions(config, settings())
    differences = migrations.check(config) if found.at_head else []
    if json:
        show.document({"missing": found.missing, "differences": differences})
    if found.missing:
        raise Trouble(Exit.ERROR, f"Migrations are missing: {', '.join(found.missing)}.", "Run: outbox db upgrade")
    if differences:
        raise Trouble(
            Exit.ERROR, f"The tables differ from the models: {differences[0]}"
            + (f", and {len(differences) - 1} more." if differences[1:] else "."),
            "Somebody changed the tables by hand, or a migration is missing in this version.",
        )  # fmt: skip
    show.note("The tables are as they should be.")


@db.command()
def downgrade(to: Annotated[str, typer.Argument(metavar="REVISION", help="Down to which.")], yes: Yes = False) -> None:
    """Take migrations back. Drops tables, and the tasks in them."""
    from outbox import db as migrations

    config, read = migrations.configuration(), settings()
    if not yes:
        shown = read.sqlalchemy_url.render_as_string(hide_password=True)
        ask(f"Down to {to} on {shown}? Tables are dropped, with the tasks in them.")
    migrations.downgrade(config, to=to)
    show.note(f"Now at: {', '.join(migrations.revisions(config, read).current) or 'nothing'}.")


@db.command()
def sql(
    range: Annotated[str, typer.Argument(metavar="[FROM:]TO", help="Which migrations.")] = "heads",
) -> None:
    """Print the SQL of an upgrade, for somebody else to run. Needs no database."""
    from outbox import db as migrations

    migrations.sql(migrations.configuration(out=sys.stdout), range=range)
