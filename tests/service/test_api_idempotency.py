"""Idempotency-Key and client_id: however often and however much at once, the work is done once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient
from service_eyes import ADMIN, GOOD, Database, problem_of

CREATING = ["/v1/signups", "/v1/orders", "/v1/events", "/v1/mails", "/v1/endpoints"]


def bodies_without_client_id() -> list[Any]:
    return [
        pytest.param(path, {key: value for key, value in GOOD[path].items() if key != "client_id"}, id=path)
        for path in CREATING
    ]


def together(send: Any, times: int) -> list[Any]:
    """The answers to as many calls, all sent at the same moment."""
    barrier = threading.Barrier(times)

    def one(number: int) -> Any:
        barrier.wait()
        return send(number)

    with ThreadPoolExecutor(times) as threads:
        return list(threads.map(one, range(times)))


@pytest.mark.parametrize(("path", "body"), bodies_without_client_id())
def test_a_repeated_request_is_answered_again_and_not_done_again(
    api: TestClient, database: Database, path: str, body: Any
) -> None:
    first = api.post(path, json=body, headers={"Idempotency-Key": "k-1"})
    assert first.status_code in (201, 202)
    assert "idempotency-replayed" not in first.headers
    after_first = database.rows()
    again = api.post(path, json=body, headers={"Idempotency-Key": "k-1"})
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["content-type"] == first.headers["content-type"]
    assert database.rows() == after_first
    assert after_first["app.idempotency_key"] == 1


@pytest.mark.parametrize(("path", "body"), bodies_without_client_id())
def test_a_key_with_another_body_is_refused(api: TestClient, database: Database, path: str, body: Any) -> None:
    api.post(path, json=body, headers={"Idempotency-Key": "k-1"})
    before = database.rows()
    other = api.post(path, json=dict(reversed(body.items())), headers={"Idempotency-Key": "k-1"})
    assert problem_of(other)["type"] == "/problems/key-reused"
    assert other.status_code == 422
    assert database.rows() == before


def test_a_key_belongs_to_its_route_and_its_caller(api: TestClient, database: Database) -> None:
    key = {"Idempotency-Key": "k-1"}
    assert api.post("/v1/events", json={"type": "a", "data": 1}, headers=key).status_code == 202
    assert api.post("/v1/mails", json=GOOD["/v1/mails"], headers=key).status_code == 202
    database.execute("update app.idempotency_key set principal = 'somebody else'")
    answer = api.post("/v1/events", json={"type": "b", "data": 1}, headers=key)
    assert answer.status_code == 202
    assert "idempotency-replayed" not in answer.headers


def test_what_was_refused_leaves_its_key_free(api: TestClient, database: Database) -> None:
    key = {"Idempotency-Key": "k-1"}
    api.post("/v1/signups", json={"email": "a@example.org", "name": "A"})
    assert api.post("/v1/signups", json={"email": "a@example.org", "name": "A"}, headers=key).status_code == 409
    assert database.rows()["app.idempotency_key"] == 0
    assert api.post("/v1/signups", json={"email": "b@example.org", "name": "B"}, headers=key).status_code == 201


@pytest.mark.parametrize(("path", "body"), bodies_without_client_id())
def test_fifty_identical_requests_at_once_do_the_work_once(
    api: TestClient, database: Database, path: str, body: Any
) -> None:
    answers = together(lambda _: api.post(path, json=body, headers={"Idempotency-Key": "k-1"}), 50)
    assert {answer.status_code for answer in answers} <= {201, 202}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    rows = database.rows()
    alone = {table: number for table, number in rows.items() if number}
    database.empty()
    assert api.post(path, json=body, headers={"Idempotency-Key": "k-2"}).status_code in (201, 202)
    assert {table: number for table, number in database.rows().items() if number} == alone


def test_who_waits_for_a_request_that_fails_does_the_work(api: TestClient, database: Database) -> None:
    """The one that holds the key is another session, which rolls back."""
    with psycopg.connect(database.url) as holder, ThreadPoolExecutor(1) as thread:
        holder.execute(
            """insert into app.idempotency_key (principal, route, key, digest)
            values ('bootstrap', 'POST /v1/events', 'k-1', '')"""
        )
        waiting = thread.submit(
            api.post, "/v1/events", json={"type": "a", "data": 1}, headers={"Idempotency-Key": "k-1"}
        )
        blocked = (
            "select count(*) as n from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        )
        while not database.one(blocked)["n"]:
            assert not waiting.done()
        holder.rollback()
        answer = waiting.result()
    assert answer.status_code == 202
    assert database.rows()["app.event"] == 1


def test_a_key_is_free_again_after_a_day_and_expired_ones_are_cleared(api: TestClient, database: Database) -> None:
    database.execute(
        """insert into app.idempotency_key (principal, route, key, digest, status, answer, created_at)
        select 'bootstrap', 'POST /v1/events', 'k-' || n, '', 202, '{}', clock_timestamp() - interval '25 hours'
        from generate_series(1, 30) n"""
    )
    database.execute(
        """insert into app.idempotency_key (principal, route, key, digest, status, answer, created_at)
        values ('bootstrap', 'POST /v1/events', 'young', '', 202, '{}', clock_timestamp() - interval '23 hours')"""
    )
    answer = api.post("/v1/events", json={"type": "a", "data": 1}, headers={"Idempotency-Key": "k-7"})
    assert answer.status_code == 202
    assert "idempotency-replayed" not in answer.headers
    kept = {row["key"] for row in database.query("select key from app.idempotency_key")}
    assert {"k-7", "young"} <= kept
    assert len(kept) == 1 + 1 + 9
    api.post("/v1/events", json={"type": "a", "data": 1}, headers={"Idempotency-Key": "other"})
    assert {row["key"] for row in database.query("select key from app.idempotency_key")} == {"k-7", "young", "other"}


@pytest.mark.parametrize("path", ["/v1/orders", "/v1/events"])
def test_a_client_id_makes_one_resource_however_often_it_comes(api: TestClient, database: Database, path: str) -> None:
    api.post("/v1/endpoints", json={"url": "https://h.example.org/", "event_types": ["*"]})
    first = api.post(path, json=GOOD[path])
    before = database.rows()
    again = api.post(path, json=GOOD[path])
    assert (again.status_code, again.json()) == (200, first.json())
    assert first.json()["task_ids"]
    assert database.rows() == before


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("/v1/orders", {"email": "b@example.org"}),
        ("/v1/orders", {"items": [{"sku": "TEA", "quantity": 2, "unit_price_cents": 5}]}),
        ("/v1/events", {"type": "a.c"}),
        ("/v1/events", {"data": {"x": 1}}),
    ],
)
def test_a_client_id_of_something_else_is_refused(
    api: TestClient, database: Database, path: str, change: dict[str, Any]
) -> None:
    api.post(path, json=GOOD[path])
    before = database.rows()
    assert problem_of(api.post(path, json={**GOOD[path], **change}))["status"] == 409
    assert database.rows() == before


@pytest.mark.parametrize("path", ["/v1/orders", "/v1/events"])
def test_fifty_requests_with_one_client_id_at_once_make_one_resource(
    api: TestClient, database: Database, path: str
) -> None:
    answers = together(lambda n: api.post(path, json=GOOD[path], headers={"Idempotency-Key": f"k-{n}"}), 50)
    assert sorted(answer.status_code for answer in answers)[:49] == [200] * 49
    assert len({answer.content for answer in answers}) == 1
    assert database.rows()["app.order" if path == "/v1/orders" else "app.event"] == 1


def test_fifty_people_who_sign_up_with_one_address_are_one_user(api: TestClient, database: Database) -> None:
    def send(number: int) -> Any:
        return api.post("/v1/signups", json={"email": "ada@example.org", "name": f"Ada {number}"})

    answers = together(send, 50)
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 49
    rows = database.rows()
    assert (rows["app.user"], rows["app.mail"], rows["outbox.task"]) == (1, 1, 1)


def test_the_admin_key_of_the_settings_is_a_principal_of_its_own(api: TestClient, database: Database) -> None:
    api.post("/v1/events", json={"type": "a", "data": 1}, headers={"Idempotency-Key": "k"})
    row = database.one("select principal, route from app.idempotency_key")
    assert row == {"principal": "bootstrap", "route": "POST /v1/events"}
    assert ADMIN not in str(database.query("select k::text from app.idempotency_key k"))
