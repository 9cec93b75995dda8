"""`outbox db`: the tables, by Alembic."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from outbox.cli import show
from outbox.cli.bulk import ask
from outbox.cli.door import settings
from outbox.cli.exits import Exit, Trouble
from outbox.cli.options import Json, Yes
from outbox.cli.processes import Configured

__all__ = ["join"]

db = typer.Typer(
    cls=Configured,
    no_args_is_help=True,
    help="The tables: alembic.ini of the current directory if it includes the outbox's, else the outbox's alone.",
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
    with _told_as_they_run():
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
def downgrade(
    to: Annotated[str, typer.Argument(metavar="REVISION", help="Down to which.")], yes: Yes = False, json: Json = False
) -> None:
    """Take migrations back. Drops tables, and the tasks in them."""
    from outbox import db as migrations

    config, read = migrations.configuration(), settings()
    before = migrations.revisions(config, read)
    if not yes:
        shown = read.sqlalchemy_url.render_as_string(hide_password=True)
        ask(f"Down to {to} on {shown}? Tables are dropped, with the tasks in them.")
    with _told_as_they_run():
        migrations.downgrade(config, to=to)
    after = migrations.revisions(config, read)
    if json:
        taken_back = [each for each in reversed(after.missing) if each not in before.missing]
        show.document({"taken_back": taken_back, "current": after.current})
    show.note(f"Now at: {', '.join(after.current) or 'nothing'}.")


@db.command()
def sql(
    range: Annotated[str, typer.Argument(metavar="[FROM:]TO", help="Which migrations.")] = "heads",
) -> None:
    """Print the SQL of an upgrade, for somebody else to run. Needs no database."""
    from outbox import db as migrations

    migrations.sql(migrations.configuration(out=sys.stdout), range=range)


class _Progress(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.msg.startswith("Running"):
            show.note(record.getMessage())


@contextmanager
def _told_as_they_run() -> Iterator[None]:
    """Each migration on stderr as it begins, in Alembic's words; an application's env.py may have it log them itself."""
    log, progress = logging.getLogger("alembic.runtime.migration"), _Progress()
    log.addHandler(progress)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(progress)
