"""What really happened, read where it happened: the tables, the mail directory, the receiver's file."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from email import policy
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import psycopg

from deploy.local.place import Place
from deploy.local.traffic import Arrival, Promises

STATES = ("scheduled", "waiting", "pending", "published", "running", "retrying", "succeeded", "dead", "cancelled")

COUNT_BY_STATE = """
select case when state = 'scheduled' and failures > 0 then 'retrying' else state end as state, count(*)
from outbox.task
where created_at >= %(began)s
group by 1
union all
select state, count(*)
from outbox.history
where created_at >= %(began)s and finished_at >= %(began)s
group by 1
union all
select state, count(*)
from outbox.dead
where created_at >= %(began)s and finished_at >= %(began)s
group by 1
"""

STATE_OF_EACH = """
select promised.id::text, coalesce(task.state, history.state, dead.state, 'lost')
from unnest(%(ids)s::uuid[]) as promised (id)
left join outbox.task on task.id = promised.id
left join outbox.history on history.id = promised.id and history.finished_at >= %(began)s
left join outbox.dead on dead.id = promised.id
"""


@dataclass
class Tasks:
    """The tasks of this demo by state, and those promised whose end nobody has seen yet."""

    by_state: Counter[str] = field(default_factory=Counter)
    unsettled: dict[str, str] = field(default_factory=dict)
    settled: dict[str, str] = field(default_factory=dict)
    reachable: bool = False

    @property
    def lost(self) -> int:
        return sum(state == "lost" for state in self.unsettled.values())

    @property
    def failed(self) -> int:
        return sum(state != "succeeded" for state in self.settled.values())

    @property
    def unfinished(self) -> int:
        return sum(count for state, count in self.by_state.items() if state not in ("succeeded", "dead", "cancelled"))


class Ledger:
    """Reads the tables. While PostgreSQL is down it keeps what it read last."""

    def __init__(self, database_url: str) -> None:
        self.tasks = Tasks()
        self._url = database_url
        self._connection: psycopg.Connection[Any] | None = None
        with psycopg.connect(database_url) as connection:
            self._began = connection.execute("select clock_timestamp()").fetchall()[0][0]

    def read(self, promises: Promises) -> Tasks:
        with promises.lock:
            open_ids = promises.task_ids - self.tasks.settled.keys()
        try:
            self._read(sorted(open_ids))
        except psycopg.Error:
            self._connection = None
            self.tasks.reachable = False
        return self.tasks

    def _read(self, open_ids: list[str]) -> None:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(self._url, autocommit=True, connect_timeout=2)
        states = self._connection.execute(COUNT_BY_STATE, {"began": self._began}).fetchall()
        each = self._connection.execute(STATE_OF_EACH, {"ids": open_ids, "began": self._began}).fetchall()
        tasks = self.tasks
        tasks.by_state = Counter(dict(states))
        tasks.settled |= {id: str(state) for id, state in each if state in ("succeeded", "dead", "cancelled")}
        tasks.unsettled = {id: str(state) for id, state in each if id not in tasks.settled}
        tasks.reachable = True


@dataclass
class FarWorld:
    """What arrived out there since the demo began, and under which ids. A repeat has the id of an earlier arrival."""

    place: Place
    mails: int = 0
    webhooks: int = 0
    repeats: int = 0
    _arrived: dict[Arrival, set[str]] = field(default_factory=dict)
    _ids: set[tuple[str, str]] = field(default_factory=set)
    _seen_files: set[str] = field(default_factory=set)
    _offset: int = 0

    def __post_init__(self) -> None:
        self._seen_files = {path.name for path in self._mail_files()}
        self._offset = self._webhooks_file.stat().st_size if self._webhooks_file.exists() else 0

    def read(self) -> None:
        for path in self._mail_files():
            if path.name not in self._seen_files:
                self._seen_files.add(path.name)
                self._note_mail(path)
        if self._webhooks_file.exists():
            self._read_webhooks()

    def missing(self, promises: Promises) -> list[Arrival]:
        """What was promised and has not arrived under an id that the API answered."""
        with promises.lock:
            expected = dict(promises.arrivals)
        return sorted(arrival for arrival, ids in expected.items() if not self._has(arrival, ids))

    def _has(self, arrival: Arrival, ids: frozenset[str]) -> bool:
        arrived = self._arrived.get(arrival, set())
        return bool(arrived & ids) if ids else bool(arrived)

    @property
    def _webhooks_file(self) -> Path:
        return self.place.directory / "webhooks.jsonl"

    def _mail_files(self) -> list[Path]:
        return [path for path in (self.place.directory / "mail").glob("*.eml") if not path.name.startswith(".")]

    def _note_mail(self, path: Path) -> None:
        mail = BytesParser(policy=policy.default).parsebytes(path.read_bytes())
        has_pdf = any(part.get_content_type() == "application/pdf" for part in mail.walk())
        id = str(mail["Message-ID"]).strip("<>").partition("@")[0]
        self.mails += 1
        for address in mail.get_all("Delivered-To", []):
            self._note(Arrival("mail with a PDF" if has_pdf else "mail", str(address)), id)

    def _read_webhooks(self) -> None:
        with self._webhooks_file.open("rb") as lines:
            lines.seek(self._offset)
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                self._note_webhook(line)

    def _note_webhook(self, line: bytes) -> None:
        try:
            request = json.loads(line)
        except ValueError:
            return  # cut short by SIGKILL: the sender got no answer and sends it again
        self.webhooks += 1
        told = json.loads(request["body"])["data"]
        self._note(
            Arrival("webhook", str(told.get("mark") or told.get("order_id"))), request["headers"].get("webhook-id", "")
        )

    def _note(self, arrival: Arrival, id: str) -> None:
        self.repeats += (arrival.about, id) in self._ids
        self._ids.add((arrival.about, id))
        self._arrived.setdefault(arrival, set()).add(id)
