"""Who may look, and who may act: decided on the server, for every page and every button that there is."""

from __future__ import annotations

import base64
from uuid import uuid4

import pytest
from dashboard_eyes import HERE, Eyes
from outbox_rows import Outbox

from outbox.dashboard import basic
from outbox.dashboard.gate import ROLES
from outbox.dashboard.pages import ACTS, VIEWS

SOMETHING = {"id": str(uuid4()), "name": "mail", "name:path": "mail", "failure": "0123456789ab"}


def filled(path: str) -> str:
    """The route's path, with something in its places."""
    for name, value in SOMETHING.items():
        path = path.replace(f"{{{name}}}", value)
    assert "{" not in path
    return path


@pytest.mark.parametrize("path", sorted(VIEWS))
def test_without_a_gate_every_page_is_closed_and_says_so(whole_outbox: Outbox, path: str) -> None:
    with Eyes(whole_outbox.engine, gate=None) as closed:
        answer = closed.get(filled(path))
        assert answer.status_code == 403
        assert "closed, because it was mounted without a gate" in answer.text
        assert "rail" not in answer.text


@pytest.mark.parametrize("path", sorted(ACTS))
def test_without_a_gate_nothing_can_be_done(whole_outbox: Outbox, path: str) -> None:
    with Eyes(whole_outbox.engine, gate=None) as closed:
        assert closed.act(filled(path)).status_code == 403


@pytest.mark.parametrize("path", sorted(VIEWS))
def test_nobody_sees_nothing(mounted: Eyes, path: str) -> None:
    answer = mounted.get(filled(path), role=None)
    assert answer.status_code == 401
    assert "not signed in" in answer.text


@pytest.mark.parametrize("role", [None, *ROLES])
@pytest.mark.parametrize("path", sorted(ACTS))
def test_each_act_needs_its_role(mounted: Eyes, path: str, role: str | None) -> None:
    answer = mounted.act(filled(path), role=role)
    if role is None:
        assert answer.status_code == 401
    elif ROLES.index(role) < ROLES.index(ACTS[path].needs):  # type: ignore[arg-type]
        assert answer.status_code == 403
        assert f"needs the role {ACTS[path].needs}" in answer.text
    else:
        assert answer.status_code in (303, 404)


@pytest.mark.parametrize("path", sorted(set(ACTS) - set(VIEWS)))
def test_nothing_is_done_by_looking(mounted: Eyes, path: str) -> None:
    assert mounted.get(filled(path)).status_code in (404, 405)


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {},
    ],
    ids=["another site", "a sibling's subdomain", "typed by hand", "another origin", "no origin", "a program"],
)
@pytest.mark.parametrize("path", sorted(ACTS))
def test_what_was_not_sent_by_a_page_of_the_dashboard_does_nothing(
    mounted: Eyes, path: str, headers: dict[str, str]
) -> None:
    answer = mounted.act(filled(path), headers=headers)
    assert answer.status_code == 403
    assert "nothing was done" in answer.text


def test_a_browser_that_tells_only_its_origin_is_believed_when_it_is_ours(eyes: Eyes, outbox: Outbox) -> None:
    id = outbox.add("x")
    assert eyes.act(f"/tasks/{id}/cancel", headers={"Origin": "http://testserver"}).status_code == 303
    assert outbox.state(id) == "cancelled"


def test_buttons_are_shown_to_those_who_may_press_them(eyes: Eyes, outbox: Outbox) -> None:
    id = outbox.add("x")
    assert "/cancel" not in eyes.page(f"/tasks/{id}", role="viewer")
    assert "/cancel" in eyes.page(f"/tasks/{id}", role="operator")


def test_a_name_and_a_password_open_it(whole_outbox: Outbox) -> None:
    with Eyes(whole_outbox.engine, gate=basic({"ann": ("correct horse battery", "viewer")})) as eyes:
        asked = eyes.get("/", role=None)
        assert (asked.status_code, asked.headers["www-authenticate"].split()[0]) == (401, "Basic")
        for told, status in (
            ("ann:correct horse battery", 200),
            ("ann:wrong", 401),
            ("ben:correct horse battery", 401),
            ("ben:", 401),
            ("ann", 401),
        ):
            header = f"Basic {base64.b64encode(told.encode()).decode()}"
            assert eyes.get("/", role=None, Authorization=header).status_code == status
        for header in ("Basic ä", "Basic", "Bearer x", "Basic !!!"):
            assert eyes.client.get("/ops/", headers={"Authorization": header.encode()}).status_code == 401


def test_a_password_that_is_no_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 12 characters"):
        basic({"ann": ("short", "admin")})


def test_the_way_back_leads_nowhere_else(eyes: Eyes, outbox: Outbox) -> None:
    id = outbox.add("x")
    for back in (
        "https://elsewhere.example/",
        "//elsewhere.example/",
        "/\\elsewhere.example",
        "javascript:alert(1)",
        "",
    ):
        answer = eyes.act(f"/tasks/{id}/retry", back=back)
        assert answer.headers["location"] == "/ops/"


def test_a_form_without_end_is_refused(eyes: Eyes, outbox: Outbox) -> None:
    id = outbox.add("x")
    assert eyes.act(f"/tasks/{id}/cancel", reason="x" * 1_100_000).status_code == 413
    headers = {"X-Role": "admin", **HERE}
    assert eyes.client.post(f"/ops/tasks/{id}/cancel", content=b"\xff\xfe", headers=headers).status_code == 400
    assert outbox.state(id) == "pending"
