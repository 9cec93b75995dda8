"""The command line and the API tell the same of the same thing: what `--json` prints is valid by the API's own schemas."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import jsonschema_rs
import psycopg
import pytest
from fastapi.testclient import TestClient
from service_eyes import Database, OneRun
from typer.testing import CliRunner

from outbox.cli.root import root
from outbox.ledger import Ledger

MAIL = {"to": "a@example.org", "subject": "s", "text": "t"}
#: What differs by the moment of looking.
MOMENTS = {"silent", "oldest_due", "until", "since", "per_minute", "beat_at", "why"}

#: Words, the path that tells the same, the schema of what it answers, and where the things are in it.
SAME: list[tuple[list[str], str, str, str | None]] = [
    (["tasks", "list"], "/v1/tasks", "TaskItem", "items"),
    (["queues", "list"], "/v1/queues", "QueueItem", "items"),
    (["schedules", "list"], "/v1/schedules", "ScheduleItem", "items"),
    (["schedules", "show", "nightly"], "/v1/schedules/nightly", "ScheduleDetail", None),
    (["workers"], "/v1/processes", "ProcessItem", "items"),
    (["audit", "list"], "/v1/audit", "AuditItem", "items"),
    (["stats"], "/v1/stats", "StatsView", None),
    (["attention"], "/v1/attention", "ConcernItem", "items"),
]


@pytest.fixture
def ids(api: TestClient, database: Database) -> list[str]:
    """Two mails, one of them dead, one cancelled; a schedule that was run; a worker; a queue that is paused."""
    made = [api.post("/v1/mails", json=MAIL).json()["mail_id"] for _ in range(2)]
    OneRun(database, made[0]).die()
    api.post(f"/v1/tasks/{made[1]}/cancel", json={"reason": "no longer wanted"})
    database.execute(
        "insert into outbox.schedule (name, actor, queue, cron, fired_through) values"
        " ('nightly', 'report', 'default', '0 2 * * *', clock_timestamp())"
    )
    api.post("/v1/schedules/nightly/run")
    api.post("/v1/queues/default/pause")
    with psycopg.connect(database.url, autocommit=True) as conn:
        Ledger().join(
            conn, worker=uuid4(), kind="worker", host="here", pid=1, queues=["mail"], threads=3, lease=timedelta(seconds=10)
        )  # fmt: skip
    return made


@pytest.fixture
def told(service_url: str) -> Callable[..., Any]:
    def run(*words: str) -> Any:
        env = {**os.environ, "DATABASE_URL": service_url, "OUTBOX_APP": ""}
        return json.loads(CliRunner().invoke(root, [*words, "--json"], env=env).stdout)

    return run


def same(printed: dict[str, Any], answered: dict[str, Any]) -> None:
    """Under each name that the API has, the command line tells the same; it may tell more."""
    assert set(answered) <= set(printed)
    for name in set(answered) - MOMENTS:
        assert comparable(printed[name]) == comparable(answered[name]), name


def comparable(value: Any) -> Any:
    if isinstance(value, list):
        return [comparable(each) for each in value]
    if isinstance(value, dict):
        return {name: comparable(each) for name, each in value.items() if name not in MOMENTS}
    return instant(value) if isinstance(value, str) else value


def instant(text: str) -> Any:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return text


@pytest.mark.parametrize(("words", "path", "schema", "inside"), SAME, ids=[" ".join(words) for words, *_ in SAME])
def test_the_command_line_tells_what_the_document_says(
    api: TestClient,
    ids: list[str],
    told: Callable[..., Any],
    words: list[str],
    path: str,
    schema: str,
    inside: str | None,
) -> None:
    document = api.get("/openapi.json").json()
    valid = jsonschema_rs.Draft202012Validator(
        {"$ref": f"#/components/schemas/{schema}", "components": document["components"]}
    )
    printed, answered = told(*words), api.get(path).json()
    things = zip(printed[inside], answered[inside], strict=True) if inside else [(printed, answered)]
    seen = 0
    for one, other in things:
        same(one, other)
        valid.validate({name: one[name] for name in other})
        seen += 1
    assert seen


def test_a_task_is_shown_alike(api: TestClient, ids: list[str], told: Callable[..., Any]) -> None:
    document = api.get("/openapi.json").json()
    schema = {"$ref": "#/components/schemas/TaskAttempt", "components": document["components"]}
    for id in ids:
        printed, answered = told("tasks", "show", id), api.get(f"/v1/tasks/{id}").json()
        same({**printed, "attempts": []}, {**answered, "attempts": []})
        for one, other in zip(printed["attempts"], answered["attempts"], strict=True):
            same(one, other)
            jsonschema_rs.Draft202012Validator(schema).validate({name: one[name] for name in other})
        assert printed["why"]["cause"] == answered["why"]["cause"]
