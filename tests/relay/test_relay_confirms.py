"""A message counts as published by the broker's confirm of that very message and by nothing else (I4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import UUID

import pytest
from awaiting import await_that
from outbox_rows import Outbox
from relay_eyes import MARKS, MakeRelay, Queues, count, fence_of, id_of, insert, let_marks_wait

from deploy.local.servers import RabbitMQ
from outbox.relay import Relay

#: A classic queue: it refuses from the third message on, where a quorum queue takes what is on its way.
FULL = {"x-max-length": 2, "x-overflow": "reject-publish"}


@pytest.fixture
def limit_messages(own_rabbitmq: RabbitMQ) -> Iterator[Callable[[int], None]]:
    """Sets the size above which RabbitMQ closes the channel of whoever publishes it, for channels opened later."""
    before = own_rabbitmq.ctl("eval", "application:get_env(rabbit, max_message_size, 134217728).").strip()

    def limit(size: int | str) -> None:
        own_rabbitmq.ctl("eval", f"application:set_env(rabbit, max_message_size, {size}).")

    yield limit
    limit(before)


def test_what_the_broker_refuses_waits_with_a_reason_and_its_neighbours_go(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay
) -> None:
    """I4, I5: a nack costs no attempt; nothing that was refused is marked."""
    queues.declare("mail", **FULL)
    refused = outbox.add_many(30, queue="mail")
    others = outbox.add_many(30, queue="other")
    make_relay(relay_batch=100)
    await_that(lambda: {outbox.state(id) for id in others} == {"published"})
    await_that(lambda: outbox.count("pending") == 0)
    held = set(map(id_of, queues.take("mail")))
    rows = {row["id"]: row for row in outbox.all() if row["id"] in refused}
    back = [row for row in rows.values() if row["state"] == "scheduled"]
    assert {id for id, row in rows.items() if row["state"] == "published"} == held
    assert len(held) + len(back) == 30
    assert len(held) == 2
    for row in back:
        assert row["refusals"] == 1
        assert row["reason"] == "the broker refused the message"
        assert row["due_at"] > row["created_at"]
        assert (row["attempts"], row["failures"], row["losses"]) == ([], 0, 0)


def test_what_was_refused_goes_out_once_the_broker_takes_it(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay
) -> None:
    queues.declare("mail", **FULL)
    ids = outbox.add_many(20)
    make_relay()
    await_that(lambda: outbox.count("scheduled") and not outbox.count("pending"))
    fences = {row["id"]: row["fence"] for row in outbox.all()}
    taken = queues.take()

    def all_arrived() -> bool:
        outbox.conn.execute("update outbox.task set due_at = clock_timestamp() where state = 'scheduled'")
        taken.extend(queues.take())
        return set(map(id_of, taken)) == set(ids)

    await_that(all_arrived)
    await_that(lambda: outbox.count("published") == 20)
    assert {id_of(body): fence_of(body) for body in taken} == fences
    assert len(taken) == 20
    assert {row["failures"] for row in outbox.all()} == {0}


def test_each_refusal_waits_longer_than_the_one_before(outbox: Outbox, queues: Queues, make_relay: MakeRelay) -> None:
    queues.declare("mail", **FULL)
    queues.put(b"{}")
    queues.put(b"{}")
    id = outbox.add()
    make_relay()
    waits = []
    for refusals in range(1, 5):
        await_that(lambda: outbox.row(id)["refusals"] == refusals)  # noqa: B023
        waited = "select extract(epoch from due_at - clock_timestamp())::float from outbox.task"
        waits.append(outbox.conn.execute(waited).fetchall()[0][0])
        outbox.conn.execute("update outbox.task set due_at = clock_timestamp()")
    assert waits == pytest.approx([5, 10, 20, 40], abs=2)


def test_a_queue_deleted_while_the_relay_runs_is_declared_again_in_a_new_epoch(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay
) -> None:
    """I2, I4: what came back is published again, and so is what was lost with the queue; same fences, no attempt."""
    make_relay()
    lost = outbox.add_many(20)
    await_that(lambda: outbox.count("published") == 20)
    epoch = outbox.ledger.queue_epoch(outbox.conn, "mail")
    queues.delete()
    late = outbox.add_many(20)
    await_that(lambda: queues.depth() == 40)
    await_that(lambda: outbox.count("published") == 40)
    rows = {row["id"]: row for row in outbox.all()}
    assert {id_of(body): fence_of(body) for body in queues.take()} == {id: row["fence"] for id, row in rows.items()}
    assert outbox.ledger.queue_epoch(outbox.conn, "mail") == epoch + 1
    assert {row["epoch"] for row in rows.values()} == {epoch + 1}
    assert {rows[id]["losses"] for id in lost} == {1}
    assert {rows[id]["losses"] for id in late} == {0}
    assert {(row["failures"], len(row["attempts"])) for row in rows.values()} == {(0, 0)}


def test_a_queue_that_is_new_to_the_relay_gets_each_message_once(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay
) -> None:
    """What goes out in the first moment of an epoch is marked with it, not with the one before."""
    insert(outbox, 2_000)
    make_relay()
    await_that(lambda: count(outbox, "published") == 2_000)
    insert(outbox, 10, queue="mail")  # a second queue's epoch begins: the keeper has looked for older ones by its end
    await_that(lambda: count(outbox, "published", "mail") == 10)
    assert {row["losses"] for row in outbox.all()} == {0}
    assert queues.depth("bulk") == 2_000


def test_a_message_that_closes_the_channel_waits_alone_and_its_neighbours_go(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay, limit_messages: Callable[[int], None]
) -> None:
    """I4, I5: RabbitMQ closes the channel over an oversized message, whatever else is under way on it."""
    limit_messages(100_000)
    ids = [outbox.add(n, "x" * (200_000 if n == 17 else 10)) for n in range(40)]
    make_relay()
    await_that(lambda: outbox.count("published") == 39 and outbox.count("scheduled") == 1)
    row = outbox.row(ids[17])
    assert row["state"] == "scheduled"
    assert row["refusals"] == 1
    assert "larger than configured max size" in row["reason"]
    assert (row["failures"], row["attempts"]) == (0, [])
    assert {id_of(body) for body in queues.take()} == set(ids) - {ids[17]}


def test_many_messages_that_close_the_channel_cost_no_neighbour_a_refusal(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay, limit_messages: Callable[[int], None]
) -> None:
    """I4: with several batches in flight, a closed channel is nobody's fault until one was alone on it."""
    limit_messages(100_000)
    ids = [outbox.add(n, "x" * (200_000 if n % 10 == 5 else 10)) for n in range(60)]
    large = {id for n, id in enumerate(ids) if n % 10 == 5}
    relay = make_relay(relay_batch=10, relay_lanes=3)
    await_that(lambda: outbox.count("pending") == 0)
    rows = {row["id"]: row for row in outbox.all()}
    assert {id for id, row in rows.items() if row["refusals"]} == large
    assert {id for id, row in rows.items() if row["state"] == "published"} == set(ids) - large
    assert _watches(relay) == 1


def _watches(relay: Relay) -> int:
    """Timers of the publisher that look for silence: one a connection, however often its channel was closed."""
    heap = relay.publisher._connection.ioloop._timer._timeout_heap
    return sum("_watch" in repr(timeout.callback) for timeout in heap)


def test_a_confirm_that_comes_too_late_marks_nothing(outbox: Outbox, queues: Queues, make_relay: MakeRelay) -> None:
    """I3: the relay's transaction ended while its mark waited; the row is due, and published again with its fence."""
    lock = let_marks_wait(outbox)
    id = outbox.add()
    fence = outbox.row(id)["fence"]
    make_relay(relay_lanes=1)
    [[pid]] = await_that(lambda: outbox.conn.execute(MARKS).fetchall())
    assert queues.depth() == 1
    outbox.conn.execute("select pg_terminate_backend(%s)", [pid])
    await_that(lambda: queues.depth() == 2)
    assert outbox.state(id) == "pending"
    lock.close()
    await_that(lambda: outbox.state(id) == "published")
    assert [(id_of(body), fence_of(body)) for body in queues.take()] == [(id, fence)] * 2
    assert outbox.row(id)["attempts"] == []


@pytest.mark.parametrize("meanwhile", ["claimed", "succeeded", "failed", "cancelled"])
def test_a_mark_changes_no_row_that_has_gone_on(outbox: Outbox, meanwhile: str) -> None:
    """I3: for rows that somebody settled, or holds, between the confirm and the mark."""
    id, worker = outbox.add(), outbox.a_worker()
    if meanwhile == "cancelled":
        outbox.ledger.cancel(outbox.conn, id, reason="test")
    else:
        claimed = outbox.must_claim(id, worker)
        if meanwhile == "succeeded":
            outbox.succeed(claimed)
        elif meanwhile == "failed":
            outbox.fail(claimed)
    before: dict[str, object] = outbox.row(id)
    assert outbox.ledger.mark_published(outbox.conn, [id, UUID(int=1)], epochs={"mail": 1}) == 0
    assert outbox.row(id) == before
