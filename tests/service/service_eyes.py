"""What the tests of the service look with: the tables as others see them, and the answer that an error must be."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
from fastapi.testclient import TestClient
from psycopg import sql
from psycopg.rows import dict_row

from outbox.ledger import Failure, Finished, Ledger
from service.settings import Settings

ADMIN = "an-admin-key-of-the-tests"
SECRET_KEY = "a secret key of at least 32 characters"
BODY_LIMIT = 65_536
#: What no answer may repeat.
MARK = "zq7marker"

ORDER = {
    "email": "a@example.org",
    "items": [{"sku": "TEA", "quantity": 1, "unit_price_cents": 5}],
    "currency": "EUR",
    "client_id": "c-1",
}
ENDPOINT = {
    "url": "https://hooks.example.org/", "event_types": ["a.b"], "description": "d", "headers": {"X-A": "b"},
    "metadata": {"k": "v"}, "concurrency": 2, "rate_per_second": 0.5, "fifo": False, "schedule": [5, 60],
    "other_4xx": "retry", "notify": "ada@example.org",
}  # fmt: skip
GOOD: dict[str, dict[str, Any]] = {
    "/v1/signups": {"email": "ada@example.org", "name": "Ada"},
    "/v1/orders": ORDER,
    "/v1/events": {"type": "a.b", "data": {}, "client_id": "c-1"},
    "/v1/mails": {
        "to": "a@example.org", "subject": "s", "text": "t", "html": "<p>h</p>", "send_at": "2027-01-01T00:00:00Z",
        "expires_at": "2027-01-02T00:00:00Z", "variables": {"a": [{"b": 1}]}, "reply_to": "b@example.org",
        "attachments": [{"filename": "a.txt", "content_type": "text/plain", "content": "YQ=="}],
        "stream": "transactional", "unsubscribe": False, "on_uncertain": "hold",
    },
    "/v1/suppressions": {"recipient": "a@example.org", "stream": "news", "days": 3},
    "/v1/mail-events": {
        "event_id": "1", "event_type": "bounced", "mail_id": None, "message_id": "<a@b>", "reject_reason": "other",
        "status": "5.1.1", "description": "d",
    },
    "/v1/endpoints": {**ENDPOINT, "signature": "v1a"},
    "/v1/endpoints/{endpoint_id}/rotate-secret": {"overlap_seconds": 60, "signature": "v1"},
    "/v1/endpoints/{endpoint_id}/replay": {"since": "2026-01-01T00:00:00Z", "until": "2026-02-01T00:00:00Z"},
    "/v1/tasks/{task_id}/cancel": {"reason": "r"},
    "/v1/tasks/{task_id}/reschedule": {"run_at": "2027-01-01T00:00:00Z"},
    "/v1/tasks/{task_id}/edit": {"args": [1], "kwargs": {"a": [2]}},
    "/v1/bulk-actions": {
        "action": "reschedule", "query": "actor:a", "reason": "r", "run_at": "2027-01-01T00:00:00Z", "rate": 5,
    },
    "PATCH /v1/endpoints/{endpoint_id}": {**ENDPOINT, "enabled": True, "missed_since": None},
}  # fmt: skip


def settings_for(url: str, **changed: Any) -> Settings:
    unpaced = {"rate": 0, "refusals": 0}
    return Settings(**{"database_url": url, "bootstrap_key": ADMIN, "body_limit": BODY_LIMIT, **unpaced, **changed})


class Database:
    """The tables as another session sees them: only what was committed."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._connection = psycopg.connect(url, autocommit=True, row_factory=dict_row)
        found = self.query(
            """select n.nspname as schema, c.relname as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where n.nspname in ('app', 'outbox') and c.relkind in ('r', 'p') and not c.relispartition order by 1, 2"""
        )
        self._tables = [sql.Identifier(row["schema"], row["name"]) for row in found]

    def query(self, statement: str, *params: Any) -> list[dict[str, Any]]:
        return self._connection.execute(statement, params).fetchall()  # type: ignore[arg-type]

    def execute(self, statement: str, *params: Any) -> None:
        self._connection.execute(statement, params)  # type: ignore[arg-type]

    def one(self, statement: str, *params: Any) -> dict[str, Any]:
        (row,) = self.query(statement, *params)
        return row

    def rows(self) -> dict[str, int]:
        """How many rows each table has."""
        counts = [
            sql.SQL("select {}::text, count(*)::int from {}").format(
                sql.Literal(table.as_string().replace('"', "")), table
            )
            for table in self._tables
        ]
        with self._connection.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
            return dict(cursor.execute(sql.SQL(" union all ").join(counts)).fetchall())

    def empty(self) -> None:
        self._connection.execute(sql.SQL("truncate {} cascade").format(sql.SQL(", ").join(self._tables)))

    def close(self) -> None:
        self._connection.close()


def problem_of(answer: Any) -> dict[str, Any]:
    """The problem document that an answer must be, whatever went wrong."""
    assert answer.status_code >= 400
    assert answer.headers["content-type"] == "application/problem+json"
    content: dict[str, Any] = answer.json()
    assert content["status"] == answer.status_code
    assert content["type"].startswith("/problems/")
    assert content["title"]
    assert content["detail"]
    assert content["request_id"] == answer.headers["x-request-id"]
    return content


class Door:
    """The API over a database that holds one endpoint and one task, and what it held before the test."""

    def __init__(self, api: TestClient, database: Database) -> None:
        self.api = api
        self.database = database
        endpoint = api.post("/v1/endpoints", json={"url": "https://h.example.org/", "event_types": ["*"]}).json()
        task = api.post("/v1/mails", json={"to": "a@example.org", "subject": "s", "text": "t"}).json()
        self._ids = {"endpoint_id": endpoint["endpoint_id"], "task_id": task["task_ids"][0]}
        self._before = self._seen()

    def send(self, route: str, content: Any, **headers: str) -> Any:
        method, _, path = route.rpartition(" ")
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.api.request(
            method or "POST", path.format_map(self._ids), content=content,
            headers={"Content-Type": "application/json", **named},
        )  # fmt: skip

    def refuses(self, answer: Any, *statuses: int) -> None:
        self.is_refused(answer, *statuses)
        self.is_as_before()

    def is_refused(self, answer: Any, *statuses: int) -> None:
        assert answer.status_code in statuses, answer.text
        problem_of(answer)
        assert MARK not in answer.text

    def is_as_before(self) -> None:
        assert self._seen() == self._before

    def _seen(self) -> Any:
        states = self.database.query("select state, due_at, cancel_requested from outbox.task")
        return self.database.rows(), states, self.database.query("select * from app.endpoint")


class OneRun:
    """A task that a worker runs: claimed, started, and ended as the test says."""

    def __init__(self, database: Database, task_id: str) -> None:
        self.ledger, self.id, self.run_id, self.worker = Ledger(), UUID(task_id), uuid4(), uuid4()
        self.connection = psycopg.connect(database.url, autocommit=True)
        self.ledger.join(
            self.connection, worker=self.worker, kind="worker", host="here", pid=1, queues=["mail"], threads=1,
            lease=timedelta(seconds=10),
        )  # fmt: skip
        with self.connection.transaction():
            self.ledger.sweep_lanes(self.connection)
        fence = database.one("select fence from outbox.task where id = %s", self.id)["fence"]
        (_,) = self.ledger.claim(self.connection, [(self.id, fence, self.run_id)], worker=self.worker, beat=0)
        self.ledger.beat(
            self.connection, worker=self.worker, runs=[self.run_id], running=[self.run_id], queues=["mail"],
            unclaimed=[], claimed_through={},
        )  # fmt: skip

    def die(self) -> None:
        run = Finished(self.id, self.run_id, ran=0.1, ago=0.0)
        failure = Failure(run, "failed", "SMTPError: no such mailbox", "Traceback ...", None, True)
        assert self.ledger.record_dead(self.connection, [failure]) == [self.id]
        self.close()

    def close(self) -> None:
        self.connection.close()
