"""`/docs`: the whole document on one page, that needs no script and nothing from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from fastapi.testclient import TestClient

from service.problems import KINDS


class Page(HTMLParser):
    """What is on a page: ids, links, what it loads, and what stands inline."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[tuple[str, str]] = []
        self.inline: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids += [given["id"]] if "id" in given else []
        if tag == "a":
            self.links.append(given["href"])
        elif "src" in given or "href" in given:
            self.loads.append((tag, given.get("src") or given["href"]))
        if tag in ("script", "style"):
            self.inline.append(tag)
        self.inline += [name for name in given if name == "style" or name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(running: TestClient) -> Page:
    return Page(running.get("/docs", headers={"Authorization": ""}).text)


def test_every_operation_schema_and_problem_is_on_it(page: Page, running: TestClient) -> None:
    document = running.get("/openapi.json").json()
    routes = [*document["paths"].items(), *document["webhooks"].items()]
    for path, methods in routes:
        for operation in methods.values():
            assert operation["operationId"] in page.ids
            assert operation["summary"] in page.text
        assert path in page.text
    assert {f"schema-{name}" for name in document["components"]["schemas"]} <= set(page.ids)
    assert {f"problem-{slug}" for slug in KINDS} <= set(page.ids)


def test_every_link_leads_somewhere(page: Page) -> None:
    assert len(set(page.ids)) == len(page.ids)
    inner = {link.removeprefix("#") for link in page.links if link.startswith("#")}
    assert inner <= set(page.ids)
    assert {link for link in page.links if not link.startswith("#")} == {"openapi.json"}


def test_examples_stand_as_they_can_be_sent(page: Page) -> None:
    assert 'curl -X POST "$API_URL/v1/signups"' in page.text
    assert '--json \'{"email": "ada@example.org", "name": "Ada Lovelace"}\'' in page.text


def test_nothing_is_inline_and_nothing_comes_from_elsewhere(page: Page, running: TestClient) -> None:
    assert page.inline == []
    assert page.loads == [("link", "docs/style.css")]
    style = running.get("/docs/style.css", headers={"Authorization": ""})
    assert (style.status_code, style.headers["content-type"]) == (200, "text/css; charset=utf-8")
    assert not re.search(r"url\(|@import|//", style.text)
    assert "prefers-color-scheme: dark" in style.text


def test_a_browser_is_told_to_load_nothing_but_the_style(running: TestClient) -> None:
    answer = running.get("/docs", headers={"Authorization": ""})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'"
    assert answer.headers["content-security-policy"] == policy
    assert answer.headers["x-content-type-options"] == "nosniff"
