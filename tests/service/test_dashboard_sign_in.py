"""The gate of the service's dashboard: an API key, or a link that signs in once; for half a day, until its key ends."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from api_process import Api
from fastapi.testclient import TestClient
from service_eyes import ADMIN, Database, settings_for
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from service import keys
from service.app import create_app
from service.browsers import COOKIE, new_link
from service.keys import ROLES, Role

HERE = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def browser(api: TestClient) -> TestClient:
    """Somebody with no key in a header, and nothing remembered."""
    client = TestClient(api.app, follow_redirects=False)
    client.headers.pop("Authorization", None)
    return client


@pytest.fixture
def make_key(service_url: str) -> Callable[[Role], keys.NewKey]:
    def make(role: Role) -> keys.NewKey:
        with Session(engine_of(service_url)) as session, session.begin():
            return keys.create(session, name=f"the {role}", role=role)

    return make


def engine_of(url: str) -> Any:
    return create_engine(url.replace("postgresql://", "postgresql+psycopg://"))


def sign_in(browser: TestClient, key: str, **form: str) -> Any:
    return browser.post("/dashboard/sign-in", data={"key": key, **form}, headers=HERE)


def test_nobody_is_sent_to_sign_in_and_afterwards_to_where_they_were_going(browser: TestClient) -> None:
    away = browser.get("/dashboard/tasks?q=state:dead")
    assert away.status_code == 303
    assert away.headers["location"] == "/dashboard/sign-in?next=%2Ftasks%3Fq%3Dstate%3Adead"
    page = browser.get(away.headers["location"]).text
    assert 'name="next" value="/tasks?q=state:dead"' in page
    assert sign_in(browser, ADMIN, next="/tasks?q=state:dead").headers["location"] == "/dashboard/tasks?q=state:dead"
    assert browser.get("/dashboard/tasks?q=state:dead").status_code == 200


def test_the_path_without_a_slash_leads_there(browser: TestClient) -> None:
    assert browser.get("/dashboard").headers["location"] == "/dashboard/"


@pytest.mark.parametrize(
    ("role", "seen"), [("reader", "viewer"), ("writer", "viewer"), ("operator", "operator"), ("admin", "admin")]
)
def test_a_key_s_role_is_what_its_browser_may(
    browser: TestClient, make_key: Callable[[Role], keys.NewKey], role: Role, seen: str
) -> None:
    sign_in(browser, make_key(role).secret)
    assert f"the {role} <small>{seen}</small>" in browser.get("/dashboard/").text


def test_the_cookie_is_no_key_and_no_script_reads_it(browser: TestClient, database: Database) -> None:
    answer = sign_in(browser, ADMIN)
    cookie = answer.headers["set-cookie"]
    assert re.search(r"HttpOnly; Max-Age=43200; Path=/dashboard; SameSite=lax", cookie)
    assert ADMIN not in cookie
    kept = str(database.query("select * from app.browser"))
    assert browser.cookies[COOKIE] not in kept
    https = TestClient(browser.app, base_url="https://testserver", follow_redirects=False)
    assert "Secure" in sign_in(https, ADMIN).headers["set-cookie"]


@pytest.mark.parametrize("key", ["", "wrong", "obk_" + "x" * 43, "ä", "x" * 200])
def test_a_key_that_is_not_in_force_is_told_so_and_nothing_is_kept(
    browser: TestClient, database: Database, key: str
) -> None:
    answer = sign_in(browser, key)
    assert answer.status_code == 401
    assert "missing or not in force" in answer.text
    assert COOKIE not in browser.cookies
    assert database.query("select 1 from app.browser") == []


def test_a_browser_ends_with_its_key(
    browser: TestClient, service_url: str, make_key: Callable[[Role], keys.NewKey]
) -> None:
    key = make_key("admin")
    sign_in(browser, key.secret)
    assert browser.get("/dashboard/").status_code == 200
    with Session(engine_of(service_url)) as session, session.begin():
        keys.revoke(session, key.id)
    assert browser.get("/dashboard/").status_code == 303
    assert browser.get("/dashboard/live?at=/").status_code == 401


def test_a_browser_ends_after_half_a_day_and_when_somebody_signs_out(browser: TestClient, database: Database) -> None:
    sign_in(browser, ADMIN)
    database.execute("update app.browser set expires_at = clock_timestamp()")
    assert browser.get("/dashboard/").status_code == 303
    sign_in(browser, ADMIN)
    cookie = browser.cookies[COOKIE]
    assert browser.post("/dashboard/sign-out", headers=HERE).headers["location"] == "/dashboard/sign-in"
    browser.cookies.set(COOKIE, cookie, path="/dashboard")
    assert browser.get("/dashboard/").status_code == 303
    assert database.query("select 1 from app.browser") == []


def test_a_link_signs_in_one_browser_once_and_not_by_looking(browser: TestClient, service_url: str) -> None:
    with Session(engine_of(service_url)) as session, session.begin():
        link = new_link(session, name="ann", role="operator")
    for _ in range(3):  # what fetches links before people do uses nothing up
        assert "signs in this browser, once" in browser.get(f"/dashboard/sign-in?link={link}").text
    assert browser.post("/dashboard/sign-in", data={"link": link}, headers=HERE).status_code == 303
    assert "ann <small>operator</small>" in browser.get("/dashboard/").text
    other = TestClient(browser.app, follow_redirects=False)
    again = other.post("/dashboard/sign-in", data={"link": link}, headers=HERE)
    assert (again.status_code, "used already, or is too old" in again.text) == (401, True)


def test_an_old_link_and_a_session_s_cookie_are_no_links(
    browser: TestClient, service_url: str, database: Database
) -> None:
    with Session(engine_of(service_url)) as session, session.begin():
        link = new_link(session, name="ann", role="operator")
    database.execute("update app.browser set expires_at = expires_at - %s", timedelta(minutes=11))
    assert browser.post("/dashboard/sign-in", data={"link": link}, headers=HERE).status_code == 401
    sign_in(browser, ADMIN)
    assert browser.post("/dashboard/sign-in", data={"link": browser.cookies[COOKIE]}, headers=HERE).status_code == 401
    with_link = TestClient(browser.app, cookies={COOKIE: link}, follow_redirects=False)
    assert with_link.get("/dashboard/").status_code == 303


@pytest.mark.parametrize("path", ["/dashboard/sign-in", "/dashboard/sign-out"])
def test_signing_in_and_out_is_done_from_its_own_page_alone(browser: TestClient, database: Database, path: str) -> None:
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://elsewhere.example"}, {}):
        assert browser.post(path, data={"key": ADMIN}, headers=headers).status_code == 403
    assert database.query("select 1 from app.browser") == []


def test_who_guesses_keys_is_held_to_a_pace(service_url: str, database: Database, surroundings: None) -> None:
    with TestClient(create_app(settings_for(service_url, refusals=3)), follow_redirects=False) as guessing:
        statuses = [sign_in(guessing, f"obk_{number:043}").status_code for number in range(6)]
    assert statuses[0] == 401
    assert statuses[-1] == 429


def test_a_way_on_that_leads_elsewhere_is_not_taken(browser: TestClient) -> None:
    for to in ("https://elsewhere.example/", "//elsewhere.example/", "/\\elsewhere.example"):
        assert sign_in(browser, ADMIN, next=to).headers["location"] == "/dashboard/"


def test_with_twenty_open_pages_sigterm_ends_the_process_in_two_seconds_and_well(database_url: str) -> None:
    api = Api(database_url)
    try:
        address = f"http://127.0.0.1:{api.port}/dashboard"
        api.client.post(f"{address}/sign-in", data={"key": ADMIN}, headers=HERE)
        cookies = dict(api.client.cookies)
        heard = threading.Semaphore(0)

        def follow() -> None:
            try:
                with httpx2.stream("GET", f"{address}/live?at=/tasks", cookies=cookies, timeout=30) as answer:
                    for line in answer.iter_lines():
                        if line.startswith("data:"):
                            heard.release()
            except httpx2.HTTPError:
                return

        tabs = [threading.Thread(target=follow, daemon=True) for _ in range(20)]
        for tab in tabs:
            tab.start()
        for _ in tabs:
            assert heard.acquire(timeout=20)
        began = time.monotonic()
        api.process.send_signal(signal.SIGTERM)
        code = api.process.wait(10)
        assert (code, time.monotonic() - began < 2) == (0, True)
        rest = list(api.log)
        assert [line for line in rest if '"error"' in line and '"level"' in line] == []
    finally:
        api.end()


def test_every_role_of_a_key_is_seen_as_one_of_the_dashboard_s() -> None:
    from service.browsers import SEEN

    assert set(SEEN) == set(ROLES)


def test_a_browser_of_the_environment_s_key_ends_when_that_is_unset(
    browser: TestClient, service_url: str, surroundings: None
) -> None:
    sign_in(browser, ADMIN)
    with TestClient(create_app(settings_for(service_url, bootstrap_key=None)), follow_redirects=False) as without:
        assert without.get("/dashboard/", cookies={COOKIE: browser.cookies[COOKIE]}).status_code == 303


def test_behind_a_proxy_that_speaks_tls_the_cookie_is_for_tls_alone(browser: TestClient) -> None:
    answer = browser.post(
        "/dashboard/sign-in", data={"key": ADMIN}, headers={**HERE, "Origin": "https://shop.example.org"}
    )
    assert "Secure" in answer.headers["set-cookie"]
