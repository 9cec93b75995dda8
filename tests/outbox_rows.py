"""The outbox of one database as tests need it: tasks enqueued, looked at, claimed and settled, by the ledger alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import dramatiq
import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from sqlalchemy import Engine, create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

from outbox import Task, database, enqueue
from outbox.ledger import Claimed, Conn, Failure, Finished, Ledger

Row = dict[str, Any]
#: Those that hold anything, a row after those that name it.
TABLES = (
    "task", "history", "dead", "queue", "worker", "fire", "schedule", "audit", "minute", "quarter", "bulk"
)  # fmt: skip


def a_message(*args: Any, actor: str = "send_mail", queue: str = "mail", **kwargs: Any) -> dramatiq.Message[Any]:
    """A message for an actor that this process does not know."""
    return dramatiq.Message(queue_name=queue, actor_name=actor, args=args, kwargs=kwargs, options={})


class Outbox:
    """Eyes and hands on the tables of one database. `conn` is in autocommit."""

    def __init__(self, url: str, *, schema: str = "outbox") -> None:
        self.url = url
        self.schema = schema
        self.ledger = Ledger(schema)
        self.conn: Conn = database.connect(url, name="test")
        self.engine: Engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))

    def close(self) -> None:
        self.conn.close()
        self.engine.dispose()

    def empty(self) -> None:
        """No row in any table, whatever the test before has left; connected again, if it has ended the server."""
        try:
            self._delete_all()
        except psycopg.OperationalError:
            self.engine.dispose()
            self.conn = self.connect()
            self._delete_all()

    def _delete_all(self) -> None:
        for name in TABLES:
            self.conn.execute(sql.SQL("delete from {}").format(sql.Identifier(self.schema, name)))

    def connect(self) -> Conn:
        """A connection more, for what happens at the same time."""
        return database.connect(self.url, name="test")

    def session(self, **options: Any) -> Session:
        return Session(self.engine, **options)

    # ------------------------------------------------------------------ looking

    def all(self, table: str = "task") -> list[Row]:
        """Every row of a table of the outbox, by age of the task."""
        return self._rows(table, sql.SQL("order by created_at, id"))

    def _rows(self, table: str, which: sql.Composable) -> list[Row]:
        statement = sql.SQL("select * from {} {}").format(sql.Identifier(self.schema, table), which)
        with self.conn.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(statement).fetchall()

    def ids(self, table: str = "task") -> list[UUID]:
        return [row["id"] for row in self.all(table)]

    def row(self, id: UUID) -> Row:
        """The task's row, in whichever table it stands."""
        which = sql.SQL("where id = {}").format(id)
        found = [row for table in ("task", "history", "dead") for row in self._rows(table, which)]
        assert len(found) == 1, f"{len(found)} rows of {id}"
        return found[0]

    def state(self, id: UUID) -> str:
        return str(self.row(id)["state"])

    def states(self) -> dict[UUID, str]:
        return {row["id"]: row["state"] for row in self.all()}

    def count(self, state: str) -> int:
        return sum(row["state"] == state for row in self.all())

    # ------------------------------------------------------------------ doing

    def add(self, *args: Any, message: dramatiq.Message[Any] | None = None, **options: Any) -> UUID:
        """One task, committed. Its id."""
        with self.session() as session:
            task = enqueue(session, message or a_message(*args), **options)
            session.commit()
        return task.id

    def add_many(self, count: int, *, queue: str = "mail", **options: Any) -> list[UUID]:
        """So many tasks by one INSERT."""
        with self.session() as session:
            tasks: list[Task] = [enqueue(session, a_message(n, queue=queue), **options) for n in range(count)]
            session.commit()
        return [task.id for task in tasks]

    def a_worker(self, *, queues: Sequence[str] = ("mail",), lease: timedelta = timedelta(seconds=10)) -> UUID:
        """A worker that has joined and beats no more by itself."""
        worker = uuid4()
        self.ledger.join(
            self.conn, worker=worker, kind="worker", host="here", pid=1, queues=list(queues), threads=8, lease=lease
        )
        return worker

    def claim(self, id: UUID, worker: UUID, *, alone: bool = False) -> Claimed | None:
        """Claim with the fence that stands in the row now."""
        asked = [(id, self.row(id)["fence"], uuid4())]
        claimed = self.ledger.claim(self.conn, asked, worker=worker, beat=0, alone=alone)
        return claimed[0] if claimed else None

    def must_claim(self, id: UUID, worker: UUID, *, alone: bool = False) -> Claimed:
        claimed = self.claim(id, worker, alone=alone)
        assert claimed is not None, f"{id} is {self.state(id)}"
        return claimed

    def succeed(self, claimed: Claimed) -> list[UUID]:
        with self.conn.transaction():
            return self.ledger.record_successes(self.conn, [finished(claimed)])

    def fail(self, claimed: Claimed, *, wait: timedelta = timedelta(0)) -> list[UUID]:
        with self.conn.transaction():
            return self.ledger.record_again(self.conn, [failure(claimed, wait=wait)])

    def end_dead(self, claimed: Claimed) -> list[UUID]:
        with self.conn.transaction():
            return self.ledger.record_dead(self.conn, [failure(claimed)])

    def promote(self) -> int:
        with self.conn.transaction():
            count, lanes = self.ledger.promote_due(self.conn)
            self.ledger.grant(self.conn, lanes)
        return count

    def sweep(self) -> int:
        with self.conn.transaction():
            return self.ledger.sweep_lanes(self.conn)[0]


def finished(claimed: Claimed) -> Finished:
    return Finished(claimed.id, claimed.run_id, 0.01, 0.0)


def failure(claimed: Claimed, *, wait: timedelta = timedelta(0), outcome: str = "failed") -> Failure:
    return Failure(finished(claimed), outcome, "it broke", None, wait.total_seconds(), counts=True)
