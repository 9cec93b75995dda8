"""Nothing that comes from outside becomes code: no unpickling, no evaluation, no shell, no import by a name that was sent."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from deploy.local.place import ROOT

FORBIDDEN = {"eval", "exec", "compile", "__import__", "system", "popen", "Popen", "check_output", "run_module"}
MODULES = {"pickle", "marshal", "shelve", "dill", "subprocess", "code", "xml", "tarfile", "yaml"}
#: Modules are imported by name where an operator names one, where our own packages load lazily, and where the one name that
#: the source says may not be installed.
IMPORTS = {"outbox/__init__.py", "outbox/app.py", "outbox/tracing.py"}
SOURCES = [path for package in ("outbox", "actors", "service") for path in sorted((ROOT / package).rglob("*.py"))]


def found(path: Path) -> Iterator[str]:
    here = str(path.relative_to(ROOT))
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            named = [node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
            yield from (f"{here}: import {name}" for name in named if name.split(".")[0] in MODULES)
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            whole = ast.unparse(node.func)
            if name in FORBIDDEN or (whole.startswith("os.") and whole.split(".")[-1] in FORBIDDEN):
                yield f"{here}: {whole}"
            if whole.endswith("import_module") and here not in IMPORTS:
                yield f"{here}: {whole}"


def test_no_source_unpickles_evaluates_or_starts_a_program() -> None:
    assert [each for path in SOURCES for each in found(path)] == []
