"""Every page, empty and full, below any path: what it shows, what it must not, and what it costs."""

from __future__ import annotations

import re
from typing import Any

import pytest
from counted import statements
from dashboard_eyes import Eyes, a_house_in_use, links_of
from outbox_rows import Outbox
from sqlalchemy.engine import make_url
from starlette.testclient import TestClient

from outbox.dashboard.pages import VIEWS

#: Every page that needs no name, and what its address may say more.
PLAIN = sorted(path for path in VIEWS if "{" not in path)
MORE = [
    "/?range=7d",
    "/?range=x",
    "/tasks?q=state:dead",
    "/tasks?q=actor:%22",
    "/audit?who=ben&action=x",
    "/tasks?cursor=x",
]


def pages_of(found: dict[str, Any]) -> list[str]:
    tasks = [f"/tasks/{id}" for name, id in found.items()]
    return [*PLAIN, *MORE, *tasks, f"/tasks/{found['dead']}/edit", "/schedules/nightly%2Fdigest%20%3Cu%3E"]


@pytest.mark.parametrize("path", [*PLAIN, *MORE])
def test_each_page_is_there_before_there_is_anything_to_show(eyes: Eyes, path: str) -> None:
    assert "<h1>" in eyes.page(path)


@pytest.mark.parametrize("prefix", ["", "/ops", "/an/inner place"])
def test_below_any_path_no_link_leads_outside(outbox: Outbox, prefix: str) -> None:
    found = a_house_in_use(outbox)
    with Eyes(outbox.engine, prefix=prefix) as eyes:
        for path in pages_of(found):
            links = links_of(eyes.page(path))
            assert links
            assert [link for link in links if not link.startswith(f"{prefix}/")] == []


def test_behind_a_proxy_that_takes_a_part_of_the_path_links_have_it(outbox: Outbox) -> None:
    eyes = Eyes(outbox.engine)
    proxied = TestClient(eyes.client.app, root_path="/shop", headers={"X-Role": "viewer"})
    links = links_of(proxied.get("/shop/ops/tasks").text)
    assert {link.rsplit("/", 1)[0] for link in links if "static" in link} == {"/shop/ops/static"}
    assert [link for link in links if not link.startswith("/shop/ops/")] == []


def test_nothing_that_somebody_wrote_becomes_markup(eyes: Eyes, outbox: Outbox) -> None:
    found = a_house_in_use(outbox)
    for path in pages_of(found):
        page = eyes.page(path)
        for planted in ("<script>alert", "<img src=x>", "<i>ben", "<u>"):
            assert planted not in page, path


def test_no_page_has_a_script_or_a_style_of_its_own(eyes: Eyes, outbox: Outbox) -> None:
    found = a_house_in_use(outbox)
    for path in pages_of(found):
        answer = eyes.get(path)
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=\"|<script(?! type=\"module\" src=)|javascript:", answer.text)
        assert not re.search(r"(src|href)=\"(https?:)?//", answer.text)


def test_no_page_takes_more_than_twelve_statements(eyes: Eyes, outbox: Outbox) -> None:
    found = a_house_in_use(outbox)
    for path in pages_of(found):
        with statements(eyes.engine) as said:
            eyes.page(path)
        assert 0 < len(said) <= 12, (path, len(said), [each.split()[:6] for each in said])


def test_looking_changes_nothing(eyes: Eyes, outbox: Outbox) -> None:
    found = a_house_in_use(outbox)
    before = {name: outbox.all(name) for name in ("task", "history", "dead")}
    for path in pages_of(found):
        eyes.page(path)
    assert {name: outbox.all(name) for name in ("task", "history", "dead")} == before


def test_each_state_is_told_on_the_task_s_page_with_what_it_waits_for(eyes: Eyes, outbox: Outbox) -> None:
    found = a_house_in_use(outbox)
    for state in (
        "pending",
        "scheduled",
        "retrying",
        "dead",
        "succeeded",
        "cancelled",
        "running",
        "published",
        "waiting",
    ):
        page = eyes.page(f"/tasks/{found[state]}")
        assert f'<span class="state {state}">' in page
        assert '<ol class="stations"' in page
    assert "It failed once, and is tried again" in eyes.page(f"/tasks/{found['retrying']}")
    assert "it broke" in eyes.page(f"/tasks/{found['dead']}")


def test_a_secret_is_on_no_page(eyes: Eyes, outbox: Outbox) -> None:
    found = a_house_in_use(outbox)
    for path in pages_of(found):
        assert "hunter2" not in eyes.page(path), path
    assert "[redacted]" in eyes.page(f"/tasks/{found['odd']}")


def test_an_address_that_names_nothing_says_so(eyes: Eyes) -> None:
    for path, told in (
        ("/tasks/01890000-0000-7000-8000-000000000002", "No task has this id"),
        ("/tasks/x", "is not a task id"),
        ("/schedules/none", "No schedule of this name"),
        ("/nowhere", "Not Found"),
        ("/static/none.js", "Not Found"),
    ):
        answer = eyes.get(path)
        assert answer.status_code == 404
        assert told in answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_a_query_that_cannot_be_read_is_answered_with_where_and_what(eyes: Eyes) -> None:
    page = eyes.page("/tasks?q=state:lost")
    assert "At character 1 of the query: no task has this state" in page
    assert 'aria-invalid="true"' in page


def test_a_cursor_that_is_none_of_ours_is_told(eyes: Eyes) -> None:
    answer = eyes.get("/audit?cursor=x")
    assert answer.status_code == 400
    assert "This cursor is not one of ours" in answer.text
    assert "This cursor is not one of ours" in eyes.page("/tasks?cursor=x")


def test_the_filters_are_in_the_address_and_a_facet_adds_one(eyes: Eyes, outbox: Outbox) -> None:
    a_house_in_use(outbox)
    page = eyes.page("/tasks?q=queue:mail")
    assert "/ops/tasks?q=state%3Adead+queue%3Amail" in page
    chosen = eyes.page("/tasks?q=state:dead")
    assert re.search(r'href="/ops/tasks" aria-current="true"><span class="state dead">', chosen)


def test_pages_follow_each_other_without_a_gap(eyes: Eyes, outbox: Outbox) -> None:
    ids = {str(id) for id in outbox.add_many(120)}
    path, seen = "/tasks", []
    for _ in range(3):
        page = eyes.page(path)
        seen += re.findall(r'name="id" value="([0-9a-f-]{36})"', page)
        following = re.search(r'href="/ops(/tasks\?[^"]*)" rel="next"', page)
        path = following[1].replace("&amp;", "&") if following else ""
    assert not path
    assert len(seen) == 120
    assert set(seen) == ids


def test_files_are_kept_for_ever_under_names_that_change_with_them(eyes: Eyes) -> None:
    for link in re.findall(r'"(/ops/static/[^"]+)"', eyes.page("/")):
        answer = eyes.client.get(link)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        assert re.search(r"-[0-9a-f]{12}\.(css|js|svg)$", link)


def test_a_first_page_is_light(eyes: Eyes, outbox: Outbox) -> None:
    import gzip

    outbox.add_many(200)
    page = eyes.page("/tasks")
    files = {link: eyes.client.get(link).content for link in re.findall(r'"(/ops/static/[^"]+)"', page)}
    assert len(gzip.compress(page.encode())) < 20_000
    assert sum(len(gzip.compress(each)) for each in files.values()) < 30_000


def test_a_database_that_is_away_is_told_with_503(outbox: Outbox) -> None:
    nowhere = make_url(outbox.url).set(host="127.0.0.1", port=1).render_as_string(hide_password=False)
    with Eyes(nowhere) as eyes:  # type: ignore[arg-type]
        answer = eyes.get("/tasks")
        assert answer.status_code == 503
        assert "The database cannot be reached" in answer.text
        assert 'http-equiv="refresh"' in answer.text


def test_tables_that_are_missing_are_told_with_what_makes_them(empty_database_url: str) -> None:
    with Eyes(empty_database_url) as eyes:  # type: ignore[arg-type]
        answer = eyes.get("/tasks")
        assert answer.status_code == 503
        assert "outbox db upgrade" in answer.text


def test_a_fault_of_ours_is_told_as_one_and_logged_whole(
    eyes: Eyes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("outbox.reads.Reader.audit", lambda _reader, conn, **_: conn.execute("select 1 / 0"))
    answer = eyes.get("/audit")
    assert answer.status_code == 500
    assert "This page could not be made" in answer.text
    assert "DivisionByZero" not in answer.text
    assert "DivisionByZero" in caplog.text


@pytest.mark.parametrize("path", ["/tasks?q=a%00b", "/schedules/%00", "/tasks/%00", "/audit?cursor=%00"])
def test_nul_is_told_as_what_it_is(eyes: Eyes, path: str) -> None:
    answer = eyes.get(path)
    assert answer.status_code == 400
    assert "NUL character" in answer.text


def test_a_url_serves_as_well_as_an_engine(outbox: Outbox) -> None:
    id = outbox.add("x")
    with Eyes(outbox.url) as eyes:  # type: ignore[arg-type]
        assert str(id) in eyes.page("/tasks")
        eyes.act(f"/tasks/{id}/cancel")
        assert outbox.state(id) == "cancelled"


def test_the_colours_that_were_chosen_stay(eyes: Eyes) -> None:
    answer = eyes.act("/theme", theme="dark", back="/tasks")
    assert answer.headers["location"] == "/ops/tasks"
    page = eyes.client.get("/ops/tasks", headers={"X-Role": "viewer"}).text
    assert '<html lang="en" data-theme="dark">' in page
    eyes.client.cookies.clear()
