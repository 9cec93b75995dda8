"""Beside the tasks: queues and schedules with their switches, processes, figures, the audit, and what needs attention."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import psycopg
import pytest
from fastapi.testclient import TestClient
from service_eyes import Database, problem_of

from outbox.ledger import Ledger

ODD = "nightly/report ü?#"
MAIL = {"to": "a@example.org", "subject": "s", "text": "t"}


def queue(api: TestClient, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in api.get("/v1/queues").json()["items"] if each["name"] == name)
    return found


@pytest.fixture
def schedule(database: Database) -> str:
    database.execute(
        "insert into outbox.schedule (name, actor, queue, cron, fired_through) values"
        " (%s, 'report', 'default', '0 2 * * *', clock_timestamp())",
        ODD,
    )
    return f"/v1/schedules/{quote(ODD, safe='')}"


def test_a_queue_is_paused_and_goes_on(api: TestClient, database: Database) -> None:
    api.post("/v1/mails", json=MAIL)
    assert queue(api, "mail")["counts"]["pending"] == {"number": 1, "at_least": False}
    paused = api.post("/v1/queues/mail/pause").json()
    assert paused == {"queue": "mail", "paused": True, "taken_back": 0}
    assert (queue(api, "mail")["paused"], queue(api, "mail")["paused_by"]) == (True, "bootstrap")
    assert api.post("/v1/queues/mail/resume").json()["paused"] is False
    assert problem_of(api.post("/v1/queues/mail/resume"))["detail"] == "The queue is not paused."
    assert [row["action"] for row in database.query("select action from outbox.audit order by id")] == [
        "pause queue", "resume queue",
    ]  # fmt: skip


def test_a_queue_that_is_not_there_is_404_whatever_it_is_called(api: TestClient) -> None:
    for name in ("nothing", "a%2Fb", "a/b", "%3F", "pause", "%20x"):
        for act in ("pause", "resume"):
            assert problem_of(api.post(f"/v1/queues/{name}/{act}"))["status"] == 404, name
    assert problem_of(api.post("/v1/queues/a%00b/pause"))["status"] == 422


def test_a_queue_with_an_odd_name_is_reached_by_it(api: TestClient, database: Database) -> None:
    with psycopg.connect(database.url, autocommit=True) as conn:
        Ledger().queue_epoch(conn, ODD)
    assert api.post(f"/v1/queues/{quote(ODD, safe='')}/pause").json()["queue"] == ODD
    assert queue(api, ODD)["paused"]


def test_a_schedule_tells_its_next_fires_and_its_last(api: TestClient, schedule: str) -> None:
    (listed,) = api.get("/v1/schedules").json()["items"]
    shown = api.get(schedule).json()
    assert shown["name"] == ODD
    assert (len(shown["next_fires"]), shown["fires"]) == (5, [])
    assert shown["next_fires"][0] == shown["next_fire_at"] == listed["next_fire_at"]
    assert problem_of(api.get("/v1/schedules/nothing"))["status"] == 404


def test_a_schedule_is_run_once_by_its_key(api: TestClient, database: Database, schedule: str) -> None:
    first, again = (api.post(f"{schedule}/run", headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert (first.status_code, first.json()) == (202, again.json())
    assert database.one("select id::text as id from outbox.task")["id"] == first.json()["task_id"]
    (fire,) = api.get(schedule).json()["fires"]
    assert (fire["outcome"], fire["task_id"]) == ("by hand", first.json()["task_id"])


def test_a_schedule_is_paused_and_goes_on(api: TestClient, database: Database, schedule: str) -> None:
    paused = api.post(f"{schedule}/pause").json()
    assert (paused["paused"], paused["next_fire_at"], paused["next_fires"]) == (True, None, [])
    assert len(api.post(f"{schedule}/resume").json()["next_fires"]) == 5
    assert problem_of(api.post(f"{schedule}/resume"))["detail"] == "The schedule is not paused."
    database.execute("update outbox.schedule set retired = true")
    assert problem_of(api.post(f"{schedule}/run"))["status"] == 409


def test_processes_are_told_with_their_heartbeats(api: TestClient, database: Database) -> None:
    with psycopg.connect(database.url, autocommit=True) as conn:
        Ledger().join(
            conn, worker=uuid4(), kind="worker", host="here", pid=1, queues=["mail"], threads=3, lease=timedelta(seconds=10)
        )  # fmt: skip
    (process,) = api.get("/v1/processes").json()["items"]
    assert (process["kind"], process["queues"], process["alive"], process["lease"]) == ("worker", ["mail"], True, 10)


def test_the_audit_is_filtered_and_paged(api: TestClient) -> None:
    ids = [api.post("/v1/mails", json=MAIL).json()["mail_id"] for _ in range(3)]
    for id in ids:
        api.post(f"/v1/tasks/{id}/cancel", json={"reason": "postgresql://me:sesame@host/x"})
    page = api.get("/v1/audit?limit=2").json()
    rest = api.get("/v1/audit", params={"limit": 2, "cursor": page["next_cursor"]}).json()
    assert [each["subject"] for each in page["items"] + rest["items"]] == ids[::-1]
    assert rest["next_cursor"] is None
    assert "sesame" not in str(page)
    (one,) = api.get("/v1/audit", params={"subject": ids[0], "action": "cancel", "who": "bootstrap"}).json()["items"]
    assert one["detail"]["outcome"] == "cancelled"
    assert api.get("/v1/audit?who=nobody").json()["items"] == []


def test_stats_count_what_ended(api: TestClient) -> None:
    id = api.post("/v1/mails", json=MAIL).json()["mail_id"]
    api.post(f"/v1/tasks/{id}/cancel")
    stats = api.get("/v1/stats").json()
    assert (stats["total"]["cancelled"], stats["actors"][0]["actor"]) == (1, "send_mail")
    assert api.get("/v1/stats?since=2100-01-01T00:00:00Z").json()["total"]["cancelled"] == 0


def test_attention_names_what_is_missing_and_what_is_wrong_outside(api: TestClient, database: Database) -> None:
    api.post("/v1/mails", json=MAIL)
    api.post("/v1/endpoints", json={"url": "https://h.example.org/", "event_types": ["*"]})
    database.execute("update app.endpoint set enabled = false, disabled_at = now(), disabled_reason = 'gone'")
    found = {each["cause"]: each for each in api.get("/v1/attention").json()["items"]}
    assert {"no_relay", "no_worker", "endpoint_disabled"} <= set(found)
    assert found["no_worker"]["mend"] == "Start: outbox worker --queues mail"


def test_a_cancelled_task_runs_again_with_other_arguments_as_another_task(api: TestClient, database: Database) -> None:
    id = api.post("/v1/mails", json=MAIL).json()["mail_id"]
    edit = f"/v1/tasks/{id}/edit"
    assert problem_of(api.post(edit, json={}))["status"] == 409
    api.post(f"/v1/tasks/{id}/cancel")
    made, again = (api.post(edit, json={"args": ["other"]}, headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert (made.status_code, made.json()["args"], made.json()["state"]) == (201, ["other"], "pending")
    assert again.json()["id"] == made.json()["id"] != id
    assert api.get(f"/v1/tasks/{id}").json()["state"] == "cancelled"
    assert problem_of(api.post(f"/v1/tasks/{uuid4()}/edit", json={}))["status"] == 404


def test_what_is_shown_as_redacted_and_left_so_keeps_its_value(api: TestClient, database: Database) -> None:
    id = api.post("/v1/mails", json=MAIL).json()["mail_id"]
    api.post(f"/v1/tasks/{id}/cancel")
    first = api.post(f"/v1/tasks/{id}/edit", json={"kwargs": {"password": "sesame"}}).json()
    assert first["kwargs"] == {"password": "[redacted]"}
    api.post(f"/v1/tasks/{first['id']}/cancel")
    second = api.post(f"/v1/tasks/{first['id']}/edit", json={"kwargs": first["kwargs"]}).json()
    row = database.one("select kwargs from outbox.task where id = %s", second["id"])
    assert row["kwargs"] == {"password": "sesame"}
    assert "sesame" not in str(database.query("select detail from outbox.audit"))
