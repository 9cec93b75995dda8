"""Many relays, many queues: each row once, none starves, and the backlog stays in PostgreSQL."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pika
from awaiting import await_that
from outbox_rows import Outbox
from relay_eyes import MakeRelay, Queues, count, fence_of, id_of, insert

from outbox.topology import Topology


def test_two_relays_publish_each_of_three_thousand_rows_once(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay
) -> None:
    """I3: they share the rows by their locks, whatever the batches are."""
    for _ in range(2):
        make_relay(relay_batch=70)
    ids = [id for _ in range(10) for id in outbox.add_many(300)]
    await_that(lambda: count(outbox, "published", "mail") == 3_000)
    assert Counter(map(id_of, queues.take())) == Counter(ids)
    assert outbox.conn.execute("select sum(losses), sum(refusals) from outbox.task").fetchall() == [(0, 0)]


def test_five_relays_and_one_that_leaves_publish_each_row_once(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay
) -> None:
    """I3: also while one of them ends in order, and while their queue is new to all of them."""
    insert(outbox, 4_000)
    relays = [make_relay(relay_batch=50) for _ in range(5)]
    await_that(lambda: count(outbox, "published") > 500)
    relays[0].stop()
    await_that(lambda: count(outbox, "published") == 4_000)
    assert queues.depth("bulk") == 4_000


def test_many_who_find_a_queue_missing_begin_one_epoch(outbox: Outbox, queues: Queues) -> None:
    """Relays and workers, all at once: an epoch more would make everything due that was published in the first."""
    topology = Topology(prefix=queues.prefix, ledger=outbox.ledger)
    together = threading.Barrier(8)

    def ensure(_number: int) -> None:
        with pika.BlockingConnection(pika.URLParameters(queues.url)) as connection:
            together.wait()
            topology.ensure(connection, outbox.connect, "mail")

    for epoch in (1, 2, 3):
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(ensure, range(8)))
        assert outbox.ledger.queue_epoch(outbox.conn, "mail") == epoch
        queues.delete("mail")


def test_a_backlog_behind_a_full_window_keeps_no_other_queue_waiting(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay
) -> None:
    insert(outbox, 20_000)
    make_relay(relay_window=600)
    await_that(lambda: (queues.depth("bulk") or 0) >= 600)
    began = time.monotonic()
    urgent = outbox.add_many(10, queue="urgent")
    await_that(lambda: count(outbox, "published", "urgent") == 10)
    print(f"10 rows beside a backlog of 19,000: {time.monotonic() - began:.3f} s")
    assert len(urgent) == queues.depth("urgent") == 10
    assert count(outbox, "pending") > 17_000


def test_a_backlog_that_is_being_drained_keeps_no_other_queue_waiting(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay
) -> None:
    """The names are such that one queue comes before the backlog in every order, and the other after it."""
    insert(outbox, 20_000, queue="mail")
    make_relay(relay_batch=100, relay_window=50_000)
    await_that(lambda: count(outbox, "published", "mail") > 100)
    for queue in ("bulk", "urgent"):
        began = time.monotonic()
        outbox.add_many(10, queue=queue)
        await_that(lambda: count(outbox, "published", queue) == 10)  # noqa: B023
        print(f"10 rows beside a backlog in motion: {time.monotonic() - began:.3f} s")
    assert count(outbox, "pending", "mail"), "the backlog was in motion all the while"


def test_no_more_wait_in_the_broker_than_the_window_and_the_batches_in_flight(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay
) -> None:
    """Watched at each message that a slow consumer takes, until all have gone by."""
    insert(outbox, 600)
    make_relay(relay_window=50, relay_batch=20, relay_lanes=2)
    most = 0
    taken: list[bytes] = []
    with queues.channel() as channel:
        await_that(lambda: queues.depth("bulk"))

        def took_all() -> bool:
            nonlocal most
            method, _, body = channel.basic_get(queues.name("bulk"), auto_ack=True)
            if method is not None and body is not None:
                most = max(most, method.message_count + 1)
                taken.append(body)
            return len(taken) == 600

        await_that(took_all, pace=timedelta(milliseconds=1))
    print(f"at most {most} messages, with a window of 50 and two lanes of 20")
    assert 40 <= most <= 50 + 2 * 20
    assert len(set(map(id_of, taken))) == 600


def test_a_paused_queue_publishes_nothing_and_what_it_had_published_is_stale(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay
) -> None:
    """I3: paused in the middle of its backlog; what was in flight at that moment is stale too, soon after."""
    insert(outbox, 5_000)
    make_relay(relay_batch=50)
    await_that(lambda: count(outbox, "published") > 200)
    with outbox.conn.transaction():
        assert outbox.ledger.pause_queue(outbox.conn, "bulk", who="test") > 0
    await_that(lambda: count(outbox, "pending") == 5_000)
    stale = {id_of(body): fence_of(body) for body in queues.take("bulk")}
    other = outbox.add(message=None)
    await_that(lambda: outbox.state(other) == "published")  # a relay at work, and none of the paused queue
    assert (queues.depth("bulk"), count(outbox, "pending")) == (0, 5_000)
    fences = dict(outbox.conn.execute("select id, fence from outbox.task").fetchall())
    assert [id for id, fence in stale.items() if fences[id] == fence] == []
    assert outbox.ledger.resume_queue(outbox.conn, "bulk")
    await_that(lambda: count(outbox, "published") == 5_000)
    again = {id_of(body): fence_of(body) for body in queues.take("bulk")}
    assert again == {id: fence for id, fence in fences.items() if id != other}
