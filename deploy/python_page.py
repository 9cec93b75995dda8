"""docs/python-api.md, written from the docstrings of what users import: python -m deploy.python_page"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import outbox
import outbox.dashboard
import outbox.fastapi
import outbox.testing
from deploy.local.place import ROOT

__all__ = ["PAGE", "PARTS", "written"]

PAGE = ROOT / "docs" / "python-api.md"

_HEAD = """# Python API

What users import, beside `outbox.Settings` ([settings](settings.md)), `outbox.metadata` (the tables) and the panels of the
[dashboard](dashboard.md). Everything else may change. How it is used: [what can be said of a task](tasks.md). This page is written
by `python -m deploy.python_page`, from the docstrings.
"""
PARTS: dict[str, tuple[Any, list[str]]] = {
    "Enqueue": (outbox, ["enqueue", "Task", "hold_lane", "free_lane"]),
    "FastAPI": (outbox.fastapi, ["outbox_tasks", "outbox_depends", "OutboxTasks", "check_routes"]),
    "Broker and actors": (outbox, ["OutboxBroker", "current_run", "Run", "Snooze", "Permanent"]),
    "Errors": (
        outbox,
        [
            "OutboxError", "ArgumentError", "NoTransaction", "CommitMissing", "ScopeError", "ConfigurationError",
            "TaskNotFound", "WrongState",
        ],
    ),
    "Tests": (
        outbox.testing,
        ["captured", "Captured", "CapturedTask", "Report", "assert_enqueued", "refute_enqueued", "run_enqueued", "drain"],
    ),
    "Dashboard": (outbox.dashboard, ["Dashboard", "basic"]),
}  # fmt: skip
#: Public for other parts of the house, or for Dramatiq, and no concern of users.
_INSIDE = {
    "failing", "has_session", "starts", "record", "request_cancel", "keep", "commits", "committed", "add", "consume",
    "declare_queue", "declare_actor", "after_fork",
}  # fmt: skip
_ENTRY = re.compile(r"^    (?! )(?P<name>[\w, ]+): (?P<text>.+(?:\n {8}.+)*)", re.MULTILINE)


def written() -> str:
    """The page as it should be."""
    return "\n".join([_HEAD, *(line for title, (home, names) in PARTS.items() for line in _part(title, home, names))])


def _part(title: str, home: Any, names: list[str]) -> Iterator[str]:
    yield f"## {title}\n\n`from {home.__name__} import …`\n"
    for name in names:
        yield from _entry(name, getattr(home, name))


def _entry(name: str, what: Any) -> Iterator[str]:
    node = ast.parse(textwrap.dedent(inspect.getsource(what))).body[0]
    yield f"### `{name}`\n"
    if isinstance(node, ast.ClassDef):
        yield from _class(name, node)
    elif isinstance(node, ast.FunctionDef):
        yield f"```python\n{_signature(node, name)}\n```\n\n{_prose(node)}\n"


def _class(name: str, node: ast.ClassDef) -> Iterator[str]:
    methods = [each for each in node.body if isinstance(each, ast.FunctionDef)]
    made = [each for each in methods if each.name == "__init__"]
    if made:
        yield f"```python\n{_signature(made[0], name)}\n```\n"
    yield f"{_prose(node)}\n"
    for each in methods:
        if not each.name.startswith("_") and each.name not in _INSIDE and ast.get_docstring(each):
            yield f"```python\n{_signature(each, f'.{each.name}')}\n```\n\n{_prose(each)}\n"


def _signature(node: ast.FunctionDef, name: str) -> str:
    """As it was written, without `self`; one argument a line where it is long."""
    given = re.sub(r"(?<=[\w\]])=(?=\S)", " = ", re.sub(r"^self(, )?", "", ast.unparse(node.args)))
    answer = f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""
    if len(line := f"{name}({given}){answer}") <= 120:
        return line
    arguments = re.split(r", (?=\*|\w+:)", given)
    return "\n".join([f"{name}(", *(f"    {argument}," for argument in arguments), f"){answer}"])


def _prose(node: ast.FunctionDef | ast.ClassDef) -> str:
    """A docstring as Markdown: paragraphs, examples as code, `Args:` and `Raises:` as lists."""
    parts = (ast.get_docstring(node) or "").split("\n\n")
    return "\n\n".join(_paragraph(part) for part in parts)


def _paragraph(part: str) -> str:
    head, _, rest = part.partition("\n")
    if head in ("Args:", "Raises:", "Returns:"):
        listed = [f"* `{each['name']}`: {' '.join(each['text'].split())}" for each in _ENTRY.finditer(rest)]
        return "\n".join([f"{head}\n", *listed])
    if part.startswith("    "):
        return f"```python\n{textwrap.dedent(part)}\n```"
    return part


if __name__ == "__main__":
    PAGE.write_text(written())
