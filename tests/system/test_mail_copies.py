"""A mail's copies are counted before they can exist: whatever dies while the server's last reply hangs, the server gets
the mail at most twice, with the same bytes, and a third time only on an operator's word."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import DictRow, dict_row
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

from actors import mail, outside
from deploy.local.place import ROOT
from outbox import enqueue
from tests.actors.far_smtp import HANG, HOLD, RawServer, raw_server
from tests.awaiting import await_that

pytestmark = pytest.mark.system

LONG = timedelta(seconds=60)


class House:
    """A relay and workers of this test's own, and the mail that they send."""

    def __init__(self, database_url: str, environment: dict[str, str], logs: Path) -> None:
        self.database_url = database_url
        self._environment = environment
        self._logs = logs
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str, **variables: str) -> subprocess.Popen[bytes]:
        log = (self._logs / f"{command[0]}-{len(self._started)}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "outbox.cli", *command],
            cwd=ROOT, env={**self._environment, **variables}, stdout=log, stderr=log,
        )  # fmt: skip
        self._started.append(process)
        return process

    def work(self, **variables: str) -> subprocess.Popen[bytes]:
        return self.start("worker", "--threads", "1", "--queues", "mail", **variables)

    def enqueue(self, **options: object) -> UUID:
        engine = create_engine(make_url(self.database_url).set(drivername="postgresql+psycopg"))
        with Session(engine, expire_on_commit=False) as session, session.begin():
            prepared = mail.prepare(session, to="ada@example.org", subject="Hello", text="Hi")
            message = mail.send_mail.message_with_options(args=(str(prepared.id),), **options)
            enqueue(session, message, task_id=prepared.id)
        engine.dispose()
        return prepared.id

    def row(self, mail_id: UUID) -> DictRow:
        with psycopg.connect(self.database_url, row_factory=dict_row) as conn:
            found = conn.execute("select * from app.mail where id = %s", (mail_id,)).fetchone()
        assert found is not None
        return found

    def state(self, mail_id: UUID) -> str | None:
        asked = (
            "select state from outbox.task where id = %(id)s union all select state from outbox.history where id = %(id)s"
            " union all select state from outbox.dead where id = %(id)s"
        )
        with psycopg.connect(self.database_url) as conn:
            found = conn.execute(asked, {"id": mail_id}).fetchone()
        return found[0] if found else None

    def told(self, words: str) -> int:
        """How often, by a worker."""
        return sum(log.read_text(errors="replace").count(words) for log in self._logs.glob("worker-*.log"))

    def retry(self, mail_id: UUID) -> None:
        environment = {**self._environment, "OUTBOX_APP": "actors"}
        command = [sys.executable, "-m", "outbox.cli", "tasks", "retry", str(mail_id)]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)

    def end(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()
        for log in sorted(self._logs.glob("*.log")):
            print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}")


@pytest.fixture
def server() -> Iterator[RawServer]:
    with raw_server() as server:
        yield server


@pytest.fixture
def house(
    database_url: str,
    amqp_url: str,
    queue_prefix: str,
    server: RawServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[House]:
    settings = {
        "DATABASE_URL": database_url,
        "RABBITMQ_URL": amqp_url,
        "OUTBOX_QUEUE_PREFIX": queue_prefix,
        "OUTBOX_APP": "actors",
        "OUTBOX_LEASE": "2",
        "OUTBOX_SHUTDOWN_GRACE": "1",
        "SMTP_URL": f"smtp://127.0.0.1:{server.port}",
        "MAIL_FROM": "shop@example.com",
        "MAIL_UNCERTAIN_WAIT": "1",
        "SECRET_KEY": "0123456789abcdef0123456789abcdef",
    }
    for name in ("MAIL_FROM", "SECRET_KEY"):
        monkeypatch.setenv(name, settings[name])
    outside.forget()
    house = House(database_url, {**os.environ, **settings}, tmp_path)
    house.start("relay")
    yield house
    house.end()
    outside.forget()


def killed(house: House, worker: subprocess.Popen[bytes]) -> None:
    worker.send_signal(signal.SIGKILL)
    worker.wait()


def stopped_beyond_its_grace(house: House, worker: subprocess.Popen[bytes]) -> None:
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0


@pytest.mark.parametrize("ended", [killed, stopped_beyond_its_grace])
def test_a_worker_that_ends_while_the_last_reply_hangs_leaves_one_more_copy_at_most(
    house: House, server: RawServer, ended: Callable[[House, subprocess.Popen[bytes]], None]
) -> None:
    server.replies["DOT"] = HANG
    mail_id = house.enqueue()
    for copies in (1, 2):
        worker = house.work()
        await_that(lambda copies=copies: len(server.bodies) == copies, LONG)  # type: ignore[misc]
        ended(house, worker)
    house.work()
    await_that(lambda: house.state(mail_id) == "dead", LONG)
    row = house.row(mail_id)
    assert server.bodies == [row["body"]] * 2
    assert (row["status"], row["copies"], row["uncertain"], row["in_flight"]) == ("uncertain", 2, 2, None)
    server.replies.clear()
    house.retry(mail_id)
    await_that(lambda: house.state(mail_id) == "succeeded", LONG)
    assert server.bodies == [row["body"]] * 3
    assert house.row(mail_id)["status"] == "sent"


def test_a_time_limit_that_ends_the_wait_for_the_last_reply_brings_one_more_copy(
    house: House, server: RawServer
) -> None:
    server.replies["DOT"] = HANG
    mail_id = house.enqueue(time_limit=1000, min_backoff=1, max_backoff=1)
    house.work()
    await_that(lambda: house.told("Time limit exceeded"), LONG)
    assert len(server.bodies) == 1
    server.replies.clear()
    server.released.set()
    await_that(lambda: house.state(mail_id) == "succeeded", LONG)
    row = house.row(mail_id)
    assert server.bodies == [row["body"]] * 2
    assert (row["status"], row["copies"], row["uncertain"]) == ("sent", 2, 1)


def test_a_database_that_is_gone_when_the_mail_was_accepted_and_back_soon_brings_no_other_copy(
    house: House, server: RawServer, database_url: str
) -> None:
    server.replies["DOT"] = HOLD
    mail_id = house.enqueue()
    house.work()
    await_that(lambda: server.bodies, LONG)
    with cut_off(database_url):
        await_that(lambda: house.told("no heartbeat"), LONG)
        server.released.set()
        before = house.told("no heartbeat")
        await_that(lambda: house.told("no heartbeat") > before + 3, LONG)
    await_that(lambda: house.state(mail_id) == "succeeded", LONG)
    row = house.row(mail_id)
    assert server.bodies == [row["body"]]
    assert (row["status"], row["copies"], row["in_flight"]) == ("sent", 1, None)


def test_a_worker_that_lost_its_database_for_good_after_the_mail_was_accepted_brings_one_more_copy(
    house: House, server: RawServer, database_url: str
) -> None:
    server.replies["DOT"] = HOLD
    mail_id = house.enqueue()
    worker = house.work()
    await_that(lambda: server.bodies, LONG)
    with cut_off(database_url):
        await_that(lambda: house.told("no heartbeat"), LONG)
        server.released.set()
        before = house.told("no heartbeat")
        await_that(lambda: house.told("no heartbeat") > before + 3, LONG)
        killed(house, worker)
    house.work()
    await_that(lambda: house.state(mail_id) == "succeeded", LONG)
    row = house.row(mail_id)
    assert server.bodies == [row["body"]] * 2
    assert (row["status"], row["copies"], row["uncertain"]) == ("sent", 2, 1)


class cut_off:
    """Nobody is connected to this database, and nobody gets in."""

    def __init__(self, database_url: str) -> None:
        url = make_url(database_url)
        self._name = url.database
        self._server = url.set(database="postgres").render_as_string(hide_password=False)
        self._over = threading.Event()

    def __enter__(self) -> None:
        self._say(f'alter database "{self._name}" allow_connections false')
        self._thread = threading.Thread(target=self._keep_out, daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._say(f'alter database "{self._name}" allow_connections true')

    def _keep_out(self) -> None:
        while not self._over.wait(0.05):
            self._say(f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{self._name}'")

    def _say(self, words: str) -> None:
        with suppress(psycopg.errors.AdminShutdown), psycopg.connect(self._server, autocommit=True) as conn:
            conn.execute(words)  # type: ignore[arg-type]
