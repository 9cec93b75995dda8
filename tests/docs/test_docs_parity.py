"""What can be done at each door stands in one list: no act, no command, no operation is missing there, and none is made up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deploy.parity_page import PAGE, PARTS, written
from outbox.cli.root import command
from service.app import create_app
from service.openapi import operations
from service.settings import Settings

APP = create_app(Settings(database_url="postgresql://127.0.0.1:1/none"))
WAYS = [way for ways in PARTS.values() for way in ways]


def commands(node: Any, path: str = "outbox") -> Iterator[str]:
    below = getattr(node, "commands", None)
    if not below:
        yield path
        return
    for name, each in below.items():
        yield from commands(each, f"{path} {name}")


def plain(path: str) -> str:
    return path.replace(":path}", "}")


def test_the_page_is_what_the_list_says() -> None:
    assert PAGE.read_text() == written(), "python -m deploy.parity_page writes it anew"


def test_every_page_and_act_of_the_dashboard_is_in_the_list() -> None:
    dashboard = APP.state.dashboard
    there = {f"POST {plain(path)}" for path in dashboard.acts()} | {f"GET {plain(path)}" for path in dashboard.views()}
    assert {way.dashboard for way in WAYS if way.dashboard} == there


def test_every_command_is_in_the_list() -> None:
    assert {each for way in WAYS for each in way.cli} == set(commands(command()))


def test_every_operation_of_the_api_is_in_the_list() -> None:
    there = {f"{method.upper()} {path}" for path, method, _ in operations(APP.openapi())}
    assert {each for way in WAYS for each in way.api} == there


def test_what_an_operator_does_on_the_dashboard_is_done_over_http_too_and_what_is_no_endpoint_on_the_command_line() -> (
    None
):
    for title, ways in PARTS.items():
        for way in ways:
            if way.dashboard.startswith("POST "):
                assert way.api, way.wanted
                assert way.cli or title in ("Endpoints and deliveries", "Mail"), way.wanted
