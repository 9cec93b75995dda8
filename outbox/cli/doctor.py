"""`outbox doctor`: is everything in order, and if not, what to do."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from outbox.cli import show
from outbox.cli.door import settings
from outbox.cli.exits import Exit, Trouble
from outbox.cli.options import Json
from outbox.cli.show import Column

if TYPE_CHECKING:
    from outbox.doctor import Finding

__all__ = ["join"]

_MARKS = {"ok": "✓", "warning": "!", "failed": "✗", "skipped": "–"}
_STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red", "skipped": "dim"}


def join(root: typer.Typer) -> None:
    root.command("doctor", rich_help_panel="Operators")(doctor)


def doctor(json: Json = False) -> None:
    """Check settings, servers, processes, queues and tables; say what to do about each trouble.

    Exits 0 unless something failed; warnings do not count. 69: a server cannot be reached.
    Columns: ok, warning or failed; what; what was found; what to do.
    """
    from outbox.doctor import examine

    findings = []
    for finding in examine(settings()):
        findings.append(finding)
        if not json and show.on_terminal():
            _say(finding)
    if json:
        show.document({"ok": all(each.status != "failed" for each in findings), "findings": findings})
    elif not show.on_terminal():
        show.table(findings, COLUMNS, empty="")
    failed = [each for each in findings if each.status == "failed"]
    if failed:
        unreachable = any(each.name in ("PostgreSQL", "RabbitMQ") for each in failed)
        raise Trouble(
            Exit.UNAVAILABLE if unreachable else Exit.ERROR,
            f"{len(failed)} of {len(findings)} checks failed.", failed[0].mend,
        )  # fmt: skip


def _say(finding: Finding) -> None:
    from rich.console import Console
    from rich.markup import escape

    style, mark = _STYLES[finding.status], _MARKS[finding.status]
    console = Console(highlight=False)
    console.print(f"[{style}]{mark}[/] {escape(finding.name):<16} {escape(show.plain(finding.told))}", soft_wrap=True)
    if finding.mend:
        console.print(f"  [dim]→ {escape(finding.mend)}[/]", soft_wrap=True)
    sys.stdout.flush()


COLUMNS = (
    Column("status", lambda f: f.status),
    Column("name", lambda f: f.name),
    Column("told", lambda f: f.told),
    Column("mend", lambda f: f.mend),
)
