"""Endpoints that hang, with long queues, hold up nobody but themselves; order and pace are kept where they were asked
for. Real relay, real worker, fewer threads than they could take."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Unpack
from uuid import UUID, uuid4

import dramatiq
import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

import actors
from actors import outside, webhooks
from actors.webhooks.endpoints import Given
from deploy.local.place import ROOT
from tests.actors.far_http import answering, endpoint, read_request, status
from tests.awaiting import await_that

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

THREADS, DEADLINE = 4, timedelta(seconds=2)
#: If hanging deliveries went first, the others would come after much longer than this.
SOON = timedelta(seconds=60)
Start = Callable[..., None]


@pytest.fixture
def engine(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setenv("SECRET_KEY", "0123456789abcdef0123456789abcdef")
    monkeypatch.setenv("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8")
    monkeypatch.setattr(dramatiq.broker, "global_broker", actors.broker)
    outside.forget()
    engine = create_engine(make_url(database_url).set(drivername="postgresql+psycopg"))
    yield engine
    engine.dispose()
    monkeypatch.undo()
    outside.forget()


@pytest.fixture
def start(engine: Engine, database_url: str, amqp_url: str, queue_prefix: str, tmp_path: Path) -> Iterator[Start]:
    """Starts `outbox <command>` on this test's servers; it is killed at the end."""
    started: list[subprocess.Popen[bytes]] = []
    env = {
        **os.environ, "DATABASE_URL": database_url, "RABBITMQ_URL": amqp_url, "OUTBOX_QUEUE_PREFIX": queue_prefix,
        "OUTBOX_APP": "actors", "WEBHOOK_DEADLINE": str(DEADLINE.total_seconds()),
    }  # fmt: skip

    def run(*command: str) -> None:
        with (tmp_path / f"{command[0]}.log").open("wb") as log:
            words = [sys.executable, "-m", "outbox.cli", *command]
            started.append(subprocess.Popen(words, cwd=ROOT, env=env, stdout=log, stderr=log))

    yield run
    for process in started:
        process.kill()
        process.wait()
    for log in tmp_path.glob("*.log"):
        print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}")


def hang(stream: socket.socket) -> None:
    read_request(stream)
    stream.settimeout(60)
    stream.recv(1)


def subscribe(engine: Engine, event_type: str, port: int, **given: Unpack[Given]) -> UUID:
    with Session(engine, expire_on_commit=False) as session, session.begin():
        url = f"http://127.0.0.1:{port}/"
        made, _ = webhooks.create_endpoint(session, url=url, event_types=[event_type], **given)
    return made.id


def publish(engine: Engine, event_type: str, times: int) -> None:
    with Session(engine) as session, session.begin():
        for number in range(times):
            webhooks.fan_out(
                session,
                event_id=uuid4(),
                event_type=event_type,
                content=str(number).encode(),
                occurred_at=datetime.now(UTC),
            )


def count(engine: Engine, query: str) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text(query)).scalar_one())


@pytest.mark.parametrize(
    ("queued", "healthy"), [(200, 30), pytest.param(5_000, 600, marks=pytest.mark.long)], ids=["short", "long"]
)
def test_endpoints_that_hang_do_not_hold_up_the_others(engine: Engine, start: Start, queued: int, healthy: int) -> None:
    seen: list[bytes] = []
    with ExitStack() as stack:
        hanging = [stack.enter_context(endpoint(hang)) for _ in range(2)]
        well = stack.enter_context(endpoint(answering(status(200), seen=seen)))
        for number, far in enumerate(hanging):
            subscribe(engine, f"hangs.n{number}", far.port, concurrency=THREADS // 2)
            publish(engine, f"hangs.n{number}", queued)
        subscribe(engine, "well", well.port)
        start("relay")
        start("worker", "--threads", str(THREADS), "--queues", "webhooks")
        await_that(lambda: sum(far.connections for far in hanging) >= THREADS, SOON)
        publish(engine, "well", healthy)
        await_that(lambda: len(seen) >= healthy, SOON if healthy < 100 else 3 * SOON)
        assert count(engine, "select count(*) from app.delivery where event_type = 'well' and attempts > 1") == 0
        # Each could take two threads at first, one after its first failure, and none once it had failed ten times.
        tried = 10 + THREADS
        assert all(far.connections <= tried for far in hanging)
        await_that(
            lambda: count(engine, "select count(*) from app.endpoint_health where probe_at is not null") == 2, 2 * SOON
        )
        assert all(far.connections <= tried for far in hanging)
        waiting = count(engine, "select count(*) from outbox.task where state = 'waiting'")
        assert waiting >= 2 * (queued - tried), "what waits costs neither a message nor a thread"


def test_with_fifo_no_event_overtakes_one_that_is_tried_again(engine: Engine, start: Start) -> None:
    arrived: list[int] = []
    failed: set[int] = set()

    def receive(stream: socket.socket) -> None:
        number = json.loads(read_request(stream).partition(b"\r\n\r\n")[2])["data"]
        if number % 5 == 0 and number not in failed:
            failed.add(number)
            stream.sendall(status(503))
        else:
            arrived.append(number)
            stream.sendall(status(200))

    with endpoint(receive) as far:
        subscribe(engine, "in.order", far.port, fifo=True, schedule=[timedelta(seconds=0.5)] * 3)
        publish(engine, "in.order", 20)
        start("relay")
        start("worker", "--threads", str(THREADS), "--queues", "webhooks")
        await_that(lambda: len(arrived) >= 20, SOON)
    assert arrived == list(range(20))
    assert failed == {0, 5, 10, 15}


def test_an_endpoint_with_a_rate_gets_no_more_than_that(engine: Engine, start: Start) -> None:
    arrived: list[float] = []

    def receive(stream: socket.socket) -> None:
        read_request(stream)
        arrived.append(time.monotonic())
        stream.sendall(status(200))

    with endpoint(receive) as far:
        subscribe(engine, "at.pace", far.port, rate_per_second=10)
        publish(engine, "at.pace", 50)
        start("relay")
        start("worker", "--threads", str(THREADS), "--queues", "webhooks")
        await_that(lambda: len(arrived) >= 50, SOON)
        attempts = count(engine, "select coalesce(sum(jsonb_array_length(attempts)), 0) from outbox.history")
    assert arrived[-1] - arrived[0] > 0.9 * 4.9
    assert attempts <= 2 * 50, "none waited more than once"
