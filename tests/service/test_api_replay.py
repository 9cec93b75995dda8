"""Replays over HTTP: asked for, watched, aborted; carried out page by page by tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from service_eyes import Database, OneRun, problem_of
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from actors import webhooks
from outbox.run import Run, _current
from service.database import engine_for
from service.settings import Settings

SINCE = "2020-01-01T00:00:00Z"
EVENT = {"type": "user.created", "data": 1}


class Pages:
    """Runs a replay's pages in this process, as a worker does: each commits with its outcome."""

    def __init__(self, engine: Engine, database: Database) -> None:
        self._engine = engine
        self._database = database

    def session(self) -> Session:
        return Session(self._engine, expire_on_commit=False)

    def starts(self, run: Run) -> bool:
        return True

    def record(self, run: Run, session: Session) -> bool:
        return True

    def run(self) -> int:
        """All of them; answers how many there were."""
        ran = 0
        while rows := self._database.query("delete from outbox.task where actor = 'replay_page' returning id, args"):
            for row in rows:
                self._run(row["id"], row["args"])
                ran += 1
        return ran

    def _run(self, task_id: UUID, args: list[Any]) -> None:
        message = webhooks.replay_page.message(*args)
        run = Run(task_id, uuid4(), 1, 0, None, None, message, self)
        token = _current.set(run)
        try:
            webhooks.replay_page.fn(*args)
            run.session().commit()
        finally:
            run.session().close()
            _current.reset(token)


@pytest.fixture
def pages(service_url: str, database: Database) -> Iterator[Pages]:
    engine = engine_for(Settings(database_url=service_url))
    yield Pages(engine, database)
    engine.dispose()


@pytest.fixture
def late(api: TestClient) -> Callable[[], str]:
    """The path of an endpoint that comes when events have been."""

    def create() -> str:
        made = api.post("/v1/endpoints", json={"url": "https://hooks.example.org/in", "event_types": ["user.*"]})
        return f"/v1/endpoints/{made.json()['endpoint_id']}"

    return create


@pytest.fixture
def path(late: Callable[[], str]) -> str:
    """Of an endpoint."""
    return late()


def start(api: TestClient, path: str, key: str | None = None, **given: Any) -> dict[str, Any]:
    answer = api.post(f"{path}/replay", json={"since": SINCE, **given}, headers={"Idempotency-Key": key} if key else {})
    assert answer.status_code == 202, answer.text
    content: dict[str, Any] = answer.json()
    return content


def test_a_replay_is_a_row_and_the_task_of_its_first_page(api: TestClient, database: Database, path: str) -> None:
    started = start(api, path, event_types=["user.created"], which="failed")
    (task,) = database.query("select id, actor, args from outbox.task")
    assert [str(task["id"])] == started["task_ids"]
    assert (task["actor"], task["args"]) == ("replay_page", [started["replay_id"]])
    assert (started["status"], started["which"], started["event_types"]) == ("running", "failed", ["user.created"])
    assert (started["seen"], started["enqueued"], started["total"], started["ended_at"]) == (0, 0, None, None)
    assert path.endswith(started["endpoint_id"])
    read = api.get(f"/v1/replays/{started['replay_id']}").json()
    assert read == {name: value for name, value in started.items() if name != "task_ids"}


def test_the_period_ends_now_and_begins_within_the_retention(api: TestClient, database: Database, path: str) -> None:
    started = start(api, path, until="2999-01-01T00:00:00Z")
    assert started["until"] == started["created_at"]
    row = database.one("select created_at - since = interval '30 days' as clamped from app.replay")
    assert row["clamped"]


def test_what_an_endpoint_missed_is_delivered_and_nothing_else(
    api: TestClient, database: Database, pages: Pages, late: Callable[[], str]
) -> None:
    before = api.post("/v1/events", json=EVENT).json()["event_id"]
    api.post("/v1/events", json={"type": "other", "data": 1})
    path = late()
    dead, arrived, waiting = (api.post("/v1/events", json=EVENT).json()["task_ids"][0] for _ in range(3))
    OneRun(database, dead).die()
    database.execute("update app.delivery set status = 'delivered', delivered_at = now() where id = %s", arrived)
    database.execute("delete from outbox.task where id = %s", arrived)
    started = start(api, path)
    assert pages.run() == 1
    ended = api.get(f"/v1/replays/{started['replay_id']}").json()
    assert (ended["status"], ended["seen"], ended["enqueued"], ended["total"]) == ("done", 5, 2, 5)
    assert ended["ended_at"]
    (first,) = database.query("select d.id, d.webhook_id from app.delivery d where event_id = %s", UUID(before))
    assert first["webhook_id"] is None
    under_way = {str(row["id"]) for row in database.query("select id from outbox.task where queue = 'webhooks'")}
    assert under_way == {dead, waiting, str(first["id"])}
    again = start(api, path)
    pages.run()
    assert api.get(f"/v1/replays/{again['replay_id']}").json()["enqueued"] == 0


def test_a_repeated_request_starts_no_second_replay(api: TestClient, database: Database, path: str) -> None:
    assert start(api, path, key="r-1") == start(api, path, key="r-1")
    assert database.rows()["app.replay"] == 1


def test_replays_are_listed_newest_first_in_pages(api: TestClient, path: str, late: Callable[[], str]) -> None:
    made = [start(api, path)["replay_id"] for _ in range(3)]
    start(api, late())
    first = api.get(f"{path}/replays?limit=2").json()
    rest = api.get(f"{path}/replays?limit=2&cursor={first['next_cursor']}").json()
    assert [each["replay_id"] for each in first["items"] + rest["items"]] == made[::-1]
    assert rest["next_cursor"] is None


def test_an_aborted_replay_enqueues_nothing_more(
    api: TestClient, database: Database, pages: Pages, late: Callable[[], str]
) -> None:
    api.post("/v1/events", json=EVENT)
    started = start(api, late())
    aborted = api.post(f"/v1/replays/{started['replay_id']}/abort")
    assert aborted.status_code == 200
    assert (aborted.json()["status"], aborted.json()["reason"]) == ("aborted", "aborted by bootstrap")
    assert aborted.json()["ended_at"]
    pages.run()
    assert database.rows()["app.delivery"] == 0
    assert api.get(f"/v1/replays/{started['replay_id']}").json() == aborted.json()
    problem = problem_of(api.post(f"/v1/replays/{started['replay_id']}/abort"))
    assert (problem["status"], problem["detail"]) == (409, "The replay is aborted.")


def test_who_started_and_who_aborted_is_on_record(api: TestClient, database: Database, path: str) -> None:
    replay_id = start(api, path)["replay_id"]
    api.post(f"/v1/replays/{replay_id}/abort")
    lines = database.query("select who, action, subject, detail ->> 'replay' as replay from outbox.audit order by at")
    subject = path.removeprefix("/v1/endpoints/")
    assert [tuple(row.values()) for row in lines] == [
        ("bootstrap", "replay", f"endpoint/{subject}", replay_id),
        ("bootstrap", "abort replay", f"endpoint/{subject}", replay_id),
    ]


@pytest.mark.parametrize(
    ("given", "pointer"),
    [
        ({}, "/since"),
        ({"since": "2100-01-01T00:00:00Z"}, ""),
        ({"since": SINCE, "until": SINCE}, ""),
        ({"since": SINCE, "until": "2019-01-01T00:00:00Z"}, ""),
        ({"since": SINCE, "which": "none"}, "/which"),
        ({"since": SINCE, "event_types": []}, "/event_types"),
        ({"since": SINCE, "event_types": ["a b"]}, "/event_types"),
        ({"since": SINCE, "limit": 5}, ""),
    ],
)
def test_what_makes_no_sense_is_refused_and_says_where(
    api: TestClient, database: Database, path: str, given: dict[str, Any], pointer: str
) -> None:
    problem = problem_of(api.post(f"{path}/replay", json=given))
    assert problem["status"] == 422
    assert [each["pointer"] for each in problem["errors"]] == [pointer]
    assert database.rows()["app.replay"] == 0


def test_a_disabled_endpoint_gets_no_replay(api: TestClient, database: Database, path: str) -> None:
    api.patch(path, json={"enabled": False})
    assert problem_of(api.post(f"{path}/replay", json={"since": SINCE}))["status"] == 409
    assert database.rows()["app.replay"] == 0


def test_a_replay_of_all_that_was_missed_makes_up_for_it(api: TestClient, pages: Pages, path: str) -> None:
    api.patch(path, json={"enabled": False})
    missed_since = api.patch(path, json={"enabled": True}).json()["missed_since"]
    assert missed_since
    start(api, path, since=missed_since)
    pages.run()
    assert api.get(path).json()["missed_since"] is None


def test_what_is_not_there_is_not_found(api: TestClient) -> None:
    for method, path in (
        ("POST", f"/v1/endpoints/{uuid4()}/replay"),
        ("GET", f"/v1/endpoints/{uuid4()}/replays"),
        ("GET", f"/v1/replays/{uuid4()}"),
        ("POST", f"/v1/replays/{uuid4()}/abort"),
    ):
        body = {"since": SINCE} if path.endswith("replay") else None
        assert problem_of(api.request(method, path, json=body))["status"] == 404, path
