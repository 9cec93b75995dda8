"""Tasks over HTTP: looked at, retried, cancelled, moved; every act in the audit."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient
from service_eyes import Database, OneRun, problem_of

from outbox.errors import TookTooLong
from outbox.reads import Reader


def enqueue(api: TestClient, **mail: Any) -> str:
    answer = api.post("/v1/mails", json={"to": "a@example.org", "subject": "s", "text": "t", **mail})
    assert answer.status_code == 202
    (task_id,) = answer.json()["task_ids"]
    return str(task_id)


def audit(database: Database) -> list[tuple[str, str, str]]:
    rows = database.query("select who, action, subject from outbox.audit order by id")
    return [(row["who"], row["action"], row["subject"]) for row in rows]


def test_a_task_is_shown_with_its_attempts(api: TestClient, database: Database) -> None:
    task_id = enqueue(api)
    fresh = api.get(f"/v1/tasks/{task_id}").json()
    assert (fresh["id"], fresh["state"], fresh["actor"], fresh["queue"]) == (task_id, "pending", "send_mail", "mail")
    assert (fresh["args"], fresh["attempts"]) == ([task_id], [])
    OneRun(database, task_id).die()
    dead = api.get(f"/v1/tasks/{task_id}").json()
    assert (dead["state"], dead["failures"]) == ("dead", 1)
    assert [(each["outcome"], each["error"]) for each in dead["attempts"]] == [("failed", "SMTPError: no such mailbox")]


def test_failures_are_listed_by_their_kind_each_with_an_example(api: TestClient, database: Database) -> None:
    for _ in range(2):
        OneRun(database, task_id := enqueue(api)).die()
    (listed,) = api.get("/v1/failures").json()["items"]
    assert (listed["count"], listed["dead"], listed["actors"], listed["example"]) == (2, 2, ["send_mail"], task_id)
    one = api.get(f"/v1/failures/{listed['failure']}").json()
    assert (one["error"], one["traceback"], one["logs"]) == ("SMTPError: no such mailbox", "Traceback ...", None)
    assert len(api.get("/v1/tasks", params={"q": listed["query"]}).json()["items"]) == 2
    assert api.get(f"/v1/tasks/{task_id}").json()["attempts"][0]["failure"] == listed["failure"]
    assert api.get("/v1/failures", params={"since": "2030-01-01T00:00:00Z"}).json() == {"items": []}
    for unknown in ("0" * 12, "x"):
        assert api.get(f"/v1/failures/{unknown}").status_code == 404


def test_a_task_says_why_it_does_not_run_and_what_mends_it(api: TestClient, database: Database) -> None:
    task_id = enqueue(api)

    def why() -> dict[str, Any]:
        told: dict[str, Any] = api.get(f"/v1/tasks/{task_id}").json()["why"]
        return told

    assert (why()["cause"], why()["mend"]) == ("relay_stopped", "Start: outbox relay")
    database.execute(
        "insert into outbox.queue (name, paused, paused_by, paused_at) values ('mail', true, 'ada', now())"
    )
    assert (why()["told"], why()["mend"]) == ("The queue mail is paused by ada.", "outbox queues resume mail")
    database.execute("delete from outbox.queue")
    assert (
        api.post(f"/v1/tasks/{task_id}/reschedule", json={"delay_seconds": 3600}).json()["why"]["cause"] == "scheduled"
    )
    assert why()["until"] is not None


def test_tasks_are_listed_newest_first_in_pages(api: TestClient) -> None:
    made = [enqueue(api) for _ in range(5)]
    seen: list[str] = []
    cursor = ""
    for expected in (2, 2, 1):
        page = api.get(f"/v1/tasks?limit=2&cursor={cursor}").json()
        assert len(page["items"]) == expected
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert cursor is None
    assert seen == made[::-1]


def test_tasks_are_filtered(api: TestClient, database: Database) -> None:
    now, later, dead = enqueue(api), enqueue(api, send_at="2027-01-01T00:00:00Z"), enqueue(api)
    OneRun(database, dead).die()

    def ids(query: str) -> set[str]:
        answer = api.get(f"/v1/tasks?{query}")
        assert answer.status_code == 200, answer.text
        return {item["id"] for item in answer.json()["items"]}

    assert ids("state=pending") == {now}
    assert ids("state=scheduled&state=dead") == {later, dead}
    assert ids("state=&actor=&queue=&since=&cursor=") == {now, later, dead}
    assert ids("actor=send_mail&queue=mail&since=2020-01-01T00:00:00Z") == {now, later, dead}
    assert ids("actor=other") == ids("queue=other") == ids("since=2099-01-01T00:00:00Z") == set()


def test_a_query_finds_what_it_finds_on_the_command_line(api: TestClient, database: Database) -> None:
    now, later = enqueue(api), enqueue(api, send_at="2027-01-01T00:00:00Z")

    def ids(line: str, **more: str) -> set[str]:
        answer = api.get("/v1/tasks", params={"q": line, **more})
        assert answer.status_code == 200, answer.text
        return {item["id"] for item in answer.json()["items"]}

    assert ids("actor:send_mail state:pending") == {now}
    assert ids(f"args.0:{later}") == ids(f"send {later}") == {later}
    assert ids("actor:send_mail since:1h", state="scheduled") == {later}
    assert ids("") == {now, later}
    OneRun(database, now).die()
    assert ids('error:"no such MAILBOX"') == {now}


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        ("actor:a state:zq7marker", "at character 9: no task has this state; these are: scheduled, waiting, pending"),
        ("zq7marker:x", "at character 1: there is no such key. Keys are state, actor"),
        ('error:"zq7marker', "at character 7: this quote is not closed"),
        ("a\x00", "at character 1: no task holds NUL"),
    ],
)
def test_a_query_that_cannot_be_read_is_told_where_and_what_to_write_instead(
    api: TestClient, line: str, detail: str
) -> None:
    answer = api.get("/v1/tasks", params={"q": line})
    (wrong,) = problem_of(answer)["errors"]
    assert (answer.status_code, wrong["pointer"], wrong["detail"].startswith(detail)) == (422, "query/q", True), wrong
    assert "zq7marker" not in answer.text


def test_what_the_query_and_a_parameter_both_say_once_is_refused(api: TestClient) -> None:
    answer = api.get("/v1/tasks", params={"q": "since:2h", "since": "2026-01-01T00:00:00Z"})
    assert problem_of(answer)["errors"][0]["detail"] == "together with the other parameters: since is given twice."


def test_a_query_that_reads_too_much_is_given_up(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def given_up(*_args: object, **_options: object) -> None:
        raise TookTooLong(timedelta(seconds=5))

    monkeypatch.setattr(Reader, "tasks", given_up)
    answer = api.get("/v1/tasks", params={"q": "x"})
    assert answer.status_code == 422
    assert problem_of(answer)["errors"][0]["detail"].startswith("The search was given up after 5 s: narrow it")


def test_an_empty_cursor_is_the_first_page_of_every_list(api: TestClient) -> None:
    enqueue(api)
    assert api.post("/v1/endpoints", json={"url": "https://h.example.org/", "event_types": ["*"]}).status_code == 201
    for path in ("/v1/tasks", "/v1/endpoints"):
        assert len(api.get(f"{path}?cursor=").json()["items"]) == 1


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("state=ready", "query/state/0"),
        ("limit=0", "query/limit"),
        ("limit=201", "query/limit"),
        ("limit=x", "query/limit"),
        ("since=yesterday", "query/since"),
        ("since=2026-01-01T00:00:00", "query/since"),
        ("since=1700000000", "query/since"),
        ("cursor=!", "query/cursor"),
        ("cursor=AAAA", "query/cursor"),
        ("actor=%00", "query/actor"),
        ("queue=a%0Ab", "query/queue"),
        ("actor=" + "x" * 256, "query/actor"),
        ("order=asc", "query"),
    ],
)
def test_a_wrong_filter_is_refused(api: TestClient, query: str, pointer: str) -> None:
    answer = api.get(f"/v1/tasks?{query}")
    assert answer.status_code == 422
    assert [each["pointer"] for each in problem_of(answer)["errors"]] == [pointer]


def test_a_waiting_task_is_cancelled_at_once(api: TestClient, database: Database) -> None:
    task_id = enqueue(api)
    answer = api.post(f"/v1/tasks/{task_id}/cancel", json={"reason": "wrong recipient"})
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    assert answer.json()["reason"] == "wrong recipient"
    assert audit(database) == [("bootstrap", "cancel", task_id)]
    assert problem_of(api.post(f"/v1/tasks/{task_id}/cancel"))["status"] == 409


def test_cancelling_what_runs_is_a_request(api: TestClient, database: Database) -> None:
    task_id = enqueue(api)
    run = OneRun(database, task_id)
    answer = api.post(f"/v1/tasks/{task_id}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (202, "running")
    assert answer.json()["cancel_requested"] is True
    run.close()


def test_a_dead_task_is_retried_under_its_id(api: TestClient, database: Database) -> None:
    task_id = enqueue(api)
    OneRun(database, task_id).die()
    answer = api.post(f"/v1/tasks/{task_id}/retry")
    assert (answer.status_code, answer.json()["id"], answer.json()["state"]) == (200, task_id, "pending")
    assert len(answer.json()["attempts"]) == 1
    assert audit(database) == [("bootstrap", "retry", task_id)]
    assert problem_of(api.post(f"/v1/tasks/{task_id}/retry"))["status"] == 409


def test_a_task_is_moved_to_another_time(api: TestClient, database: Database) -> None:
    task_id = enqueue(api)
    answer = api.post(f"/v1/tasks/{task_id}/reschedule", json={"run_at": "2027-06-01T10:00:00+02:00"})
    assert (answer.status_code, answer.json()["state"]) == (200, "scheduled")
    assert answer.json()["due_at"].startswith("2027-06-01T")
    answer = api.post(f"/v1/tasks/{task_id}/reschedule", json={"delay_seconds": 0})
    assert answer.status_code == 200
    assert audit(database) == [("bootstrap", "reschedule", task_id)] * 2


def test_what_runs_is_not_moved(api: TestClient, database: Database) -> None:
    task_id = enqueue(api)
    run = OneRun(database, task_id)
    assert problem_of(api.post(f"/v1/tasks/{task_id}/reschedule", json={"delay_seconds": 0}))["status"] == 409
    run.close()


@pytest.mark.parametrize("act", ["", "/retry", "/cancel", "/reschedule"])
def test_an_unknown_task_is_not_found(api: TestClient, database: Database, act: str) -> None:
    before = database.rows()
    path = f"/v1/tasks/{uuid4()}{act}"
    body = {"delay_seconds": 1} if act == "/reschedule" else None
    answer = api.post(path, json=body) if act else api.get(path)
    assert problem_of(answer)["status"] == 404
    assert database.rows() == before


def test_a_value_that_was_not_shown_as_redacted_cannot_be_kept(api: TestClient, database: Database) -> None:
    task = api.post("/v1/mails", json={"to": "a@example.org", "subject": "s", "text": "t"}).json()["mail_id"]
    assert api.post(f"/v1/tasks/{task}/cancel", json={}).status_code == 200
    refused = api.post(f"/v1/tasks/{task}/edit", json={"args": [], "kwargs": {"x": "[redacted]"}})
    assert problem_of(refused)["errors"][0]["pointer"] == "body"
    assert refused.status_code == 422
    assert database.one("select count(*) as tasks from outbox.task")["tasks"] == 0
