"""A secret is compared in constant time, or not at all: `==` tells by its time how far a guess was right."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.place import ROOT

#: What a secret, or what is made of one, is called.
SECRET = re.compile(
    r"secret|password|digest|hmac|signature|token|_mark\b|api_key|fence|bearer|credential", re.IGNORECASE
)
#: Compared by `==`, and no secret: where, what, and why an attacker learns nothing.
HARMLESS = {
    (
        "service/idempotency.py",
        "row.digest != self.digest",
    ): "of a body that the caller sent, under the caller's own key",
    ("service/orders.py", "order.digest != body.digest"): "of a body that the caller sent",
    (
        "service/access.py",
        "ApiKey.digest == digest",
    ): "SQL, over the SHA-256 of 256 random bits: nobody can aim at a prefix",
    ("service/browsers.py", "Browser.digest == digest"): "the same, of a session or a link",
}
SOURCES = [path for package in ("outbox", "actors", "service") for path in sorted((ROOT / package).rglob("*.py"))]


def comparisons(source: str) -> Iterator[str]:
    """Every `==` and `!=` with a name on either side that sounds like a secret; what the source itself says is none."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare) and any(isinstance(each, (ast.Eq, ast.NotEq)) for each in node.ops):
            sides = [node.left, *node.comparators]
            if any(isinstance(side, ast.Constant) for side in sides):
                continue
            if any(SECRET.search(name) for side in sides for name in names(side)):
                yield ast.unparse(node)


def names(side: ast.expr) -> Iterator[str]:
    """What the value itself is called: `b` of `a.b`, `f` of `f(x)`."""
    if isinstance(side, ast.Name):
        yield side.id
    elif isinstance(side, ast.Attribute):
        yield side.attr
    elif isinstance(side, ast.Call):
        yield from names(side.func)
    elif isinstance(side, ast.Subscript):
        yield from names(side.value)


def suspects(path: Path) -> set[tuple[str, str]]:
    return {(str(path.relative_to(ROOT)), found) for found in comparisons(path.read_text())}


def test_no_secret_is_compared_by_equality() -> None:
    found = set().union(*map(suspects, SOURCES))
    assert found - set(HARMLESS) == set()


def test_nothing_is_excused_that_is_not_there() -> None:
    found = set().union(*map(suspects, SOURCES))
    assert set(HARMLESS) - found == set()


@pytest.mark.parametrize(
    "guilty", ["given == self.secret", "hmac_of(body) != header", "x == settings.smtp_password.get_secret_value()"]
)
def test_the_search_finds_what_it_is_to_find(guilty: str) -> None:
    assert list(comparisons(f"if {guilty}: pass"))


def test_what_is_compared_is_compared_in_constant_time() -> None:
    using = [str(path.relative_to(ROOT)) for path in SOURCES if "hmac.compare_digest(" in path.read_text()]
    assert using == ["outbox/dashboard/gate.py", "actors/mail/return_path.py", "service/access.py"]
