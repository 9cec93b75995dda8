"""Acts on many tasks over HTTP: previewed, begun once, looked at, aborted."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient
from service_eyes import Database, OneRun, problem_of

from outbox import database as connections
from outbox.carrier import Carrier
from outbox.ledger import Ledger
from outbox.query import MOST

PATH = "/v1/bulk-actions"


@pytest.fixture
def dead(api: TestClient, database: Database) -> list[str]:
    """Three mails that died."""
    found = []
    for _ in range(3):
        answer = api.post("/v1/mails", json={"to": "a@example.org", "subject": "s", "text": "t"})
        found += answer.json()["task_ids"]
        OneRun(database, found[-1]).die()
    return found


def carry(database: Database) -> None:
    """As a relay does, until nothing goes on."""
    with connections.connect(database.url, name="test carrier") as conn:
        mover = Carrier(Ledger(), lambda: conn, on_moved=lambda: None)
        while mover.carry(conn):
            pass


def states(api: TestClient, ids: list[str]) -> set[str]:
    return {api.get(f"/v1/tasks/{id}").json()["state"] for id in ids}


def test_a_dry_run_shows_what_it_would_meet_and_does_nothing(
    api: TestClient, database: Database, dead: list[str]
) -> None:
    before = database.rows()
    answer = api.post(PATH, json={"action": "retry", "query": "actor:send_mail", "dry_run": True})
    seen = answer.json()
    assert (answer.status_code, seen["matched"], seen["matched_at_least"]) == (200, 3, False)
    assert (seen["states"], seen["query"]) == (["dead"], "state:dead actor:send_mail")
    assert [each["id"] for each in seen["sample"]] == dead[::-1]
    assert database.rows() == before


def test_an_act_is_begun_and_carried_out_behind_the_answer(
    api: TestClient, database: Database, dead: list[str]
) -> None:
    answer = api.post(PATH, json={"action": "retry", "query": "actor:send_mail", "reason": "it is back", "rate": 500})
    begun = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"{PATH}/{begun['bulk_id']}"
    assert (begun["state"], begun["matched"], begun["done"], begun["who"]) == ("running", 3, 0, "bootstrap")
    assert states(api, dead) == {"dead"}
    database.execute("update outbox.bulk set moved_at = moved_at - interval '1 hour'")
    carry(database)
    ended = api.get(answer.headers["location"]).json()
    assert (ended["state"], ended["done"], ended["refused"]) == ("done", 3, 0)
    assert states(api, dead) == {"pending"}
    lines = database.query("select who, action, subject from outbox.audit where action = 'retry' order by id desc")
    assert [row["subject"] for row in lines] == dead
    assert {row["who"] for row in lines} == {"bootstrap"}


def test_the_same_request_begins_one_act(api: TestClient, database: Database, dead: list[str]) -> None:
    body, key = {"action": "retry", "query": "actor:send_mail"}, {"Idempotency-Key": "once"}
    first, second = api.post(PATH, json=body, headers=key), api.post(PATH, json=body, headers=key)
    assert (first.json(), first.headers["location"]) == (second.json(), second.headers["location"])
    assert second.headers["idempotency-replayed"] == "true"
    assert len(database.query("select id from outbox.bulk")) == 1


def test_acts_are_listed_newest_first_in_pages(api: TestClient) -> None:
    made = [api.post(PATH, json={"action": "cancel", "query": f"queue:q{n}"}).json()["bulk_id"] for n in range(3)]
    page = api.get(f"{PATH}?limit=2").json()
    rest = api.get(f"{PATH}?limit=2&cursor={page['next_cursor']}").json()
    assert [each["bulk_id"] for each in page["items"] + rest["items"]] == made[::-1]
    assert rest["next_cursor"] is None


def test_an_aborted_act_does_nothing_more(api: TestClient, database: Database, dead: list[str]) -> None:
    path = api.post(PATH, json={"action": "retry", "query": "actor:send_mail"}).headers["location"]
    aborted = api.post(f"{path}/abort")
    assert (aborted.status_code, aborted.json()["state"]) == (200, "aborted")
    carry(database)
    assert states(api, dead) == {"dead"}
    assert problem_of(api.post(f"{path}/abort"))["detail"] == "The act is aborted: only a running one can be aborted."


@pytest.mark.parametrize("method", ["get", "post"])
def test_an_act_that_nobody_knows_is_not_found(api: TestClient, method: str) -> None:
    path = f"{PATH}/{uuid4()}" + ("/abort" if method == "post" else "")
    assert problem_of(api.request(method, path))["status"] == 404


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"query": ""}, "/query"),
        ({"query": "zq7marker:x"}, "/query"),
        ({"query": " ".join(f"word{n}" for n in range(MOST))}, "/query"),
        ({"action": "remove"}, "/action"),
        ({"rate": 0}, "/rate"),
        ({"delay_seconds": 5}, ""),
        ({"action": "reschedule"}, ""),
        ({"action": "reschedule", "delay_seconds": 5, "run_at": "2027-01-01T00:00:00Z"}, ""),
    ],
    ids=["no filter", "no key", "too many terms", "no act", "no rate", "a time for a retry", "no time", "two times"],
)
def test_what_makes_no_sense_is_refused_and_nothing_begun(
    api: TestClient, database: Database, body: dict[str, Any], pointer: str
) -> None:
    answer = api.post(PATH, json={"action": "retry", "query": "actor:a", **body})
    assert [each["pointer"] for each in problem_of(answer)["errors"]] == [pointer], answer.text
    assert answer.status_code == 422
    assert "zq7marker" not in answer.text
    assert database.query("select id from outbox.bulk") == []


def test_all_tasks_must_be_said(api: TestClient, dead: list[str]) -> None:
    answer = api.post(PATH, json={"action": "retry", "query": "", "everything": True})
    assert (answer.status_code, answer.json()["matched"]) == (202, 3)
