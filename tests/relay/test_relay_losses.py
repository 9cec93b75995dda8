"""What the broker lost, or moved aside, is found and published again with the same fence: I2. No attempt is counted."""

from __future__ import annotations

import base64
import time
from datetime import timedelta
from uuid import UUID

import dramatiq
from awaiting import await_that
from outbox_rows import Outbox, a_message
from relay_eyes import MakeRelay, Queues, fence_of, id_of

SHORT = timedelta(seconds=1)


def _beat(outbox: Outbox, worker: UUID, *, queue: str, unclaimed: bool = False, through: str | None = None) -> None:
    outbox.ledger.beat(
        outbox.conn, worker=worker, runs=[], running=[], queues=[queue], unclaimed=[queue] if unclaimed else [],
        claimed_through={queue: through} if through else {},
    )  # fmt: skip


def test_a_queue_purged_by_hand_is_found_empty_within_about_a_lease(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay
) -> None:
    """I2: its worker is idle and says that it holds nothing unclaimed."""
    ids, worker = outbox.add_many(5), outbox.a_worker(lease=SHORT)
    fences = {row["id"]: row["fence"] for row in outbox.all()}
    make_relay(lease=SHORT)
    await_that(lambda: outbox.count("published") == 5)
    queues.purge()
    began = time.monotonic()

    def found() -> bool:
        _beat(outbox, worker, queue="mail")
        return queues.depth() == 5

    await_that(found, timedelta(seconds=10))
    print(f"published again {time.monotonic() - began:.1f} s after the purge, with a lease of 1 s")
    assert {id_of(body): fence_of(body) for body in queues.take()} == fences
    assert {(row["losses"], row["failures"], len(row["attempts"])) for row in outbox.all()} == {(1, 0, 0)}
    assert set(outbox.ids()) == set(ids)


def test_while_a_worker_holds_messages_unclaimed_an_empty_queue_proves_nothing(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay
) -> None:
    """Two queues that are purged at once: in the one whose worker is idle the rows are found, twice over."""
    held, lost = outbox.add_many(3, queue="mail"), outbox.add_many(3, queue="other")
    busy, idle = outbox.a_worker(queues=["mail"], lease=SHORT), outbox.a_worker(queues=["other"], lease=SHORT)
    make_relay(lease=SHORT)

    def lost_twice() -> bool:
        _beat(outbox, busy, queue="mail", unclaimed=True)
        _beat(outbox, idle, queue="other")
        for queue in ("mail", "other"):
            if queues.depth(queue):
                queues.purge(queue)
        rows = {row["id"]: row["losses"] for row in outbox.all()}
        return all(rows[id] >= 2 for id in lost)  # purged again and again: one may be ahead of another

    await_that(lost_twice)
    assert {outbox.row(id)["losses"] for id in held} == {0}


def test_what_its_worker_holds_of_another_queue_keeps_no_lost_message_of_a_quiet_one_from_being_found(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay
) -> None:
    """I2: such a worker is busy for days; what it has not claimed is told by queue."""
    held, lost = outbox.add(message=a_message(queue="mail")), outbox.add(message=a_message(queue="other"))
    worker = outbox.a_worker(queues=["mail", "other"], lease=SHORT)
    make_relay(lease=SHORT)
    await_that(lambda: outbox.count("published") == 2)
    queues.purge("other")
    queues.purge("mail")

    def found() -> bool:
        outbox.ledger.beat(
            outbox.conn, worker=worker, runs=[], running=[], queues=["mail", "other"], unclaimed=["mail"],
            claimed_through={},
        )  # fmt: skip
        return outbox.row(lost)["losses"] == 1

    await_that(found, timedelta(seconds=10))
    assert outbox.row(held)["losses"] == 0


def test_a_message_that_later_ones_overtook_is_published_again(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay
) -> None:
    """I2: the queue is not empty here, so that only a later message's claim tells that an earlier one is lost."""
    lost, claimed, waiting = outbox.add_many(3)
    first = make_relay()
    await_that(lambda: outbox.count("published") == 3)
    first.stop()
    queues.purge()
    queues.put(b"{}")  # the queue never runs empty
    long_ago = "update outbox.task set published_at = published_at - interval '1 hour' where id = %s"
    outbox.conn.execute(long_ago, [lost])
    worker = outbox.a_worker()
    through = outbox.must_claim(claimed, worker).published_at
    assert through is not None
    _beat(outbox, worker, queue="mail", through=through.isoformat())
    make_relay()
    await_that(lambda: outbox.row(lost)["losses"] == 1 and outbox.state(lost) == "published")
    assert outbox.row(waiting)["losses"] == 0
    assert [id_of(body) for body in queues.take()[1:]] == [lost]


def test_dead_letters_are_read_back_and_published_again(outbox: Outbox, queues: Queues, make_relay: MakeRelay) -> None:
    """I2: RabbitMQ gave up on them; the task has not even begun."""
    ids = outbox.add_many(10)
    fences = {row["id"]: row["fence"] for row in outbox.all()}
    make_relay()
    await_that(lambda: outbox.count("published") == 10)
    assert queues.reject() == 10
    await_that(lambda: queues.depth() == 10 and queues.depth("mail.dead") == 0)
    assert {id_of(body): fence_of(body) for body in queues.take()} == fences
    await_that(lambda: outbox.count("published") == 10)
    assert {(row["losses"], row["failures"], len(row["attempts"])) for row in outbox.all()} == {(1, 0, 0)}
    assert set(outbox.ids()) == set(ids)


def test_a_dead_letter_of_a_task_that_went_on_changes_nothing(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay
) -> None:
    """I3: the copy is stale: its task was claimed, or has another fence by now."""
    running, again = outbox.add_many(2)
    make_relay()
    await_that(lambda: outbox.count("published") == 2)
    worker = outbox.a_worker()
    outbox.must_claim(running, worker)
    outbox.fail(outbox.must_claim(again, worker), wait=timedelta(hours=1))
    before = outbox.states()
    assert queues.reject() == 2
    await_that(lambda: queues.depth("mail.dead") == 0)
    assert outbox.states() == before == {running: "running", again: "scheduled"}
    assert {row["losses"] for row in outbox.all()} == {0}


def test_malformed_dead_letters_are_set_aside_whole(outbox: Outbox, queues: Queues, make_relay: MakeRelay) -> None:
    """And do not hold up the one behind them."""
    first = outbox.add()
    make_relay()
    await_that(lambda: outbox.state(first) == "published")
    queues.take()
    bodies = [b"\xff\x00 not JSON", b"[]", b'{"queue_name": 1}', b""]
    for body in bodies:
        queues.put(body)
    second = outbox.add()
    await_that(lambda: queues.depth() == 5)
    assert queues.reject() == 5
    await_that(lambda: [id_of(taken) for taken in queues.take()] == [second])
    kept = outbox.conn.execute("select subject, action, detail from outbox.audit order by id").fetchall()
    assert {row[:2] for row in kept} == {("queue mail", "message set aside")}
    assert [base64.b64decode(row[2]["body_base64"]) for row in kept] == bodies


def test_a_dead_letter_of_another_producer_becomes_a_task_where_they_are_adopted(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay
) -> None:
    """I2: RabbitMQ moved it aside before a worker could turn it into a row: nobody has it but the dead letters."""
    first = outbox.add()
    make_relay(foreign="adopt")
    await_that(lambda: outbox.state(first) == "published")
    queues.take()
    foreign: dramatiq.Message[object] = a_message("from elsewhere")
    queues.put(foreign.encode())
    assert queues.reject() == 1
    body = await_that(queues.take)[0]
    assert id_of(body) == UUID(foreign.message_id)
    assert list(dramatiq.Message.decode(body).args) == ["from elsewhere"]
    await_that(lambda: queues.depth("mail.dead") == 0)
    assert len(outbox.all()) == 2


def test_a_deleted_queue_of_dead_letters_is_declared_again_and_holds_up_nobody(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay
) -> None:
    """I2: without it RabbitMQ would drop what it gives up on."""
    first = outbox.add()
    make_relay()
    await_that(lambda: outbox.state(first) == "published")
    queues.delete("mail.dead")
    others = outbox.add_many(3, queue="other")
    await_that(lambda: {outbox.state(id) for id in others} == {"published"})
    await_that(lambda: queues.depth("mail.dead") == 0)
    queues.reject()
    await_that(lambda: outbox.row(first)["losses"] == 1 and outbox.state(first) == "published")
