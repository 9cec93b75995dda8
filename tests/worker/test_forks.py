"""fork(), by gunicorn's preload, by plain dramatiq, by multiprocessing: parent and child share no connection."""

from __future__ import annotations

import os
import subprocess
import sys

import psycopg
import pytest

SETTING = """
import gc, os, sys, time
import dramatiq
from sqlalchemy import text
from sqlalchemy.orm import Session
from outbox import OutboxBroker, enqueue
from outbox.run import Run, _current, bound_session

broker = OutboxBroker()
dramatiq.set_broker(broker)

@dramatiq.actor
def note(who): ...

def await_that(condition):
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)

def engine_backend():
    with Session(broker.engine()) as session:
        return session.scalar(text("select pg_backend_pid()"))

def backends():
    waker = broker._waker
    await_that(lambda: waker._connection is not None and not waker._connection.closed)
    return [broker._own.conn.info.backend_pid, waker._connection.info.backend_pid, engine_backend()]

def in_child(act):
    if os.fork() == 0:
        try:
            act()
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        sys.exit(0)  # in order, with every destructor
    return os.wait()[1]
"""

EACH_ITS_OWN = """
note.send("parent")
before = backends()

def child():
    for _ in range(50):
        note.send("child")
    mine = backends()
    assert not set(mine) & set(before), (mine, before)
    gc.collect()

with broker._lock, broker._waker._lock:  # as if other threads were busy
    status = in_child(child)
assert status == 0, status
for _ in range(50):
    note.send("parent")
assert backends() == before, "the child has closed a connection of its parent's"
"""

AT_ONCE = """
note.send("parent")
child = os.fork()
for _ in range(200):
    note.send("parent" if child else "child")
if not child:
    sys.exit(0)
assert os.wait()[1] == 0
"""

IN_A_RUN = """
from uuid import uuid4
run = Run(task_id=uuid4(), run_id=uuid4(), attempt=1, failures=0, max_attempts=None, lane=None, message=None, station=None)
_current.set(run)
assert in_child(lambda: note.send("child")) == 0
note.send("parent")
assert len(run.children) == 1, "the parent sends in its run as before"
"""

IN_A_REQUEST = """
with Session(broker.engine()) as session, bound_session.bind(session):
    note.send("parent")
    assert in_child(lambda: note.send("child")) == 0
    session.rollback()
"""


@pytest.mark.parametrize(
    ("scene", "sent"),
    [
        (EACH_ITS_OWN, {"parent": 51, "child": 50}),
        (AT_ONCE, {"parent": 201, "child": 200}),
        (IN_A_RUN, {"child": 1}),
        (IN_A_REQUEST, {"child": 1}),
    ],
    ids=["each has connections of its own", "both send at once", "the child of a run", "the child of a request"],
)
def test_what_parent_and_child_send_arrives_on_connections_of_their_own(
    database_url: str, scene: str, sent: dict[str, int]
) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SETTING + scene],
        env={**os.environ, "DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    with psycopg.connect(database_url) as db:
        rows = db.execute("select args ->> 0, count(*) from outbox.task group by 1").fetchall()
    assert dict(rows) == sent
