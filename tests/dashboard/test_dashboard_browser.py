"""In a real browser: the ways of a person, what the policy lets through, who cannot see well, and who has no script."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from awaiting import await_that
from dashboard_eyes import Served, a_house_in_use
from outbox_rows import Outbox

from outbox.dashboard.pages import VIEWS

playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium, or set CHROMIUM")

#: Told by the page itself, as the browser reports it.
VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => window.violations.push(event.violatedDirective + " " + event.blockedURI));
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


Open = Callable[..., Any]


@pytest.fixture
def opened(chromium: Any, served: Served) -> Iterator[Open]:
    """A page in a browser of its own. What the console says against us, and what was asked for elsewhere, fails the test."""
    contexts, trouble = [], []

    def open_(path: str, *, role: str = "admin", width: int = 1280, scheme: str = "light", script: bool = True) -> Any:
        context = chromium.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, java_script_enabled=script,
            extra_http_headers={"X-Role": role}, base_url=served.address,
        )  # fmt: skip
        contexts.append(context)
        context.add_init_script(VIOLATIONS)
        page = context.new_page()
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("console", lambda said: trouble.append(said.text) if said.type == "error" else None)
        page.on(
            "request", lambda asked: trouble.append(asked.url) if not asked.url.startswith(served.address) else None
        )
        page.goto(path)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert trouble == []


def every_page(found: dict[str, Any]) -> list[str]:
    plain = sorted(path for path in VIEWS if "{" not in path)
    return [
        *plain,
        f"/tasks/{found['dead']}",
        f"/tasks/{found['dead']}/edit",
        "/tasks?q=state:lost",
        "/schedules/nightly%2Fdigest%20%3Cu%3E",
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_keeps_its_policy_and_is_readable_for_those_who_cannot_see_well(
    opened: Open, outbox: Outbox, scheme: str
) -> None:
    found = a_house_in_use(outbox)
    page = opened("/", scheme=scheme)
    for path in every_page(found):
        page.goto(path)
        page.wait_for_selector("h1")
        page.wait_for_function("document.querySelector('[data-fresh]')?.textContent === 'Live'")
        assert page.evaluate("window.violations") == []
        told = axe.Axe().run(page)
        serious = [each for each in told.response["violations"] if each["impact"] in ("serious", "critical")]
        assert serious == [], (
            path,
            [(each["id"], [node["html"][:200] for node in each["nodes"]][:3]) for each in serious],
        )


def test_on_a_telephone_no_page_is_wider_than_the_glass(opened: Open, outbox: Outbox) -> None:
    found = a_house_in_use(outbox)
    page = opened("/", width=320)
    for path in every_page(found):
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 320, path


def test_a_person_finds_a_dead_task_and_retries_it_with_the_keyboard_alone(opened: Open, outbox: Outbox) -> None:
    found = a_house_in_use(outbox)
    page = opened("/")
    page.keyboard.press("/")
    page.keyboard.type("state:dead")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("q=state"))
    link = page.locator("table.tasks tbody a").first
    for _ in range(60):
        page.keyboard.press("Tab")
        if link.evaluate("node => node === document.activeElement"):
            break
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(str(found["dead"])))
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent.trim()") == "Retry":
            break
    page.keyboard.press("Enter")
    page.wait_for_selector(".said.done")
    assert page.locator(".said.done").inner_text() == "It is due now."
    assert outbox.state(found["dead"]) == "pending"


def test_without_a_script_everything_can_be_read_and_done(opened: Open, outbox: Outbox) -> None:
    found = a_house_in_use(outbox)
    page = opened("/", script=False)
    page.click("nav.rail >> text=Tasks")
    page.click("nav.facets >> text=dead")
    page.click("table.tasks tbody a >> nth=0")
    page.click("button:has-text('Retry')")
    assert page.locator(".said.done").inner_text() == "It is due now."
    assert outbox.state(found["dead"]) == "pending"
    page.select_option("#theme", "dark")
    page.click("button:has-text('Set')")
    assert page.locator("html").get_attribute("data-theme") == "dark"


def test_what_happens_is_seen_without_asking_again(opened: Open, outbox: Outbox) -> None:
    outbox.add("before")
    page = opened("/tasks")
    page.wait_for_selector("table.tasks tbody tr")
    id = outbox.add("after")
    page.wait_for_selector(f'input[value="{id}"]', timeout=5000)


def test_what_somebody_has_chosen_does_not_move_away(opened: Open, outbox: Outbox) -> None:
    first = outbox.add("chosen")
    page = opened("/tasks")
    page.check(f'input[value="{first}"]')
    second = outbox.add("new")
    page.wait_for_selector(".facets .pending + b >> text=2")  # the news has come
    assert page.locator(f'input[value="{second}"]').count() == 0
    assert page.is_checked(f'input[value="{first}"]')
    page.uncheck(f'input[value="{first}"]')
    page.locator("h1").click()
    page.wait_for_selector(f'input[value="{second}"]', timeout=5000)


def test_a_tab_that_nobody_sees_asks_nothing(opened: Open, outbox: Outbox, served: Served) -> None:
    page = opened("/tasks")
    page.wait_for_function("document.querySelector('[data-fresh]')?.textContent === 'Live'")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.evaluate(
        "Object.defineProperty(document, 'hidden', {value: true, configurable: true}); "
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    await_that(served.nobody_follows)  # and so nothing can come, nor is anything read
    id = outbox.add("unseen")
    assert asked == []
    assert page.locator(f'input[value="{id}"]').count() == 0
    page.evaluate(
        "Object.defineProperty(document, 'hidden', {value: false, configurable: true}); "
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    page.wait_for_selector(f'input[value="{id}"]', timeout=5000)


def test_a_query_is_completed_behind_what_stands_before_it(opened: Open, outbox: Outbox) -> None:
    a_house_in_use(outbox)
    page = opened("/tasks")
    page.fill("#q", "actor:send_mail sta")
    offers = page.evaluate("[...document.querySelector('#q').list.options].map((option) => option.value)")
    assert "actor:send_mail state:dead" in offers
    assert all(offer.startswith("actor:send_mail sta") for offer in offers)


def test_one_cursor_reads_both_charts(opened: Open, outbox: Outbox) -> None:
    outbox.conn.execute(
        "insert into outbox.minute (minute, actor, queue, succeeded, waits) "
        "values (date_trunc('minute', clock_timestamp()) - interval '5 minutes', 'a', 'mail', 7, '{\"12\": 7}')"
    )
    page = opened("/")
    slots = page.locator("figure:first-of-type .slot")
    slots.nth(slots.count() - 6).hover(force=True)
    told = page.locator("[data-readout]").all_inner_texts()
    assert any("7 succeeded" in each for each in told)
    assert any("p95" in each for each in told)
    assert page.locator(".slot.at").count() == 2
