"""docs/http-api.md, written from the API's own document: python -m deploy.routes_page"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from deploy.local.place import ROOT
from service.app import create_app
from service.settings import Settings

__all__ = ["PAGE", "written"]

PAGE = ROOT / "docs" / "http-api.md"

_HEAD = """# HTTP API

Of the service. JSON; an error is `application/problem+json`, and says at `/problems/…` what it means. Where a role stands, a key of
that role or of a higher one is wanted (reader, writer, operator, admin): `Authorization: Bearer KEY`. `Idempotency-Key` is honoured
on every POST that creates. The API describes itself, with every field, at `/docs` and `/openapi.json`. This page is written by
`python -m deploy.routes_page`, from that document.
"""


def written() -> str:
    """The page as it should be."""
    parts = defaultdict(list)
    for path, methods in create_app(Settings()).openapi()["paths"].items():
        for method, what in methods.items():
            parts[what["tags"][0]].append(_row(method.upper(), path, what))
    return "\n".join([_HEAD, *(line for tag, rows in parts.items() for line in _part(tag, rows))])


def _part(tag: str, rows: list[str]) -> Iterator[str]:
    yield f"## {tag.capitalize()}\n"
    yield from ("| route | role | |", "|---|---|---|", *rows, "")


def _row(method: str, path: str, what: dict[str, Any]) -> str:
    roles = ", ".join(role for each in what.get("security", []) for role in each.get("HTTPBearer", []))
    return f"| `{method} {path}` | {roles} | {_first_sentence(what.get('description') or what['summary'])} |"


def _first_sentence(text: str) -> str:
    told = " ".join(text.split()).split(". ")[0].rstrip(".").replace("|", "\\|")
    return f"{told}."


if __name__ == "__main__":
    PAGE.write_text(written())
