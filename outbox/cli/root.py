"""The tree of commands, and how an error becomes a sentence and an exit code."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from outbox.cli import (
    audit,
    bulks,
    concerns,
    database,
    doctor,
    failures,
    figures,
    processes,
    purge,
    queues,
    schedules,
    tasks,
    top,
)
from outbox.cli.door import given
from outbox.cli.exits import EPILOG, Exit, Told, tell, told_of

__all__ = ["command"]


class Root(TyperGroup):
    """Turns what went wrong into one sentence, a next step and an exit code; `--debug` shows the traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except Exception as error:
            _leave(error)


def _leave(error: Exception) -> None:
    if type(error).__module__.startswith(("typer", "click")):  # wrong usage: Typer says it best
        raise error
    told = None if given.debug else told_of(error)
    if told is not None:
        tell(told)
        raise typer.Exit(told.code) from None
    if given.debug:
        raise error
    tell(Told(Exit.ERROR, f"{type(error).__name__}: {error}", "Run it again with --debug: outbox --debug …"))
    raise typer.Exit(Exit.ERROR) from None


root = typer.Typer(
    cls=Root,
    name="outbox",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@root.callback()
def options(
    app: Annotated[
        str | None, typer.Option("--app", envvar="OUTBOX_APP", help="Module that holds the broker and the actors.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    _version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=lambda wanted: _say_version(wanted), help="The version."),
    ] = False,
) -> None:
    """Background tasks that cannot be lost."""
    given.app, given.debug = app, debug


def _say_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        sys.stdout.write(f"outbox {version('dramatiq-outbox')}\n")
        raise typer.Exit


def command() -> Any:
    """The whole command, ready to be run."""
    return typer.main.get_command(root)


for each in (
    *(processes, database, concerns, top, tasks, bulks, queues, schedules, failures, figures, audit, doctor, purge),
):
    each.join(root)
