"""The command `outbox`: what operators do at a terminal, and how each process is started.

Nothing heavy is imported before a command needs it: `--help` answers at once.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """The entry point of the installed command."""
    from outbox.cli.root import command

    command().main(args=sys.argv[1:], prog_name="outbox")
