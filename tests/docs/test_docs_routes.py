"""Routes that a page names, held against the API's own document."""

import re
from pathlib import Path

import pytest
from pages import PAGES, rows

from service.app import create_app
from service.settings import Settings

DOCUMENT = create_app(Settings()).openapi()
#: What `GET /v1/…` may be followed by, such as a query, is not part of the route.
_ROUTE = re.compile(r"`(GET|POST|PATCH|DELETE) (/v1/[\w/{}-]*)")


def known() -> dict[tuple[str, str], list[str]]:
    """(method, path with nameless parts) to the roles that may call it."""
    return {
        (method.upper(), re.sub(r"{\w+}", "{}", path)): [
            role for each in what.get("security", []) for role in each["HTTPBearer"]
        ]
        for path, methods in DOCUMENT["paths"].items()
        for method, what in methods.items()
    }


def named(text: str) -> list[tuple[str, str]]:
    return [(method, re.sub(r"{\w+}", "{}", path)) for method, path in _ROUTE.findall(text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_route_on_a_page_exists(page: Path) -> None:
    assert set(named(page.read_text())) - set(known()) == set()


def test_the_roles_of_what_can_be_looked_at_and_sent_again_are_those_of_the_api() -> None:
    for _, cell, told in rows("webhooks", "to"):
        assert [known()[route] for route in named(cell)] == [[role] for role in told.split(", ")]
