"""What old code left behind is carried out by new code: rows in every state, written before outbox_0002 and app_0004 by the
code of then (`record_old_rows.py`), migrated by today's migrations; and the messages that then lay in the queues."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy.engine import make_url

from deploy.local.place import ROOT
from outbox import database
from outbox.ledger import Ledger
from outbox.topology import Topology
from tests.awaiting import await_that
from tests.broker_side import admin
from tests.upgrade.fleet import OUTBOX, Fleet

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

HERE = Path(__file__).parent
LONG = timedelta(seconds=60)
MESSAGES: list[dict[str, str]] = json.loads((HERE / "old_messages.json").read_text())

#: How often each kind is counted, once all is done. `succeeded` and `cancelled` were over when the rows were written.
COUNTED = {
    "failed": 1, "snoozed": 1, "running": 2, "published": 3, "delayed": 1, "unique": 1, "first": 1, "expires": 1,
    "ordered": 3, "limited": 3, "dead": 1,
}  # fmt: skip

#: A migration that waits for a table.
WAITING = "select pid from pg_locks where database = (select oid from pg_database where datname = current_database()) and not granted"


def migrate(url: str, to: str) -> None:
    words = [sys.executable, "-m", "alembic", "upgrade", to]
    env = {**os.environ, "DATABASE_URL": url}
    told = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stderr


@pytest.fixture(scope="module")
def before(new_database: Callable[[str], str]) -> str:
    """The name of a database with the old rows in the tables of then."""
    url = new_database("template1")
    for revision in ("outbox_0001", "app_0003"):
        migrate(url, revision)
    with psycopg.connect(url) as conn:
        conn.execute((HERE / "old_rows.sql").read_bytes())
    return make_url(url).database or ""


@pytest.fixture(scope="module")
def template(new_database: Callable[[str], str], before: str) -> str:
    """The name of a database with the old rows, migrated to today."""
    url = new_database(before)
    migrate(url, "heads")
    return make_url(url).database or ""


@pytest.fixture
def old_url(new_database: Callable[[str], str], template: str) -> str:
    return new_database(template)


@pytest.fixture
def fleet(old_url: str, amqp_url: str, queue_prefix: str, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, database_url=old_url, rabbitmq_url=amqp_url, queue_prefix=queue_prefix)
    with psycopg.connect(old_url) as conn:
        conn.execute("update app.endpoint set url = %s", (fleet.receiver_url,))
    yield fleet
    fleet.end()


def put_into_the_queues(url: str, prefix: str) -> None:
    """As old code left them: the queues exist, with its messages, also those that went stale since."""
    topology = Topology(prefix=prefix, ledger=Ledger())
    with admin(url) as channel:
        for queue in {each["queue"] for each in MESSAGES}:
            topology._declare(channel.connection, queue)
        for each in MESSAGES:
            channel.basic_publish("", topology.queue(each["queue"]), each["body"].encode())


def unfinished(fleet: Fleet, *states: str) -> list[tuple[Any, ...]]:
    return fleet.query("select id, args::text from outbox.task where state = any(%s)", list(states))


def test_what_old_code_wrote_new_code_carries_out(fleet: Fleet, amqp_url: str, queue_prefix: str) -> None:
    put_into_the_queues(amqp_url, queue_prefix)
    try:
        fleet.start("receivers")
        fleet.start("worker")
        # No relay yet: what is carried out now was published by old code.
        await_that(lambda: not unfinished(fleet, "published"), LONG)
        fleet.start("relay")
        fleet.start("scheduler")
        fleet.run("tasks", "retry", "--state", "dead", "--yes")
        await_that(lambda: len(fleet.query("select from outbox.task")) == 1, LONG)
    except AssertionError as error:
        fleet.fail(error)
    [(last,)] = fleet.query("select args::text from outbox.task where state = 'scheduled'")
    assert "old.far" in str(last)  # due in 2099
    counted = dict(fleet.query("select kind, count from app.counter where kind like 'old.%%'"))  # type: ignore[arg-type]
    assert counted == {f"old.{kind}": count for kind, count in COUNTED.items()}
    assert _ended("cancelled", fleet) == {"old.cancelled", "old.cancel requested"}
    assert not fleet.query("select from outbox.dead")
    in_order = fleet.query("select position from outbox.history where lane like 'order/%%' order by started_at")
    assert in_order == sorted(in_order)
    mails = {str(id) for (id,) in fleet.query("select id from app.mail where status = 'sent'")}
    assert len(mails) == 4 + 2 + 1  # welcome, receipt, the one that was to be sent later
    assert dict(fleet.mailbox.read().copies) == dict.fromkeys(mails, 1)
    deliveries = {str(id) for (id,) in fleet.query("select id from app.delivery where status = 'delivered'")}
    assert len(deliveries) == 4
    assert dict(fleet.webhooks()) == dict.fromkeys(deliveries, 1)
    fires = fleet.query("select from outbox.fire f join outbox.history h on h.id = f.task_id and h.state = 'succeeded'")
    assert len(fires) >= 2


def _ended(state: str, fleet: Fleet) -> set[object]:
    rows = fleet.query("select args ->> 0 from outbox.history where state = %s and actor = 'count_event'", state)
    return {name for (name,) in rows}


def test_for_the_rows_of_old_code_new_code_sends_the_bytes_that_old_code_sent(old_url: str) -> None:
    """So workers that are still old understand what a new relay sends, and a copy is a copy."""
    ledger = Ledger()
    with database.connect(old_url, name="test") as conn:
        published = {
            str(id) for (id,) in conn.execute("select id from outbox.task where state = 'published'").fetchall()
        }
        old = {each["id"]: each["body"].encode() for each in MESSAGES if each["id"] in published}
        for queue in {each["queue"] for each in MESSAGES}:
            ledger.begin_epoch(conn, queue, seen=ledger.queue_epoch(conn, queue))
        assert ledger.republish_older_epochs(conn) == len(old) == 7
        with conn.transaction():
            due = ledger.claim_due(conn, room=dict.fromkeys(("default", "mail", "webhooks"), 1000), batch=1000)
        assert {each.id: bytes(each.body) for each in due if each.id in old} == old
        assert {UUID(each.id) for each in due} >= {UUID(id) for id in published}


def test_a_migration_that_cannot_have_its_table_yet_holds_up_nobody(
    new_database: Callable[[str], str], before: str
) -> None:
    url = new_database(before)
    with psycopg.connect(url) as holder, psycopg.connect(url, autocommit=True) as other:
        holder.execute("select from app.endpoint")  # a long report, a backup: any transaction that reads the table
        env = {**os.environ, "DATABASE_URL": url}
        migration = subprocess.Popen([*OUTBOX, "db", "upgrade"], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
        try:
            await_that(lambda: other.execute(WAITING).fetchone(), LONG)
            other.execute("set statement_timeout = '30s'")
            for _ in range(2):
                other.execute("select from app.endpoint")  # behind the migration, and yet before the holder has ended
            assert migration.poll() is None
            holder.commit()
            assert migration.wait(60) == 0, migration.stderr and migration.stderr.read()
        finally:
            migration.kill()
            migration.communicate()
        heads = {revision for (revision,) in other.execute("select version_num from alembic_version").fetchall()}
        assert not heads & {"outbox_0001", "app_0003"}
