"""The tap sees each statement and frame that its client sends, and kills where it is told."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pika
import psycopg
import pytest
from broker_side import admin, depth

from deploy.local.servers import GivenServer, RabbitMQ
from outbox.ledger import IS_FINISHED
from tests.awaiting import await_that
from tests.crashpoints.tap import AFTER, BEFORE, AmqpFrames, PgQueries, Point, Tap, Target, changes_a_task, named

WRITER = """
import psycopg, sys
with psycopg.connect(sys.argv[1], application_name="writer", autocommit=True) as conn:
    for n in range(3):
        conn.execute("insert into noted values (%s)", [n])
"""

PUBLISHER = """
import pika, sys
connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
channel = connection.channel()
frames = b""
for n in range(3):
    method = pika.spec.Basic.Publish(exchange="", routing_key=sys.argv[2])
    for each in (pika.frame.Method(1, method), pika.frame.Header(1, 1, pika.BasicProperties()), pika.frame.Body(1, b"x")):
        frames += each.marshal()
connection._impl._output_marshaled_frames([frames])
connection.process_data_events(time_limit=20)
"""


@contextmanager
def tapped(database_url: str, amqp_url: str, target: Target | None = None) -> Iterator[Tap]:
    tap = Tap(database_url, amqp_url, target)
    yield tap
    tap.close()


def noted(database_url: str) -> list[int]:
    with psycopg.connect(database_url) as conn:
        return [n for (n,) in conn.execute("select n from noted order by n").fetchall()]


def test_a_statement_of_the_ledger_has_its_name() -> None:
    assert named(IS_FINISHED.replace("%(id)s", "$1")) == "IS_FINISHED"
    assert named("select  'x', 12") == "select ?, ?"


def test_what_changes_a_task_is_known_by_its_name() -> None:
    assert changes_a_task("outbox settle: COMMIT after RECORD_SUCCESSES")
    assert changes_a_task("outbox claim default: CLAIM")
    assert not changes_a_task("outbox lease: BEAT")
    assert not changes_a_task("amqp: Basic.Ack")


def test_statements_are_points_in_their_order(database_url: str, rabbitmq: RabbitMQ | GivenServer) -> None:
    with tapped(database_url, rabbitmq.url) as tap:
        with psycopg.connect(tap.database_url, application_name="me") as conn, conn.transaction():
            conn.execute("select 1")
            conn.execute("select %s::int", [2])
        names = [point.name for point in tap.points]
    assert names[:5] == [
        "me: start-up",
        "me: BEGIN",
        "me: select ?",
        "me: select ?::int",
        "me: COMMIT after select ?::int",
    ]


def test_frames_are_points_in_their_order(database_url: str, rabbitmq: RabbitMQ | GivenServer) -> None:
    with tapped(database_url, rabbitmq.url) as tap:
        connection = pika.BlockingConnection(pika.URLParameters(tap.rabbitmq_url))
        channel = connection.channel()
        channel.basic_publish("", "nobody", b"x")
        connection.close()
        names = [point.name for point in tap.points]
    sent = ["amqp: Basic.Publish", "amqp: Basic.Publish/header", "amqp: Basic.Publish/body"]
    assert names[0] == "amqp: protocol header"
    assert [name for name in names if "Publish" in name] == sent


@pytest.mark.parametrize(("side", "left"), [(BEFORE, [0]), (AFTER, [0, 1])])
def test_the_client_dies_on_the_side_that_was_told(
    database_url: str, rabbitmq: RabbitMQ | GivenServer, side: str, left: list[int]
) -> None:
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("create table noted (n int)")
    with tapped(database_url, rabbitmq.url, Target(Point("writer: insert into noted values (?)", 2), side)) as tap:
        process = subprocess.Popen([sys.executable, "-c", WRITER, tap.database_url])
        tap.pid = process.pid
        assert process.wait(20) == -9
        assert tap.struck.is_set()
    await_that(lambda: noted(database_url) == left)


@pytest.mark.parametrize(("side", "left"), [(BEFORE, 1), (AFTER, 2)])
def test_of_frames_in_one_write_those_before_the_kill_arrive(
    database_url: str, rabbitmq: RabbitMQ | GivenServer, queue_prefix: str, side: str, left: int
) -> None:
    with admin(rabbitmq.url) as channel:
        channel.queue_declare(queue_prefix)
        with tapped(database_url, rabbitmq.url, Target(Point("amqp: Basic.Publish/body", 2), side)) as tap:
            process = subprocess.Popen([sys.executable, "-c", PUBLISHER, tap.rabbitmq_url, queue_prefix])
            tap.pid = process.pid
            assert process.wait(20) == -9
        await_that(lambda: depth(channel, queue_prefix) == left)
        channel.queue_delete(queue_prefix)


@pytest.mark.parametrize("pieces", [1, 3, 7, 1000])
def test_units_are_whole_however_they_arrive(pieces: int) -> None:
    said = struct.pack("!I", 196608) + b"application_name\0me\0\0"
    query = b"select 1\0"
    ssl = struct.pack("!II", 8, 80877103)
    stream = ssl + struct.pack("!I", 4 + len(said)) + said + b"Q" + struct.pack("!I", 4 + len(query)) + query
    units = PgQueries()
    cut = [name for at in range(0, len(stream), pieces) for _, name in units.feed(stream[at : at + pieces])]
    assert cut == ["ssl", "me: start-up", "me: select ?"]
    frames = AmqpFrames()
    wire = b"AMQP\x00\x00\x09\x01" + b"\x08\x00\x00\x00\x00\x00\x00\xce"
    cut = [name for at in range(0, len(wire), pieces) for _, name in frames.feed(wire[at : at + pieces])]
    assert cut == ["amqp: protocol header", None]
