"""Connections that break in each of the ways they can: the rows stay due (I4), and nobody has to restart anything (I5)."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from uuid import UUID

import pytest
from awaiting import await_that
from outbox_rows import Outbox
from relay_eyes import HeldWire, MakeRelay, Queues, fence_of, id_of, insert

QUICK = timedelta(seconds=2)


def _published_over(wire: HeldWire, outbox: Outbox, make_relay: MakeRelay) -> None:
    """A relay at work, whose connections to RabbitMQ all go over the wire."""
    make_relay(rabbitmq_url=wire.url, confirm_timeout=QUICK, relay_lanes=1)
    first = outbox.add()
    await_that(lambda: outbox.state(first) == "published")


def test_connections_whose_peer_vanished_are_replaced_within_seconds(
    outbox: Outbox, queues: Queues, wire: HeldWire, make_relay: MakeRelay
) -> None:
    """I4, I5: half open: bytes are taken and go nowhere, nothing is ever closed. New connections get through."""
    _published_over(wire, outbox, make_relay)
    wire.vanish()
    began = time.monotonic()
    ids = outbox.add_many(20)
    await_that(lambda: outbox.count("published") == 21, timedelta(seconds=15))
    print(f"published {time.monotonic() - began:.1f} s after the peer vanished, with a confirm timeout of 2 s")
    assert set(ids) <= set(map(id_of, queues.take()))
    began = time.monotonic()
    more = outbox.add_many(20, queue="other")  # all of the relay has found its way back, not one batch in haste
    await_that(lambda: {outbox.state(id) for id in more} == {"published"}, timedelta(seconds=10))
    print(f"a new queue was declared and served {time.monotonic() - began:.1f} s later")
    assert {(row["refusals"], row["failures"]) for row in outbox.all()} == {(0, 0)}


def test_what_is_confirmed_after_a_partition_healed_was_due_all_the_while(
    outbox: Outbox, queues: Queues, wire: HeldWire, make_relay: MakeRelay
) -> None:
    """I4: the bytes arrive late, after the relay gave up; what it publishes again has the same fence."""
    _published_over(wire, outbox, make_relay)
    wire.hold()
    ids = outbox.add_many(20)
    broken = wire.connections
    await_that(lambda: wire.connections > broken)  # it gave up, and tries to connect anew: nobody answers
    assert {outbox.state(id) for id in ids} == {"pending"}
    wire.release()
    began = time.monotonic()
    await_that(lambda: outbox.count("published") == 21)
    print(f"published {time.monotonic() - began:.1f} s after the partition healed")
    fences = {row["id"]: row["fence"] for row in outbox.all()}
    assert {id_of(body): fence_of(body) for body in queues.take()} == fences
    assert {(row["refusals"], row["failures"], row["losses"]) for row in outbox.all()} == {(0, 0, 0)}


@pytest.mark.parametrize("break_it", [HeldWire.reset, HeldWire.hang_up], ids=["RST", "FIN"])
def test_a_connection_cut_in_the_middle_of_a_drain_loses_nothing(
    outbox: Outbox, queues: Queues, wire: HeldWire, make_relay: MakeRelay, break_it: object
) -> None:
    """I4, I5: three times over; what was confirmed is marked, the rest goes again with its fence."""
    insert(outbox, 3_000, queue="mail")
    make_relay(rabbitmq_url=wire.url, confirm_timeout=QUICK, relay_batch=100, relay_window=50_000)
    marked = "select count(*) from outbox.task where state = 'published'"
    for level in (300, 1_000, 2_000):
        await_that(lambda: outbox.conn.execute(marked).fetchall()[0][0] > level)  # noqa: B023
        assert callable(break_it)
        break_it(wire)
    await_that(lambda: outbox.conn.execute(marked).fetchall() == [(3_000,)])
    fences = dict(outbox.conn.execute("select id, fence from outbox.task").fetchall())
    bodies = queues.take()
    assert {id_of(body): fence_of(body) for body in bodies} == fences
    assert len(bodies) - 3_000 <= 3 * 200, "repeats: at most the batches in flight at each cut"
    assert outbox.conn.execute("select sum(refusals), sum(failures) from outbox.task").fetchall() == [(0, 0)]


def test_a_database_connection_cut_under_a_batch_gives_its_rows_to_the_next(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay
) -> None:
    """I5: every connection of the relay to PostgreSQL ends at once, again and again."""
    insert(outbox, 3_000, queue="mail")
    relay = make_relay(relay_batch=100, relay_window=50_000)
    cut = "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'outbox relay %%'"
    marked = "select count(*) from outbox.task where state = 'published'"
    for level in (300, 1_500):
        await_that(lambda: outbox.conn.execute(marked).fetchall()[0][0] > level)  # noqa: B023
        assert outbox.conn.execute(cut + " and datname = current_database()").fetchall()
    await_that(lambda: outbox.conn.execute(marked).fetchall() == [(3_000,)])
    fences = dict(outbox.conn.execute("select id, fence from outbox.task").fetchall())
    assert {id_of(body): fence_of(body) for body in queues.take()} == fences
    assert relay.alive


def test_a_relay_that_stops_has_its_batch_confirmed_and_marked_first(
    outbox: Outbox, queues: Queues, wire: HeldWire, make_relay: MakeRelay
) -> None:
    """I4: its confirms are held up on the wire when the stop is asked for."""
    relay = make_relay(rabbitmq_url=wire.url, relay_lanes=1)
    first = outbox.add()
    await_that(lambda: outbox.state(first) == "published")
    wire.hold()
    ids = outbox.add_many(50)
    locked = "select count(*) from (select from outbox.task where id = any(%s) for update skip locked) free"
    await_that(lambda: outbox.conn.execute(locked, [ids]).fetchall() == [(0,)])
    stopping = threading.Thread(target=relay.stop)
    stopping.start()
    await_that(relay.stopping.is_set)
    wire.release()
    stopping.join(timeout=10)
    assert not stopping.is_alive()
    assert {outbox.state(id) for id in ids} == {"published"}
    assert queues.depth() == 51
    late = outbox.add()
    outbox.conn.execute("select id from outbox.task for update nowait")
    assert outbox.state(late) == "pending"


def test_a_database_that_fell_silent_behind_a_proxy_holds_up_relaying_no_longer_than_a_quick_answer_may_take(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I5: lanes may go on with the room that was known; once it is used up, they need the registry to look again."""
    for where in ("registry", "keeper"):
        monkeypatch.setattr(f"outbox.{where}.QUICK", QUICK)
    monkeypatch.setattr("outbox.relay.STALL", timedelta(seconds=0))
    wire = HeldWire(outbox.url)
    try:
        make_relay(database_url=wire.url, confirm_timeout=QUICK, relay_lanes=1, relay_window=20)
        first = outbox.add()
        await_that(lambda: outbox.state(first) == "published")
        wire.vanish()
        wanted, taken = {first, *outbox.add_many(100), outbox.add(delay=timedelta(seconds=1))}, set[UUID]()
        began = time.monotonic()

        def all_taken() -> bool:
            taken.update(map(id_of, queues.take()))
            return taken == wanted

        await_that(all_taken, timedelta(seconds=20))
        print(f"all published {time.monotonic() - began:.1f} s after the database fell silent")
    finally:
        wire.close()
