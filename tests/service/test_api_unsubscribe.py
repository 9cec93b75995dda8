"""Unsubscribing: one click, no key, at once; and a GET that changes nothing."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service_eyes import Database, problem_of

from actors import outside
from actors.mail import unsubscribe

CLICK = {"List-Unsubscribe": "One-Click"}


@pytest.fixture
def anyone(running: TestClient, database: Database) -> TestClient:
    """A caller without a key, over an empty database."""
    return TestClient(running.app, headers={})


@pytest.fixture
def link(surroundings: None) -> str:
    return unsubscribe.PATH + unsubscribe.token_for("Ada@example.org", "news", outside.vault())


def kept(database: Database) -> list[dict[str, Any]]:
    return database.query("select recipient, stream, reason, source, expires_at from app.suppression")


def test_one_click_suppresses_the_recipient_for_this_stream(anyone: TestClient, database: Database, link: str) -> None:
    answer = anyone.post(link, data=CLICK)
    assert answer.status_code == 200
    assert kept(database) == [
        {"recipient": "ada@example.org", "stream": "news", "reason": "unsubscribe", "source": "one-click",
         "expires_at": None},
    ]  # fmt: skip


def test_a_second_click_is_answered_as_the_first(anyone: TestClient, database: Database, link: str) -> None:
    first, second = anyone.post(link, data=CLICK), anyone.post(link, data=CLICK)
    assert (first.status_code, first.text) == (second.status_code, second.text)
    assert len(kept(database)) == 1


@pytest.mark.parametrize(
    ("declared", "body"),
    [
        ("application/x-www-form-urlencoded", b"List-Unsubscribe=One-Click"),
        ("application/x-www-form-urlencoded; charset=utf-8", b"a=b&List-Unsubscribe=One-Click"),
        (
            "multipart/form-data; boundary=xyz",
            b'--xyz\r\nContent-Disposition: form-data; name="List-Unsubscribe"\r\n\r\nOne-Click\r\n--xyz--\r\n',
        ),
        (
            'Multipart/Form-Data; boundary="x y"',
            b"--x y\r\ncontent-disposition: form-data; name=List-Unsubscribe\r\n\r\nOne-Click\r\n--x y--",
        ),
    ],
)
def test_both_kinds_of_body_that_rfc_8058_names_are_taken(
    anyone: TestClient, database: Database, link: str, declared: str, body: bytes
) -> None:
    assert anyone.post(link, content=body, headers={"Content-Type": declared}).status_code == 200
    assert len(kept(database)) == 1


@pytest.mark.parametrize(
    ("declared", "body"),
    [
        ("application/x-www-form-urlencoded", b""),
        ("application/x-www-form-urlencoded", b"List-Unsubscribe=No"),
        ("application/x-www-form-urlencoded", b"x" * 5000 + b"&List-Unsubscribe=One-Click"),
        ("application/x-www-form-urlencoded", b"\xff"),
        ("application/x-www-form-urlencoded", b"a&" * 30 + b"List-Unsubscribe=One-Click"),
        ("application/json", b'{"List-Unsubscribe": "One-Click"}'),
        ("multipart/form-data", b"List-Unsubscribe=One-Click"),
        ("multipart/form-data; boundary=x; a=" + ";" * 200, b"--x\r\n\r\nList-Unsubscribe=One-Click\r\n--x--"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\nList-Unsubscribe=One-Click\r\n--x--"),
    ],
)
def test_a_request_that_does_not_say_so_changes_nothing(
    anyone: TestClient, database: Database, link: str, declared: str, body: bytes
) -> None:
    answer = anyone.post(link, content=body, headers={"Content-Type": declared})
    assert problem_of(answer)["status"] == 400
    assert kept(database) == []


KINDS = ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "multipart/form-data; boundary*=''x"]
PIECES = [
    b"--x",
    b"--x--",
    b"\r\n",
    b"List-Unsubscribe",
    b"=",
    b"One-Click",
    b"&",
    b"%00",
    b'; name*0="',
    b"content-disposition: ",
]


@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=9), max_size=20).map(b"".join), st.sampled_from(KINDS))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_body_it_is_taken_or_refused(anyone: TestClient, link: str, body: bytes, declared: str) -> None:
    assert anyone.post(link, content=body, headers={"Content-Type": declared}).status_code in (200, 400)


def test_following_the_link_shows_a_button_and_changes_nothing(
    anyone: TestClient, database: Database, link: str
) -> None:
    page = anyone.get(link)
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert '<form method="post">' in page.text
    assert "“news”" in page.text
    assert kept(database) == []


def test_no_answer_sets_a_cookie_redirects_or_lets_anything_run(anyone: TestClient, link: str) -> None:
    for answer in (anyone.get(link), anyone.post(link, data=CLICK)):
        assert not answer.history
        assert "set-cookie" not in answer.headers
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "script" not in policy + answer.text
        assert "example.org" not in answer.text + str(answer.headers)


def test_every_link_that_was_not_made_here_is_refused_alike(anyone: TestClient, database: Database, link: str) -> None:
    token = link.removeprefix(unsubscribe.PATH)
    other = base64.urlsafe_b64encode(outside.vault().seal('["ada@example.org", "news"]', owner="endpoint")).decode()
    details = set()
    for wrong in (f"B{token[1:]}", f"{token[:-4]}AAAA", token[:60], "x", "x" * 5000, other.rstrip("="), "%00", "é"):
        for answer in (anyone.get(f"{unsubscribe.PATH}{wrong}"), anyone.post(f"{unsubscribe.PATH}{wrong}", data=CLICK)):
            problem = problem_of(answer)
            assert problem["status"] == 404
            details.add(problem["detail"])
    assert len(details) == 1
    assert kept(database) == []


def test_what_is_queued_already_is_known_to_be_unwanted(
    anyone: TestClient, database: Database, api: TestClient, link: str
) -> None:
    """The condition that every sending asks, in the database that it asks."""
    from sqlalchemy.orm import Session

    from actors.mail.suppression import suppressed

    headers = {"List-Unsubscribe": "<mailto:out@example.org>"}
    queued = {"to": "ada@EXAMPLE.org", "subject": "s", "text": "t", "stream": "news", "headers": headers}
    mail_id = api.post("/v1/mails", json=queued).json()["mail_id"]
    anyone.post(link, data=CLICK)
    row = database.one("select recipient, stream from app.mail where id = %s", mail_id)
    with Session(api.app.state.engine) as session:  # type: ignore[attr-defined]
        assert suppressed(session, row["recipient"], row["stream"])
        assert not suppressed(session, row["recipient"], "transactional")
