"""The list of addresses that get no mail: read, added to, and what may be taken off it."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from service_eyes import Database, problem_of

PATH = "/v1/suppressions"


def suppressed(database: Database, recipient: str, reason: str, stream: str = "*", ago: int = 0) -> None:
    database.execute(
        """insert into app.suppression (recipient, stream, reason, source, created_at)
        values (%s, %s, %s, 'test', now() - make_interval(secs => %s))""",
        recipient, stream, reason, ago,
    )  # fmt: skip


def listed(api: TestClient, **wanted: Any) -> list[tuple[str, str, str]]:
    answer = api.get(PATH, params=wanted)
    assert answer.status_code == 200, answer.text
    return [(each["recipient"], each["stream"], each["reason"]) for each in answer.json()["items"]]


def test_an_address_is_suppressed_by_hand_until_further_notice(api: TestClient, database: Database) -> None:
    answer = api.post(PATH, json={"recipient": "Ada@EXAMPLE.org"})
    assert answer.status_code == 201
    made = answer.json()
    assert (made["recipient"], made["stream"], made["reason"]) == ("ada@example.org", "*", "manual")
    assert made["expires_at"] is None
    assert listed(api) == [("ada@example.org", "*", "manual")]


def test_or_for_some_days_and_one_stream(api: TestClient, database: Database) -> None:
    assert api.post(PATH, json={"recipient": "ada@example.org", "stream": "news", "days": 3}).status_code == 201
    row = database.one("select stream, expires_at - created_at as lasts from app.suppression")
    assert row["stream"] == "news"
    assert abs(row["lasts"] - timedelta(days=3)) < timedelta(seconds=5)


def test_a_repeated_request_is_answered_again(api: TestClient, database: Database) -> None:
    answers = [
        api.post(PATH, json={"recipient": "ada@example.org"}, headers={"Idempotency-Key": "k"}) for _ in range(2)
    ]
    assert answers[0].json() == answers[1].json()
    assert answers[1].headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"recipient": "nobody"}, "/recipient"),
        ({"recipient": "a@example.org", "stream": "News"}, "/stream"),
        ({"recipient": "a@example.org", "days": 0}, "/days"),
        ({"recipient": "a@example.org", "reason": "complaint"}, ""),
    ],
)
def test_what_makes_no_sense_is_refused(
    api: TestClient, database: Database, body: dict[str, Any], pointer: str
) -> None:
    problem = problem_of(api.post(PATH, json=body))
    assert problem["status"] == 422
    assert [each["pointer"] for each in problem["errors"]] == [pointer]
    assert listed(api) == []


def test_pages_hold_every_suppression_once_the_newest_first(api: TestClient, database: Database) -> None:
    for number in range(5):
        suppressed(database, f"ä{number}" + "x" * number + "@example.org", "manual", ago=number // 2)
    # Of one moment: told apart by address.
    database.execute("update app.suppression set created_at = date_trunc('second', created_at)")
    found, cursor = [], None
    while True:
        page = api.get(PATH, params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        found += [each["recipient"] for each in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    rows = database.query("select recipient from app.suppression order by created_at desc, recipient desc")
    assert found == [row["recipient"] for row in rows]


def test_the_list_is_of_one_recipient_if_asked_in_whatever_case(api: TestClient, database: Database) -> None:
    for recipient in ("ada@example.org", "eve@example.org"):
        suppressed(database, recipient, "manual")
    assert listed(api, recipient="ADA@example.org") == [("ada@example.org", "*", "manual")]


def test_what_has_expired_is_not_listed(api: TestClient, database: Database) -> None:
    suppressed(database, "ada@example.org", "hard_bounce")
    database.execute("update app.suppression set expires_at = now() - interval '1 second'")
    assert listed(api) == []


@pytest.mark.parametrize("cursor", ["x", "x" * 11, "é" * 12, "x" * 1025])
def test_a_cursor_that_is_none_is_refused(api: TestClient, cursor: str) -> None:
    problem = problem_of(api.get(PATH, params={"cursor": cursor}))
    assert (problem["status"], problem["errors"][0]["pointer"]) == (422, "query/cursor")


@given(st.binary(min_size=9, max_size=60).map(lambda raw: base64.urlsafe_b64encode(raw[: len(raw) // 3 * 3]).decode()))
@example("____" * 3)
@example("AAAA" * 256)
@example("x" * 13)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_other_is_a_place_in_the_order(api: TestClient, cursor: str) -> None:
    assert api.get(PATH, params={"cursor": cursor}).status_code == 200


@pytest.mark.parametrize("reason", ["manual", "hard_bounce"])
def test_what_we_said_or_a_server_said_can_be_lifted(api: TestClient, database: Database, reason: str) -> None:
    suppressed(database, "ada@example.org", reason)
    suppressed(database, "eve@example.org", reason)
    assert api.delete(PATH, params={"recipient": "Ada@example.org"}).status_code == 204
    assert listed(api) == [("eve@example.org", "*", reason)]
    assert problem_of(api.delete(PATH, params={"recipient": "ada@example.org"}))["status"] == 404


@pytest.mark.parametrize("reason", ["complaint", "unsubscribe"])
def test_what_the_recipient_said_cannot(api: TestClient, database: Database, reason: str) -> None:
    suppressed(database, "ada@example.org", "manual")
    suppressed(database, "ada@example.org", reason)
    problem = problem_of(api.delete(PATH, params={"recipient": "ada@example.org"}))
    assert problem["status"] == 409
    assert reason in problem["detail"]
    assert len(listed(api)) == 2


def test_one_reason_or_one_stream_can_be_lifted_beside_others(api: TestClient, database: Database) -> None:
    for stream, reason in (("*", "complaint"), ("*", "manual"), ("news", "manual")):
        suppressed(database, "ada@example.org", reason, stream)
    assert api.delete(PATH, params={"recipient": "ada@example.org", "stream": "news"}).status_code == 204
    assert api.delete(PATH, params={"recipient": "ada@example.org", "reason": "manual"}).status_code == 204
    assert listed(api) == [("ada@example.org", "*", "complaint")]
