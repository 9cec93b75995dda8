"""Options that mean the same in every command."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["DryRun", "Json", "Who", "Yes"]

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Who = Annotated[str | None, typer.Option("--who", help="Who is written into the audit. Default: user@host.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; do nothing.")]
