"""Writes `old_rows.sql` and `old_messages.json`: what the code before outbox_0002 and app_0004 left behind, by its own hand.

It is a script for the old code, run once for each schema that shall be remembered (`tests/upgrade/old_tree.py` says
which commit that was), with an empty database:

    git archive COMMIT | tar -x -C OLD && cd OLD
    DATABASE_URL=… PYTHONPATH=OLD python …/tests/upgrade/record_old_rows.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

HERE = Path(__file__).parent
#: Opens what the rows have sealed.
SECRET_KEY = "the key of the rows that old code wrote"
ADMIN = "an-admin-key-of-the-old-rows"
FAR = datetime(2099, 1, 1, tzinfo=UTC)
DAY = "2026-11-25"
EPOCH = 1

os.environ |= {
    "SECRET_KEY": SECRET_KEY,
    "MAIL_FROM": "shop@example.com",
    "OUTBOX_APP": "actors",
    "WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
}

from fastapi.testclient import TestClient  # noqa: E402
from sqlalchemy.orm import Session  # noqa: E402

import actors  # noqa: E402
from actors.analytics import count_event  # noqa: E402
from actors.housekeeping import purge_outbox  # noqa: E402
from outbox import cron, database, db, enqueue, operate  # noqa: E402
from outbox.ledger import Claimed, Conn, Failure, Finished, Ledger  # noqa: E402
from service.app import create_app  # noqa: E402
from service.settings import Settings  # noqa: E402

ledger = Ledger()


class Recorder:
    """Tasks that count what their name says, brought into the states that a task can be in."""

    def __init__(self, conn: Conn) -> None:
        self.conn = conn
        self.messages: list[dict[str, str]] = []
        self.worker = uuid4()
        ledger.join(
            conn, worker=self.worker, kind="worker", host="old", pid=1, queues=["default"], threads=8,
            lease=timedelta(seconds=3),
        )  # fmt: skip
        for queue in ("default", "mail", "webhooks"):
            ledger.queue_epoch(conn, queue)
            assert ledger.begin_epoch(conn, queue, seen=0) == EPOCH

    def add(self, name: str, **options: object) -> UUID:
        with Session(actors.broker.engine(), expire_on_commit=False) as session, session.begin():
            return enqueue(session, count_event.message(f"old.{name}", DAY, "EUR", 1), **options).id

    def publish(self, *queues: str) -> None:
        """As the relay, up to the confirm. The bodies are kept."""
        with self.conn.transaction():
            due = ledger.claim_due(self.conn, room=dict.fromkeys(queues, 100), batch=100)
            self.messages += [{"id": each.id, "queue": each.queue, "body": bytes(each.body).decode()} for each in due]
            ledger.mark_published(self.conn, [each.id for each in due], epochs={each.queue: EPOCH for each in due})

    def claim(self, name: str, **options: object) -> Claimed:
        """As the worker: it runs now."""
        id = self.add(name, **options)
        self.publish("default")
        [(fence,)] = self.conn.execute("select fence from outbox.task where id = %s", (id,)).fetchall()
        [claimed] = ledger.claim(self.conn, [(id, fence, uuid4())], worker=self.worker, beat=0)
        return claimed

    @contextmanager
    def settling(self, name: str) -> Iterator[Finished]:
        claimed = self.claim(name)
        with self.conn.transaction():
            yield Finished(claimed.id, claimed.run_id, 0.25, 0.0)

    def fail(self, name: str, outcome: str, wait: float | None) -> None:
        with self.settling(name) as run:
            failure = Failure(run, outcome, "it broke", "Traceback …", wait, counts=outcome == "failed")
            (ledger.record_dead if wait is None else ledger.record_again)(self.conn, [failure])


def by_the_ledger(recorder: Recorder) -> None:
    with recorder.settling("succeeded") as run:
        ledger.record_successes(recorder.conn, [run])
    recorder.fail("failed", "failed", 1.0)
    recorder.fail("snoozed", "snoozed", 1.0)
    recorder.fail("dead", "failed", None)
    operate.cancel(recorder.conn, ledger, recorder.add("cancelled"), who="old", reason="not wanted")
    runs = [recorder.claim("running"), recorder.claim("running"), recorder.claim("cancel requested")]
    operate.cancel(recorder.conn, ledger, runs[-1].id, who="old", reason="not wanted")
    ledger.beat(
        recorder.conn, worker=recorder.worker, runs=[run.run_id for run in runs], running=[run.run_id for run in runs],
        queues=["default"], unclaimed=[], claimed_through={},
    )  # fmt: skip
    for _ in range(3):
        recorder.add("published")
    recorder.publish("default")
    recorder.add("delayed", delay=timedelta(seconds=1))
    recorder.add("far", run_at=FAR)
    recorder.add("unique", unique_key="old/unique")
    recorder.add("first", priority=1)
    recorder.add("expires", expires_at=FAR)
    for _ in range(3):
        recorder.add("ordered", ordering_key="old/order")
        recorder.add("limited", concurrency_key="old/limit", concurrency_limit=1)


def by_the_scheduler(conn: Conn) -> None:
    """A fire of each kind, whose tasks nobody has carried out; the schedule stands where old code left it."""
    schedule = cron.schedule_of(purge_outbox)
    assert schedule is not None
    cron.declare(conn, ledger, schedule)
    conn.execute("update outbox.schedule set fired_through = fired_through - interval '2 days'")
    cron.fire_due(conn, ledger, schedule.name)
    cron.run_now(conn, ledger, schedule.name, who="old")


def by_the_api(url: str, recorder: Recorder) -> None:
    with TestClient(create_app(Settings(database_url=url, bootstrap_key=ADMIN))) as api:
        api.headers["Authorization"] = f"Bearer {ADMIN}"

        def post(path: str, **body: object) -> dict[str, object]:
            answer = api.post(path, json=body)
            assert answer.is_success, answer.text
            return dict(answer.json())

        post("/v1/endpoints", url="http://127.0.0.1:65000/hooks", event_types=["old.*"])
        for n in range(2):
            post("/v1/signups", email=f"published{n}@example.org", name="Ada")
            post("/v1/events", type="old.published", data={"n": n})
        recorder.publish("mail", "webhooks")
        for n in range(2):
            post("/v1/signups", email=f"pending{n}@example.org", name="Bob")
            post("/v1/events", type="old.pending", data={"n": n})
            items = [{"sku": "MUG-01", "quantity": n + 1, "unit_price_cents": 750}]
            post("/v1/orders", email=f"buyer{n}@example.org", items=items, currency="EUR", client_id=f"old-{n}")
        soon = datetime.now(UTC) + timedelta(seconds=2)
        post("/v1/mails", to="later@example.org", subject="Later", text="Hi", send_at=soon.isoformat())


def dump(url: str) -> str:
    """The rows alone, as INSERTs; nothing of the session, nor of Alembic's own table."""
    words = [
        "pg_dump",
        "--data-only",
        "--column-inserts",
        "--load-via-partition-root",
        "--exclude-table=*.alembic_version",
    ]
    told = subprocess.run([*words, url], check=True, capture_output=True, text=True).stdout
    kept = [line for line in told.splitlines() if line and not line.startswith(("--", "SET ", "\\"))]
    return "\n".join(line for line in kept if "set_config('search_path'" not in line) + "\n"


def main(url: str) -> None:
    db.upgrade(db.configuration(Path.cwd()))
    with database.connect(url, name="record") as conn:
        recorder = Recorder(conn)
        by_the_ledger(recorder)
        by_the_scheduler(conn)
        by_the_api(url, recorder)
    (HERE / "old_rows.sql").write_text(dump(url))
    (HERE / "old_messages.json").write_text(json.dumps(recorder.messages, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(os.environ["DATABASE_URL"])
    sys.exit(0)
