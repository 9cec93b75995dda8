"""The pages that commands, routes and docstrings write, held against them."""

import outbox
import outbox.fastapi
import outbox.testing
from deploy import commands_page, python_page, routes_page


def test_the_page_of_commands_is_what_the_commands_say() -> None:
    assert commands_page.PAGE.read_text() == commands_page.written(), "python -m deploy.commands_page writes it anew"


def test_the_page_of_routes_is_what_the_api_says() -> None:
    assert routes_page.PAGE.read_text() == routes_page.written(), "python -m deploy.routes_page writes it anew"


def test_the_page_of_the_python_api_is_what_the_docstrings_say() -> None:
    assert python_page.PAGE.read_text() == python_page.written(), "python -m deploy.python_page writes it anew"


def test_what_users_import_is_on_the_page_of_the_python_api() -> None:
    told = {name for _, names in python_page.PARTS.values() for name in names}
    elsewhere = {"Settings", "metadata", "Ran"}  # settings.md; Alembic's; of a Report
    assert {*outbox.__all__, *outbox.fastapi.__all__, *outbox.testing.__all__} - elsewhere <= told
