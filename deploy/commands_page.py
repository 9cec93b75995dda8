"""docs/cli.md, written from the commands themselves: python -m deploy.commands_page"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from deploy.local.place import ROOT
from outbox.cli.root import command
from service.__main__ import cli

__all__ = ["PAGE", "written"]

PAGE = ROOT / "docs" / "cli.md"

_HEAD = """# Command line

Data goes to stdout (a table on a terminal, tab-separated lines without a heading elsewhere, one JSON document with `--json`),
progress and messages to stderr. `outbox --help` lists the exit codes. What acts is written into the audit, under `--who` or
`user@host`. Which tasks: by ids, their beginnings, or [queries](queries.md). `--app MODULE`, before the command, or `OUTBOX_APP`
names the module with the broker and the actors. This page is written by `python -m deploy.commands_page`, from the commands.
"""
#: Told once, above, and what Typer adds by itself.
_KNOWN = {"--json", "--help", "--install-completion", "--show-completion"}


def written() -> str:
    """The page as it should be."""
    return "\n".join([_HEAD, *_group(command(), "outbox"), *_group(typer.main.get_command(cli), "python -m service")])


def _group(group: Any, path: str) -> Iterator[str]:
    """The commands of a group, then the groups within it, each under a heading of its own."""
    yield f"## `{path}`\n\n{_text(group)}\n"
    inner = list(group.commands.items())
    for name, each in inner:
        if not hasattr(each, "commands"):
            yield from _command(each, f"{path} {name}")
    for name, each in inner:
        if hasattr(each, "commands"):
            yield from _group(each, f"{path} {name}")


def _command(each: Any, path: str) -> Iterator[str]:
    given = "".join(f" {_argument(param)}" for param in each.params if param.param_type_name == "argument")
    yield f"### `{path}{given}`\n\n{_text(each)}\n"
    rows = [row for param in each.params for row in _row(param)]
    if rows:
        yield "\n".join(["| | |", "|---|---|", *rows, ""])


def _text(each: Any) -> str:
    """Its help without what is for terminals alone, each paragraph in one line."""
    paragraphs = (each.help or "").partition("\f")[0].split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs if not paragraph.startswith("\b"))


def _argument(param: Any) -> str:
    name = param.metavar or param.name.upper().replace("_", "-")
    if not param.required and not name.startswith("["):
        return f"[{name}…]" if param.nargs == -1 else f"[{name}]"
    return str(name)


def _row(param: Any) -> Iterator[str]:
    if param.hidden or _KNOWN & set(param.opts):
        return
    names = (
        ", ".join(f"`{name}`" for name in param.opts) if param.param_type_name == "option" else f"`{_argument(param)}`"
    )
    default = f" Default: `{param.default}`." if _is_told(param.default) else ""
    yield f"| {names} | {param.help or ''}{default} |".replace("ID|-|", "ID\\|-\\|")


def _is_told(default: object) -> bool:
    return default not in (None, False, "", ()) and isinstance(default, (str, int))


if __name__ == "__main__":
    PAGE.write_text(written())
