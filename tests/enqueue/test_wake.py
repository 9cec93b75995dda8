"""The wake-up: after the commit, from another connection, coalesced; a hint that may fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import psycopg
import pytest
from awaiting import await_that
from outbox_rows import Outbox, a_message
from psycopg import Notify
from sqlalchemy import text

from outbox import enqueue
from outbox.ledger import Conn
from outbox.wake import BURST, PAUSE, SHORTEST, Waker


@pytest.fixture
def listener(outbox: Outbox) -> Iterator[Conn]:
    with psycopg.connect(outbox.url, autocommit=True) as listener:
        listener.execute("listen outbox")
        yield listener


def heard(listener: Conn, *, within: float) -> list[Notify]:
    return list(listener.notifies(timeout=within, stop_after=1)) + list(listener.notifies(timeout=0.1))


def test_the_business_transaction_notifies_nobody_and_the_wake_up_follows_the_commit(
    outbox: Outbox, listener: Conn
) -> None:
    """A committing NOTIFY takes a lock on the whole cluster: it comes from another connection, after the commit."""
    with outbox.session() as session:
        backend = session.scalar(text("select pg_backend_pid()"))
        for number in range(50):
            enqueue(session, a_message(number))
            session.flush()
        assert heard(listener, within=0.1) == []
        session.commit()
    (said,) = heard(listener, within=10)
    assert said.pid != backend


def test_a_rolled_back_transaction_wakes_nobody(outbox: Outbox, listener: Conn) -> None:
    with outbox.session() as session:
        enqueue(session, a_message(1))
        session.flush()
        session.rollback()
    with outbox.session() as session:
        session.execute(text("select 1"))
        session.commit()
    assert heard(listener, within=0.3) == []


def test_wake_ups_in_quick_succession_become_few(outbox: Outbox, listener: Conn) -> None:
    waker = Waker(outbox.url)
    for _ in range(5000):
        waker.wake()
    assert 1 <= len(heard(listener, within=10)) <= 500


def test_a_burst_is_told_quickly_and_a_steady_stream_at_an_even_pace(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pause that grew without bound would stay: each commit then waits for the poll."""
    waker, pauses, clock = Waker(outbox.url), list[float](), [100.0]

    def commit_meanwhile(pause: float) -> None:
        if threading.current_thread() is not waker._thread:
            return  # the waker of another test, which speaks still
        pauses.append(pause)
        clock[0] += pause
        if len(pauses) % 50:
            waker.wake()

    monkeypatch.setattr("outbox.wake.time", SimpleNamespace(sleep=commit_meanwhile, monotonic=lambda: clock[0]))
    waker.wake()
    await_that(lambda: len(pauses) == 50)
    assert pauses[:BURST] == [SHORTEST] * BURST
    assert pauses[-30:] == pytest.approx([PAUSE] * 30)
    clock[0] += BURST * PAUSE
    waker.wake()
    await_that(lambda: len(pauses) == 100)
    assert pauses[50:60] == [SHORTEST] * BURST


def test_a_wake_up_waits_for_nobody_and_survives_a_database_that_is_away(outbox: Outbox, listener: Conn) -> None:
    waker = Waker(outbox.url, port="1")
    began = time.monotonic()
    for _ in range(100):
        waker.wake()
    assert time.monotonic() - began < 1
    assert heard(listener, within=0.1) == []


def test_a_wake_up_comes_again_on_a_new_connection_after_its_own_was_cut(outbox: Outbox, listener: Conn) -> None:
    waker = Waker(outbox.url, application_name="to be cut")
    waker.wake()
    assert heard(listener, within=10)
    outbox.conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'to be cut'")
    waker.wake()
    assert heard(listener, within=10)
