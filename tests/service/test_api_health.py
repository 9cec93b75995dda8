"""Health: alive without anything, ready with the database alone, metrics in any case."""

from __future__ import annotations

import psycopg
import pytest
from fastapi.testclient import TestClient
from service_eyes import ADMIN, Database, problem_of, settings_for

from service.app import create_app
from service.database import engine_for


def test_a_migrated_database_is_all_that_readiness_needs(api: TestClient, surroundings: None) -> None:
    """No broker runs at the address that the environment gives."""
    assert api.get("/livez").json() == {"live": True}
    assert api.get("/readyz").json() == {"ready": True}


def test_a_database_without_tables_is_not_ready(empty_database_url: str, surroundings: None) -> None:
    with TestClient(create_app(settings_for(empty_database_url))) as api:
        answer = api.get("/readyz")
        assert answer.status_code == 503
        assert "migrated" in problem_of(answer)["detail"]
        assert api.get("/livez").status_code == 200


def test_with_the_database_down_only_promises_are_refused(unreachable_url: str, surroundings: None) -> None:
    with TestClient(create_app(settings_for(unreachable_url))) as api:
        assert api.get("/livez").status_code == 200
        key = {"Authorization": f"Bearer {ADMIN}"}
        for answer in (
            api.get("/readyz"),
            api.get("/v1/tasks", headers=key),
            api.get("/v1/tasks", headers={"Authorization": "Bearer of-somebody"}),
            api.post("/v1/signups", json={"email": "a@example.org", "name": "A"}, headers=key),
        ):
            assert answer.status_code == 503
            assert problem_of(answer)["type"] == "/problems/unavailable"
            assert int(answer.headers["retry-after"]) > 0
        metrics = api.get("/metrics")
        assert metrics.status_code == 200
        assert "api_database_up 0.0" in metrics.text


def test_metrics_count_requests_and_tell_whether_the_database_answers(api: TestClient, database: Database) -> None:
    api.post("/v1/mails", json={"to": "a@example.org", "subject": "s", "text": "t"})
    api.post("/v1/mails", json={"to": "nobody", "subject": "s", "text": "t"})
    api.get("/nowhere/zq7marker")
    told = api.get("/metrics").text
    lines = told.splitlines()
    assert "api_database_up 1.0" in lines
    assert any(line.startswith('http_requests_total{method="POST",route="/v1/mails",status="202"}') for line in lines)
    assert any(line.startswith('http_requests_total{method="POST",route="/v1/mails",status="422"}') for line in lines)
    assert any(line.startswith('http_requests_total{method="GET",route="unmatched",status="404"}') for line in lines)
    assert "zq7marker" not in told


def test_a_request_id_of_the_caller_is_kept_if_it_is_plain(api: TestClient) -> None:
    assert api.get("/livez", headers={"X-Request-ID": "abc-1"}).headers["x-request-id"] == "abc-1"
    made = api.get("/livez", headers={"X-Request-ID": "a b\tc"}).headers["x-request-id"]
    assert made not in ("", "a b\tc")


def test_a_surprise_is_a_problem_that_tells_nothing(running: TestClient, database: Database) -> None:
    """Something that no code expects: the table of users has a trigger that fails."""
    quiet = TestClient(running.app, raise_server_exceptions=False, headers=running.headers)
    database.execute(
        """create or replace function app.surprise() returns trigger language plpgsql as
        $$ begin raise exception using errcode = 'XX001', message = 'zq7marker'; end $$"""
    )
    database.execute("create trigger surprise before insert on app.user execute function app.surprise()")
    try:
        answer = quiet.post("/v1/signups", json={"email": "a@example.org", "name": "A"})
    finally:
        database.execute("drop trigger surprise on app.user")
    assert answer.status_code == 500
    problem_of(answer)
    assert "zq7marker" not in answer.text
    assert not any(database.rows().values())


def test_every_kind_of_problem_explains_itself(api: TestClient) -> None:
    from service.problems import KINDS

    for slug, kind in KINDS.items():
        told = api.get(f"/problems/{slug}")
        assert told.status_code == 200
        assert kind.meaning in told.text


def test_no_request_waits_for_a_connection_while_it_holds_one(
    service_url: str, database: Database, surroundings: None
) -> None:
    """Four threads, four connections, forty requests that all want the same row: none is starved."""
    from concurrent.futures import ThreadPoolExecutor

    with TestClient(create_app(settings_for(service_url, threads=4))) as api:
        api.headers["Authorization"] = f"Bearer {ADMIN}"
        with ThreadPoolExecutor(40) as threads:
            answers = list(
                threads.map(
                    lambda n: api.post(
                        "/v1/events", json={"type": "a", "data": 1}, headers={"Idempotency-Key": f"k-{n % 2}"}
                    ),
                    range(40),
                )
            )
    assert {answer.status_code for answer in answers} == {202}
    with psycopg.connect(database.url) as connection:
        assert connection.execute("select count(*) from app.event").fetchone() == (2,)


def test_the_database_takes_every_letter_whatever_the_environment_calls_its_encoding(
    service_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    engine = engine_for(settings_for(service_url))
    with engine.connect() as connection:
        assert connection.exec_driver_sql("select 'Привет 💣'").scalar_one() == "Привет 💣"
    engine.dispose()
