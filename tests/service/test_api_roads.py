"""What each creating route writes: its rows and its tasks, in one transaction."""

from __future__ import annotations

import email
import json
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from service_eyes import Database, problem_of

RECEIVER = "http://127.0.0.1:8099/hook"


def subscribe(api: TestClient, *event_types: str, url: str = RECEIVER) -> str:
    answer = api.post("/v1/endpoints", json={"url": url, "event_types": event_types})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["endpoint_id"])


def tasks_of(database: Database) -> dict[str, str]:
    """Actor by task id."""
    return {str(row["id"]): row["actor"] for row in database.query("select id, actor from outbox.task")}


def test_a_signup_is_a_user_and_a_welcome_mail(api: TestClient, database: Database) -> None:
    answer = api.post("/v1/signups", json={"email": "Ada@Example.ORG", "name": "Ada Lovelace"})
    assert answer.status_code == 201
    content = answer.json()
    assert set(content) == {"user_id", "task_ids"}
    user = database.one("select * from app.user")
    assert (str(user["id"]), user["email"], user["name"]) == (content["user_id"], "Ada@example.org", "Ada Lovelace")
    mail = database.one("select * from app.mail")
    assert content["task_ids"] == [str(mail["id"])]
    assert mail["recipient"] == "Ada@example.org"
    assert b"Ada Lovelace" in bytes(mail["body"])
    assert tasks_of(database) == {str(mail["id"]): "send_mail"}


@pytest.mark.parametrize("again", ["ada@example.org", "ADA@EXAMPLE.ORG", "ada@Example.Org"])
def test_an_address_signs_up_once(api: TestClient, database: Database, again: str) -> None:
    assert api.post("/v1/signups", json={"email": "ada@example.org", "name": "Ada"}).status_code == 201
    before = database.rows()
    answer = api.post("/v1/signups", json={"email": again, "name": "Somebody"})
    assert answer.status_code == 409
    problem_of(answer)
    assert database.rows() == before


def test_an_order_is_a_receipt_webhooks_and_a_count(api: TestClient, database: Database) -> None:
    every, orders = subscribe(api, "*"), subscribe(api, "order.*")
    subscribe(api, "user.created")
    items = [
        {"sku": "TEA-1", "quantity": 3, "unit_price_cents": 450},
        {"sku": "CUP", "quantity": 1, "unit_price_cents": 0},
    ]
    answer = api.post(
        "/v1/orders", json={"email": "a@example.org", "items": items, "currency": "EUR", "client_id": "c-1"}
    )
    assert answer.status_code == 201
    content = answer.json()
    assert set(content) == {"order_id", "total_cents", "task_ids"}
    assert content["total_cents"] == 1350
    order = database.one("select * from app.order")
    assert (str(order["id"]), order["total_cents"], order["currency"]) == (content["order_id"], 1350, "EUR")
    assert database.query("select sku, quantity, unit_price_cents from app.order_item order by position") == items
    tasks = tasks_of(database)
    assert sorted(tasks) == sorted(content["task_ids"])
    assert sorted(tasks.values()) == ["count_event", "deliver_webhook", "deliver_webhook", "render_receipt"]
    deliveries = database.query("select * from app.delivery")
    assert {str(row["endpoint_id"]) for row in deliveries} == {every, orders}
    body = json.loads(bytes(database.one("select body from app.payload")["body"]))
    assert body["type"] == "order.placed"
    assert body["data"]["order_id"] == content["order_id"]
    assert body["data"]["items"] == items


def test_an_event_goes_once_to_each_endpoint_that_subscribed(api: TestClient, database: Database) -> None:
    wanted = {subscribe(api, "user.*"), subscribe(api, "*"), subscribe(api, "user.created", "user.*")}
    subscribe(api, "order.*")
    disabled = subscribe(api, "*")
    assert api.patch(f"/v1/endpoints/{disabled}", json={"enabled": False}).status_code == 200
    answer = api.post("/v1/events", json={"type": "user.created", "data": {"id": 1}})
    assert answer.status_code == 202
    content = answer.json()
    deliveries = database.query("select * from app.delivery")
    assert {str(row["endpoint_id"]) for row in deliveries} == wanted
    assert {str(row["event_id"]) for row in deliveries} == {content["event_id"]}
    assert sorted(str(row["id"]) for row in deliveries) == sorted(content["task_ids"]) == sorted(tasks_of(database))


def test_an_event_that_nobody_wants_is_kept(api: TestClient, database: Database) -> None:
    answer = api.post("/v1/events", json={"type": "user.created", "data": None})
    assert (answer.status_code, answer.json()["task_ids"]) == (202, [])
    assert database.one("select type, content from app.event") == {"type": "user.created", "content": b"null"}


@pytest.mark.parametrize(
    "data",
    [
        b"null",
        b"1",
        b'""',
        b"[1]",
        b'{"b":1,"a":2}',
        b'{"a":1.0}',
        b'{"a":1}',
        b'{"a":12345678901234567890123}',
        b'{"a":1E5, "b" :\t[ ] }',
        b'{"a":"\\u0000"}',
        b'{"\\u0000":"\\ud800"}',
        b'{"a":"\\u00e9 \\/ /"}',
        '{"ä":"😀 "}'.encode(),
        b'{"a":1,"a":2}',
        b'{"data":{"data":3}}',
        b"[" * 60 + b"]" * 60,
    ],
)
def test_event_data_is_kept_and_sent_as_the_bytes_that_came(api: TestClient, database: Database, data: bytes) -> None:
    subscribe(api, "*")
    body = b'{"type": "a.b", "data": ' + data + b' , "client_id":"x"}'
    answer = api.post("/v1/events", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 202, answer.text
    assert bytes(database.one("select content from app.event")["content"]) == data
    assert bytes(database.one("select body from app.payload")["body"]).endswith(b'"data":' + data + b"}")


def test_a_mail_is_built_once_and_has_its_tasks_id(api: TestClient, database: Database) -> None:
    answer = api.post(
        "/v1/mails", json={"to": "ü@münchen.de", "subject": "Grüße", "text": "a\r\nb\tc", "html": "<p>é</p>"}
    )
    assert answer.status_code == 202
    content = answer.json()
    mail = database.one("select * from app.mail")
    assert content == {"mail_id": str(mail["id"]), "task_ids": [str(mail["id"])]}
    assert (mail["recipient"], mail["subject"]) == ("ü@xn--mnchen-3ya.de", "Grüße")
    assert tasks_of(database) == {content["mail_id"]: "send_mail"}


def test_a_mail_waits_for_its_time(api: TestClient, database: Database) -> None:
    answer = api.post(
        "/v1/mails",
        json={"to": "a@example.org", "subject": "Later", "text": "x", "send_at": "2027-01-31T12:00:00+01:00"},
    )
    assert answer.status_code == 202
    task = database.one("select state, due_at at time zone 'utc' as due from outbox.task")
    assert (task["state"], task["due"].isoformat()) == ("scheduled", "2027-01-31T11:00:00")


CREATING: dict[str, dict[str, Any]] = {
    "/v1/signups": {"email": "ada@example.org", "name": "Ada"},
    "/v1/orders": {
        "email": "a@example.org",
        "items": [{"sku": "TEA", "quantity": 1, "unit_price_cents": 5}],
        "currency": "EUR",
    },
    "/v1/events": {"type": "a.b", "data": {}},
    "/v1/mails": {"to": "a@example.org", "subject": "s", "text": "t"},
}


@pytest.mark.parametrize("path", CREATING)
@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k"}], ids=["plain", "with a key"])
def test_if_the_commit_fails_nothing_is_promised_and_nothing_written(
    api: TestClient, database: Database, path: str, headers: dict[str, str]
) -> None:
    subscribe(api, "*")
    before = database.rows()
    database.execute(
        """create or replace function app.die() returns trigger language plpgsql as
        $$ begin perform pg_terminate_backend(pg_backend_pid()); return null; end $$"""
    )
    database.execute(
        """create constraint trigger die after insert on outbox.task deferrable initially deferred
        for each row execute function app.die()"""
    )
    try:
        answer = api.post(path, json=CREATING[path], headers=headers)
    finally:
        database.execute("drop trigger die on outbox.task")
    assert answer.status_code == 503
    problem_of(answer)
    assert int(answer.headers["retry-after"]) > 0
    assert database.rows() == before
    answer = api.post(path, json=CREATING[path], headers=headers)
    assert answer.status_code in (201, 202)
    assert UUID(answer.json()["task_ids"][0])


@pytest.mark.parametrize("send_at", ["1970-01-01T00:00:00Z", "2020-06-01T12:00:00+02:00"])
def test_a_time_that_is_past_means_now(api: TestClient, database: Database, send_at: str) -> None:
    answer = api.post("/v1/mails", json={"to": "a@example.org", "subject": "s", "text": "t", "send_at": send_at})
    assert answer.status_code == 202
    mail = database.one("select send_at, body from app.mail")
    assert mail["send_at"] is None
    dated = email.message_from_bytes(bytes(mail["body"]))["Date"]
    assert parsedate_to_datetime(dated) > datetime.now(UTC) - timedelta(minutes=5)
    (task,) = api.get("/v1/tasks").json()["items"]
    assert task["state"] == "pending"


@pytest.mark.parametrize("send_at", ["1969-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_could_not_be_read_back_is_refused(api: TestClient, database: Database, send_at: str) -> None:
    answer = api.post("/v1/mails", json={"to": "a@example.org", "subject": "s", "text": "t", "send_at": send_at})
    assert [each["pointer"] for each in problem_of(answer)["errors"]] == ["/send_at"]
    assert not any(database.rows().values())
    listed = api.get("/v1/tasks", params={"since": send_at})
    assert [each["pointer"] for each in problem_of(listed)["errors"]] == ["query/since"]
