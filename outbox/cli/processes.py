"""`outbox relay`, `worker`, `scheduler`: the processes of a deployment, configured by the environment."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from outbox.cli.door import settings

__all__ = ["Configured", "join"]

PANEL = "Processes"


class Process(TyperCommand):
    """A command whose help ends with the variables that configure it, as the settings describe them."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.epilog = variables()
        super().format_help(ctx, formatter)


class Configured(TyperGroup):
    """A group of commands that work on the tables alone: its help ends with the variables that say where they are."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.epilog = variables("database_url", "schema_name")
        super().format_help(ctx, formatter)


def join(root: typer.Typer) -> None:
    for name, function in (("relay", relay), ("worker", worker), ("scheduler", scheduler)):
        root.command(name, cls=Process, rich_help_panel=PANEL)(function)


def relay() -> None:
    """Publish due tasks to RabbitMQ, and make what was lost there due again.

    Any number may run. SIGTERM ends the batch in flight and exits 0.
    """
    from outbox import relay as process
    from outbox import tracing

    tracing.configure("relay")
    raise typer.Exit(process.main(settings()))


def worker(
    queues: Annotated[
        str | None, typer.Option("--queues", "-Q", help="Queues, separated by commas or spaces. Default: all.")
    ] = None,
    threads: Annotated[int, typer.Option("--threads", "-t", min=1, max=1024, help="Tasks that run at once.")] = 8,
) -> None:
    """Run the actors of the module that --app names.

    Any number may run. SIGTERM lets what runs finish, gives back what has not started, and exits 0.
    """
    from outbox import tracing
    from outbox import worker as process

    tracing.configure("worker")
    raise typer.Exit(process.main(settings(), (queues or "").replace(",", " ").split(), threads))


def scheduler() -> None:
    """Fire the cron schedules that the actors of --app declare.

    Any number may run: each tick fires once.
    """
    from outbox import cron as process
    from outbox import tracing

    tracing.configure("scheduler")
    raise typer.Exit(process.main(settings()))


def variables(*only: str) -> str:
    """The environment variables: name, default, meaning. All of them, or those of these settings."""
    from outbox.settings import Settings

    lines = ["Environment variables (with their defaults; durations in seconds):"]
    for name, field in Settings.model_fields.items():
        if only and name not in only:
            continue
        variable = str(field.validation_alias or f"OUTBOX_{name.upper()}")
        shown = "" if field.default is None or "_URL" in variable else f" ({_default(field.default)})"
        lines.append(f"  {variable}{shown}  {field.description or ''}".rstrip())
    return "\n".join(lines)


def _default(value: Any) -> str:
    seconds = getattr(value, "total_seconds", None)
    return f"{seconds():g}" if seconds else str(value)
