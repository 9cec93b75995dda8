"""The pages that commands and routes write, held against them."""

from deploy import commands_page, routes_page


def test_the_page_of_commands_is_what_the_commands_say() -> None:
    assert commands_page.PAGE.read_text() == commands_page.written(), "python -m deploy.commands_page writes it anew"


def test_the_page_of_routes_is_what_the_api_says() -> None:
    assert routes_page.PAGE.read_text() == routes_page.written(), "python -m deploy.routes_page writes it anew"
