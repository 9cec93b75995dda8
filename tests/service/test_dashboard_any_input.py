"""Drawn at random: whatever stands in an address, a form, a cookie or a header, the dashboard answers, and never with 5xx.

Pages and acts are those that the dashboard itself lists, and the names of fields are those that its source reads: new ones
are tried without anyone remembering.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service_eyes import ADMIN, Database, settings_for

from outbox.dashboard import Dashboard
from service import dashboard
from service.app import create_app

ROOT = Path(__file__).parents[2]
SOURCES = [
    *(ROOT / "outbox/dashboard").rglob("*.py"),
    *(ROOT / "service/panels").rglob("*.py"),
    ROOT / "service/browsers.py",
]
_READ = re.compile(r"""(?:params\.get|given|form\.get|_json|_instant)\((?:ask, )?"(\w+)\"""")
FIELDS = sorted({name for source in SOURCES for name in _READ.findall(source.read_text())})

QUICK = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
_HERE = {"Sec-Fetch-Site": "same-origin"}
FORM = "application/x-www-form-urlencoded"
HEADERS = [
    *((name, b"") for name in ("authorization", "origin", "referer", "x-forwarded-proto", "host", "content-type")),
    *(("cookie", before) for before in (b"", b"outbox_said=", b"outbox_theme=", b"outbox_browser=")),
    *(("authorization", before) for before in (b"Basic ", b"Bearer ")),
]
#: What programs trip over: nothing, NUL, half a character, other digits, numbers and times beyond every bound.
ODD = (
    "", " ", "\0", "a\0b", "\ud800", "\N{ARABIC-INDIC DIGIT THREE}", "-1", "0", "1e999", "9" * 40, "NaN", "1.5", "2h", "0s",
    "99999999999d", "9" * 400 + "w", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-11-25 09:00",
    "-4713-01-01", "24:00", "..", "../../x", "//evil.example", "/\\evil.example", "https://evil.example", "%00", "%", "'", '"',
    "<script>", "a\r\nX: y", "[]", "{}", "[" * 3000, '{"a": NaN}', '["\\ud800"]', '["\\u0000"]', "[1e999]", "yes",
    "retry", "cancel", "reschedule", "dark", "hourly", "state:dead", "state:", 'actor:"', "since:0001-01-01", "args.a>1e999",
    "or or", "(" * 500, "not " * 500, "x" * 5000, "00000000-0000-0000-0000-000000000000", "state:dead since:9999999d",
    "since:999999999999d", "until:9999-12-31", "args.0:\0", "id:0", "error:(", "priority:99999999999999999999", "q" * 20_000,
)  # fmt: skip


@pytest.fixture(scope="module")
def client(service_url: str, surroundings: None) -> Iterator[TestClient]:
    app = create_app(settings_for(service_url))
    if not any(getattr(route, "name", "") == "dashboard" for route in app.routes):
        dashboard.mount(app)
    with TestClient(app, follow_redirects=False) as client:
        yield client


@pytest.fixture(scope="module")
def board(client: TestClient) -> Dashboard:
    return next(route.app for route in client.app.routes if getattr(route, "name", "") == "dashboard")  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def known(client: TestClient, whole_database: Database) -> list[str]:
    """What is there: ids, names, addresses, that an answer can be about."""
    whole_database.empty()
    client.headers["Authorization"] = f"Bearer {ADMIN}"
    endpoint = client.post("/v1/endpoints", json={"url": "https://h.example.org/", "event_types": ["*"]}).json()
    mail = client.post("/v1/mails", json={"to": "a@example.org", "subject": "s", "text": "t"}).json()
    event = client.post("/v1/events", json={"type": "a.b", "data": 1}).json()
    client.post("/v1/suppressions", json={"recipient": "a@example.org", "stream": "news"})
    bulk = client.post("/v1/bulk-actions", json={"action": "cancel", "query": "actor:nobody"}).json()
    del client.headers["Authorization"]
    ids = [endpoint["endpoint_id"], *mail["task_ids"], *event["task_ids"], bulk.get("id", "")]
    return [*map(str, ids), "mail", "webhooks", "a@example.org", "news", "manual"]


@pytest.fixture
def browser(client: TestClient) -> TestClient:
    client.cookies.clear()
    assert client.post("/dashboard/sign-in", data={"key": ADMIN}, headers=_HERE).status_code == 303
    return client


def texts(known: list[str]) -> st.SearchStrategy[str]:
    anything = st.text(st.characters(categories=None), max_size=40)
    return st.sampled_from([*ODD, *known]) | anything | st.builds("{}{}".format, st.sampled_from(known), anything)


def _quoted(text: str, safe: str = "") -> str:
    return quote(text.encode("utf-8", "surrogatepass"), safe=safe)


def _path(pattern: str, chosen: st.DataObject, known: list[str]) -> str:
    return re.sub(r"\{[^}]*\}", lambda _: _quoted(chosen.draw(texts(known))) or "x", pattern)


def _fields(known: list[str]) -> st.SearchStrategy[list[tuple[str, str]]]:
    return st.lists(st.tuples(st.sampled_from(FIELDS) | st.text(max_size=5), texts(known)), max_size=6)


def _encoded(fields: list[tuple[str, str]]) -> str:
    return "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in fields)


def _is_answered(answer: Any) -> None:
    assert answer.status_code < 500, (answer.status_code, answer.text[-1500:])
    assert "Traceback" not in answer.text
    where = answer.headers.get("location", "/dashboard")
    assert where.startswith("/dashboard"), where


def test_the_names_that_are_read_are_found() -> None:
    assert {
        "q",
        "cursor",
        "before",
        "at",
        "in",
        "reason",
        "rate",
        "args",
        "kwargs",
        "since",
        "recipient",
        "key",
    } <= set(FIELDS)


@QUICK
@given(chosen=st.data())
def test_no_address_breaks_a_page(
    browser: TestClient, board: Dashboard, known: list[str], chosen: st.DataObject
) -> None:
    path = _path(chosen.draw(st.sampled_from(sorted(board.views()))), chosen, known)
    _is_answered(browser.get(f"/dashboard{path}?{_encoded(chosen.draw(_fields(known)))}"))


@QUICK
@given(chosen=st.data())
def test_no_form_breaks_an_act(browser: TestClient, board: Dashboard, known: list[str], chosen: st.DataObject) -> None:
    path = _path(chosen.draw(st.sampled_from([*sorted(board.acts()), "/theme"])), chosen, known)
    form = _encoded(chosen.draw(_fields(known)))
    answer = browser.post(f"/dashboard{path}", content=form, headers={**_HERE, "Content-Type": FORM})
    _is_answered(answer)
    if answer.status_code == 303:
        _is_answered(browser.get(answer.headers["location"]))


@QUICK
@given(chosen=st.data())
def test_no_key_and_no_link_breaks_the_gate(client: TestClient, known: list[str], chosen: st.DataObject) -> None:
    client.cookies.clear()
    fields = _encoded(chosen.draw(_fields(known)))
    _is_answered(client.get(f"/dashboard/sign-in?{fields}"))
    for path in ("/dashboard/sign-in", "/dashboard/sign-out"):
        _is_answered(client.post(path, content=fields, headers={**_HERE, "Content-Type": FORM}))


@QUICK
@given(chosen=st.data())
def test_no_header_breaks_the_gate(client: TestClient, known: list[str], chosen: st.DataObject) -> None:
    client.cookies.clear()
    name, before = chosen.draw(st.sampled_from(HEADERS))
    text = chosen.draw(texts(known)).encode("utf-8", "surrogatepass")
    value = before + text.translate(None, b"\r\n\0")[:4000]
    _is_answered(client.get("/dashboard/", headers={name: value.strip()}))


@QUICK
@given(chosen=st.data())
def test_what_is_no_page_cannot_be_followed(browser: TestClient, known: list[str], chosen: st.DataObject) -> None:
    at = chosen.draw(texts(known))
    answer = browser.get(f"/dashboard/live?at={_quoted(at)}")
    assert answer.status_code == 404, (at, answer.status_code)
