"""A database with tasks in every state, and the command line on it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from typer.testing import CliRunner, Result
from uuid_utils.compat import uuid7

from outbox.ledger import Claimed, Failure, Finished, Ledger
from outbox.reads import Reader


class Scene:
    """Brings tasks into the states that a test needs, by the ledger's own transitions."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.conn = psycopg.connect(url, autocommit=True)
        self.ledger, self.reader = Ledger(), Reader()
        self.worker = self.join()

    def join(self, *, kind: str = "worker", queues: tuple[str, ...] = ("default",)) -> UUID:
        worker = uuid7()
        self.ledger.join(
            self.conn, worker=worker, kind=kind, host="here", pid=42, queues=queues, threads=8, lease=timedelta(seconds=10)
        )  # fmt: skip
        return worker

    def pending(self, number: int = 1, **row: Any) -> list[UUID]:
        rows = [
            {"id": str(uuid7()), "queue": "default", "actor": "act", "args": [n], "kwargs": {}, "options": {}, **row}
            for n in range(number)
        ]
        found = self.conn.execute(self.ledger.enqueue_unique_sql, {"rows": json.dumps(rows)}).fetchall()
        return [existing for _, existing in found]

    def scheduled(self, number: int = 1, **row: Any) -> list[UUID]:
        return self.pending(number, delay=3600, **row)

    def published(self, number: int = 1, **row: Any) -> list[UUID]:
        ids = self.pending(number, **row)
        queue = row.get("queue", "default")
        self.ledger.queue_epoch(self.conn, queue)
        self.ledger.mark_published(self.conn, ids, epochs={queue: 0})
        return ids

    def claimed(self, number: int = 1, **row: Any) -> list[Claimed]:
        ids = self.pending(number, **row)
        fences = dict(self.conn.execute("select id, fence from outbox.task where id = any(%s)", [ids]).fetchall())
        return self.ledger.claim(self.conn, [(id, fences[id], uuid4()) for id in ids], worker=self.worker, beat=0)

    def running(self, number: int = 1, **row: Any) -> list[UUID]:
        claims = self.claimed(number, **row)
        runs = [claim.run_id for claim in claims]
        self.ledger.beat(
            self.conn, worker=self.worker, runs=runs, running=runs, queues=["default"], unclaimed=[], claimed_through={}
        )
        return [claim.id for claim in claims]

    def succeeded(self, number: int = 1, *, ran: float = 0.5, **row: Any) -> list[UUID]:
        claims = self.claimed(number, **row)
        return self.ledger.record_successes(self.conn, [Finished(c.id, c.run_id, ran, 0.0) for c in claims])

    def retrying(self, number: int = 1, *, error: str = "boom", **row: Any) -> list[UUID]:
        claims = self.claimed(number, **row)
        return self.ledger.record_again(self.conn, [_failure(c, error, 3600.0) for c in claims])

    def dead(self, number: int = 1, *, error: str = "boom", **row: Any) -> list[UUID]:
        claims = self.claimed(number, **row)
        return self.ledger.record_dead(self.conn, [_failure(c, error, None) for c in claims])

    def cancelled(self, number: int = 1, **row: Any) -> list[UUID]:
        ids = self.pending(number, **row)
        for id in ids:
            self.ledger.cancel(self.conn, id, reason="no longer wanted")
        return ids

    def state(self, id: UUID) -> str | None:
        task = self.reader.task(self.conn, id)
        return task.state if task else None

    def audit(self) -> list[tuple[str, str, str]]:
        return self.conn.execute("select who, action, subject from outbox.audit order by id").fetchall()  # type: ignore[return-value]


def _failure(claim: Claimed, error: str, wait: float | None) -> Failure:
    done = Finished(claim.id, claim.run_id, 0.25, 0.0)
    return Failure(done, "failed", error, f"Traceback\n  {error}", wait, True)


@pytest.fixture
def scene(database_url: str) -> Iterator[Scene]:
    made = Scene(database_url)
    yield made
    made.conn.close()


Cli = Callable[..., Result]


@pytest.fixture
def cli(database_url: str) -> Cli:
    """Runs `outbox …` in this process: `.exit_code`, `.stdout`, `.stderr`."""
    from outbox.cli.root import root

    def run(*args: str, stdin: str = "", env: Mapping[str, str] | None = None) -> Result:
        settings = {"DATABASE_URL": database_url, "OUTBOX_APP": "", **(env or {})}
        return CliRunner().invoke(root, list(args), input=stdin, env={**os.environ, **settings}, prog_name="outbox")

    return run


def lines(text: str) -> list[list[str]]:
    """Tab-separated output as rows."""
    return [line.split("\t") for line in text.splitlines()]
