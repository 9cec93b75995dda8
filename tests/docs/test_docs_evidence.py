"""Pages that name a file as their evidence."""

import ast
import re
from pathlib import Path

import pytest
from pages import PAGES

from deploy.local.place import ROOT

_FILE = re.compile(r"`((?:tests|actors|service|outbox|deploy|bench|migrations)/[\w./@-]*)(?:::\w+)*`")
_TEST = re.compile(r"`(tests/[\w./-]+)::((?:\w+::)?\w+)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    assert [name for name in _FILE.findall(page.read_text()) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_is_one(page: Path) -> None:
    assert [name for file, name in _TEST.findall(page.read_text()) if name not in declared_in(ROOT / file)] == []


def declared_in(file: Path) -> set[str]:
    body = ast.parse(file.read_text()).body
    inner = {
        f"{kind.name}::{each.name}" for kind in body if isinstance(kind, ast.ClassDef) for each in _functions(kind.body)
    }
    return {each.name for each in _functions(body)} | inner


def _functions(body: list[ast.stmt]) -> list[ast.FunctionDef]:
    return [each for each in body if isinstance(each, ast.FunctionDef)]
