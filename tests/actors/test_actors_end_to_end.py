"""The whole road in real processes: enqueued here, published by a relay, run by a worker, received out there."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
import standardwebhooks
from actor_bench import Bench
from awaiting import await_that
from far_http import answering, endpoint, headers_of, read_request, status
from far_smtp import mailroom
from sqlalchemy import select, text

import actors
from actors import analytics, mail, receipts, webhooks
from actors.tables import Counter, Delivery, Mail, Payload, Replay
from outbox import cron

pytestmark = pytest.mark.system
ROOT = Path(__file__).parents[2]
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(
    bench: Bench, database_url: str, amqp_url: str, queue_prefix: str, configured: Callable[..., None], tmp_path: Path
) -> Iterator[Start]:
    """Starts `outbox <command>` on this test's servers; what is left of it at the end is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*command: str, **variables: str) -> subprocess.Popen[bytes]:
        log = (tmp_path / f"{command[0]}-{len(started)}.log").open("wb")
        environment = {
            **os.environ,
            "DATABASE_URL": database_url,
            "RABBITMQ_URL": amqp_url,
            "OUTBOX_QUEUE_PREFIX": queue_prefix,
            "OUTBOX_APP": "actors",
            "OUTBOX_LEASE": "2",
            **variables,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "outbox.cli", *command], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
    for log in tmp_path.glob("*.log"):
        print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}")


#: Whole processes start in between.
wait_until = partial(await_that, timeout=timedelta(seconds=60))


def states(bench: Bench) -> dict[UUID, str]:
    """The state of each task, finished ones included."""
    with bench.engine.connect() as connection:
        rows = connection.execute(
            text(
                "select id, state from outbox.task union all select id, state from outbox.history "
                "union all select id, state from outbox.dead"
            )
        )
        return {row.id: row.state for row in rows}


def all_succeeded(bench: Bench, tasks: int) -> bool:
    found = states(bench)
    return len(found) == tasks and set(found.values()) == {"succeeded"}


def test_mail_webhook_receipt_and_count_arrive(bench: Bench, start: Start, configured: Callable[..., None]) -> None:
    seen: list[bytes] = []
    with mailroom() as (room, port), endpoint(answering(status(200), seen=seen)) as far:
        configured(SMTP_URL=f"smtp://127.0.0.1:{port}")
        start("relay")
        start("worker", "--threads", "2")
        order_id, at = uuid4(), datetime.now(UTC)
        with bench.session() as session, session.begin():
            _, secret = webhooks.create_endpoint(session, url=f"http://127.0.0.1:{far.port}/", event_types=["order.*"])
        with bench.session() as session, session.begin():
            welcome = mail.prepare(session, to="ada@example.org", subject="Welcome", text="Hi")
            mail.enqueue_mail(session, welcome)
            receipts.enqueue_receipt(
                session,
                order_id=order_id,
                email="ada@example.org",
                currency="EUR",
                placed_at=at,
                lines=[receipts.Line("TEA", 2, 500)],
            )
            (delivery,) = webhooks.fan_out(
                session, event_id=order_id, event_type="order.placed", content=b'{"id": 1}', occurred_at=at
            )
            analytics.enqueue_count(session, "order", at=at, currency="EUR", cents=1000)
        wait_until(lambda: all_succeeded(bench, 5))
    with bench.session() as session:
        mails = session.scalars(select(Mail).order_by(Mail.created_at)).all()
        assert {m.status for m in mails} == {"sent"}
        assert {e.content for e in room.envelopes} == {m.body for m in mails}
        assert len(room.envelopes) == len(mails) == 2
        assert session.get_one(Delivery, delivery.id).status == "delivered"
        counter = session.scalars(select(Counter)).one()
    assert (counter.count, counter.cents) == (1, 1000)
    event = standardwebhooks.Webhook(secret).verify(seen[0].partition(b"\r\n\r\n")[2], headers_of(seen[0]))
    assert event["data"] == {"id": 1}
    assert headers_of(seen[0])["webhook-id"] == str(delivery.id)


def test_a_worker_killed_while_an_endpoint_holds_its_request_delivers_it_again_unchanged(
    bench: Bench, start: Start
) -> None:
    requests: list[bytes] = []
    held, release = threading.Event(), threading.Event()

    def hold_the_first(stream: socket.socket) -> None:
        requests.append(read_request(stream))
        if len(requests) == 1:
            held.set()
            release.wait(60)
        stream.sendall(status(200))

    with endpoint(hold_the_first) as far:
        with bench.session() as session, session.begin():
            webhooks.create_endpoint(session, url=f"http://127.0.0.1:{far.port}/", event_types=["*"])
        with bench.session() as session, session.begin():
            (task,) = webhooks.fan_out(
                session, event_id=uuid4(), event_type="a", content=b"1", occurred_at=datetime.now(UTC)
            )
        start("relay")
        worker = start("worker", "--threads", "1", "--queues", "webhooks")
        assert held.wait(60)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        start("worker", "--threads", "1", "--queues", "webhooks")
        wait_until(lambda: states(bench).get(task.id) == "succeeded")
        release.set()
    first, second = requests
    assert headers_of(first)["webhook-id"] == headers_of(second)["webhook-id"] == str(task.id)
    assert first.partition(b"\r\n\r\n")[2] == second.partition(b"\r\n\r\n")[2]


def test_a_mail_server_that_comes_back_gets_the_mail_and_no_failure_is_counted(
    bench: Bench, start: Start, configured: Callable[..., None]
) -> None:
    with mailroom() as (_, port):
        pass
    configured(SMTP_URL=f"smtp://127.0.0.1:{port}")
    with bench.session() as session, session.begin():
        prepared = mail.prepare(session, to="ada@example.org", subject="Hello", text="Hi")
        mail.enqueue_mail(session, prepared)
    start("relay")
    start("worker", "--threads", "1", "--queues", "mail")

    def row() -> Mail:
        with bench.session() as session:
            return session.get_one(Mail, prepared.id)

    wait_until(lambda: row().troubles > 0)
    with mailroom(port=port) as (room, _):
        wait_until(lambda: states(bench)[prepared.id] == "succeeded")
    assert [envelope.content for envelope in room.envelopes] == [row().body]
    with bench.engine.connect() as connection:
        failures = connection.execute(text("select failures from outbox.history")).scalar_one()
    assert failures == 0


def test_a_replay_delivers_what_died_under_the_same_id_and_nothing_else(bench: Bench, start: Start) -> None:
    seen: list[bytes] = []
    answers = [status(404)]

    def answer(stream: socket.socket) -> None:
        seen.append(read_request(stream))
        stream.sendall(answers[0])

    with endpoint(answer) as far:
        with bench.session() as session, session.begin():
            made, _ = webhooks.create_endpoint(session, url=f"http://127.0.0.1:{far.port}/", event_types=["*"])
        begin = datetime.now(UTC)

        def publish(number: int) -> UUID:
            with bench.session() as session, session.begin():
                (task,) = webhooks.fan_out(
                    session, event_id=uuid4(), event_type="a", content=str(number).encode(), occurred_at=begin
                )
            return task.id

        start("relay")
        start("worker", "--threads", "2", "--queues", "webhooks,default")
        missed = {publish(number) for number in range(3)}
        wait_until(lambda: {states(bench).get(each) for each in missed} == {"dead"})
        answers[0] = status(200)
        arrived = publish(3)
        wait_until(lambda: states(bench)[arrived] == "succeeded")
        with bench.session() as session, session.begin():
            webhooks.start_replay(session, made, since=begin, who="ada")
        wait_until(lambda: all_succeeded(bench, 5))
    ids = [headers_of(request)["webhook-id"] for request in seen]
    assert sorted(ids) == sorted([*map(str, missed), *map(str, missed), str(arrived)])
    for each in map(str, missed):
        first, second = [request.partition(b"\r\n\r\n")[2] for request, id in zip(seen, ids, strict=True) if id == each]
        assert first == second


def test_a_worker_killed_in_the_midst_of_a_page_leaves_no_gap_and_no_repeat(
    bench: Bench, start: Start, database_url: str
) -> None:
    events, at = sorted(uuid4() for _ in range(250)), datetime.now(UTC)  # of one instant: they differ by id alone
    seen: list[bytes] = []
    with endpoint(answering(status(200), seen=seen)) as far:
        with bench.session() as session, session.begin():
            made, _ = webhooks.create_endpoint(session, url=f"http://127.0.0.1:{far.port}/", event_types=["*"])
            session.add_all(Payload(event_id=each, event_type="a", body=b"{}", created_at=at) for each in events)
        with bench.session() as session, session.begin():
            replay_id = webhooks.start_replay(session, made, since=at, who="ada").replay.id
        start("relay")
        for event in (events[150], events[220]):  # the second page's, then the third's
            with psycopg.connect(database_url) as holding, psycopg.connect(database_url, autocommit=True) as eyes:
                holding.execute("select from app.payload where event_id = %s for update", [event])
                worker = start("worker", "--threads", "2", "--queues", "default")
                wait_until(lambda: bool(eyes.execute("select from pg_locks where not granted").fetchall()))
                worker.send_signal(signal.SIGKILL)
                worker.wait()
        start("worker", "--threads", "2", "--queues", "default,webhooks")
        wait_until(lambda: all_succeeded(bench, len(events) + 3))
    with bench.session() as session:
        ended = session.get_one(Replay, replay_id)
        deliveries = session.scalars(select(Delivery)).all()
    assert (ended.status, ended.seen, ended.enqueued, ended.total) == ("done", 250, 250, 250)
    assert sorted(each.event_id for each in deliveries) == events
    assert {headers_of(request)["webhook-id"] for request in seen} == {str(each.id) for each in deliveries}


def test_the_scheduler_declares_the_housekeeping_and_a_worker_carries_it_out(
    bench: Bench, start: Start, database_url: str
) -> None:
    start("relay")
    start("worker", "--threads", "1", "--queues", "heavy")
    start("scheduler")

    def declared() -> set[str]:
        with bench.engine.connect() as connection:
            return set(connection.execute(text("select name from outbox.schedule")).scalars())

    wait_until(lambda: declared() == {"purge_outbox", "purge_sent"})
    with psycopg.connect(database_url, autocommit=True) as conn:
        for name in ("purge_outbox", "purge_sent"):
            cron.run_now(conn, actors.broker.ledger, name, who="ada")
    wait_until(lambda: all_succeeded(bench, 2))
