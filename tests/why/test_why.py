"""Why is it not running? Each cause made for real, and told as the one cause, with since when and what mends it."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import dramatiq
import pika
import pytest
from outbox_rows import Outbox, a_message, failure
from workshop import MakeWorkshop

from outbox import hold_lane, operate
from outbox.ledger import Conn
from outbox.reads import Reader, TaskView
from outbox.why import CAUSES, Why, explain

HOUR = timedelta(hours=1)
LEASE = timedelta(seconds=10)


def why(conn: Conn, id: UUID | str, **more: Any) -> Why:
    task = Reader().task(conn, UUID(str(id)))
    assert task is not None
    found = explain(conn, task, **more)
    assert found.cause in CAUSES
    assert found.told
    return found


def a_relay(outbox: Outbox, *, tells: list[str] | None = None) -> UUID:
    """A relay that lives, by its heartbeat alone."""
    relay = uuid4()
    outbox.ledger.join(outbox.conn, worker=relay, kind="relay", host="there", pid=7, queues=[], threads=0, lease=LEASE)
    outbox.ledger.beat(
        outbox.conn, worker=relay, runs=[], running=[], queues=[], unclaimed=tells or [], claimed_through={}
    )
    return relay


def silence(outbox: Outbox, process: UUID, span: timedelta = timedelta(minutes=3)) -> None:
    outbox.conn.execute("update outbox.worker set beat_at = beat_at - %s where id = %s", [span, process])


def publish(outbox: Outbox, *ids: UUID) -> None:
    outbox.ledger.queue_epoch(outbox.conn, "mail")
    assert outbox.ledger.mark_published(outbox.conn, ids, epochs={"mail": 0}) == len(ids)


def runs(outbox: Outbox, worker: UUID, *claims: Any) -> None:
    names = [each.run_id for each in claims]
    outbox.ledger.beat(
        outbox.conn, worker=worker, runs=names, running=names, queues=["mail"], unclaimed=[], claimed_through={}
    )


# ---------------------------------------------------------------------- the task itself


def test_scheduled_for_later(outbox: Outbox) -> None:
    id = outbox.add(delay=HOUR)
    found = why(outbox.conn, id)
    row = outbox.row(id)
    assert (found.cause, found.until, found.since) == ("scheduled", row["due_at"], row["created_at"])
    assert found.mend == f"outbox tasks retry {id}"
    operate.retry(outbox.conn, outbox.ledger, id, who="ada")  # what it says does what it says
    assert outbox.row(id)["due_at"] < datetime.now(UTC) + timedelta(minutes=1)


def test_waits_for_its_next_attempt(outbox: Outbox) -> None:
    id = outbox.add()
    outbox.fail(outbox.must_claim(id, outbox.a_worker()), wait=HOUR)
    found = why(outbox.conn, id)
    assert (found.cause, found.until) == ("retry_wait", outbox.row(id)["due_at"])
    assert "failed once" in found.told
    assert "it broke" in found.told
    assert found.since is not None


def test_put_off_by_its_actor(outbox: Outbox) -> None:
    id = outbox.add()
    claimed = outbox.must_claim(id, outbox.a_worker())
    with outbox.conn.transaction():
        outbox.ledger.record_again(outbox.conn, [failure(claimed, wait=HOUR, outcome="snoozed")._replace(counts=False)])
    found = why(outbox.conn, id)
    assert (found.cause, "it broke" in found.told) == ("put_off", True)


def test_refused_by_the_broker(outbox: Outbox) -> None:
    id = outbox.add()
    outbox.ledger.push_back(outbox.conn, [(id, "the broker refused the message")])
    found = why(outbox.conn, id)
    assert (found.cause, found.until) == ("broker_refused", outbox.row(id)["due_at"])


def test_refused_by_the_broker_after_an_attempt_that_failed(outbox: Outbox) -> None:
    id = outbox.add()
    outbox.fail(outbox.must_claim(id, outbox.a_worker()))
    outbox.promote()
    outbox.ledger.push_back(outbox.conn, [(id, "the broker refused the message")])
    assert why(outbox.conn, id).cause == "broker_refused"


@pytest.mark.parametrize("swept", [False, True], ids=["still there", "ended by the relay"])
def test_expired(outbox: Outbox, swept: bool) -> None:
    id = outbox.add(expires_at=datetime.now(UTC) - HOUR)
    a_relay(outbox)
    if swept:
        outbox.ledger.expire(outbox.conn)
    assert why(outbox.conn, id).cause == "expired"


# ---------------------------------------------------------------------- queue, relay, broker


def test_the_queue_is_paused(outbox: Outbox) -> None:
    id = outbox.add()
    outbox.ledger.pause_queue(outbox.conn, "mail", who="ada@desk")
    found = why(outbox.conn, id)
    assert (found.cause, "ada@desk" in found.told, found.mend) == ("queue_paused", True, "outbox queues resume mail")
    assert [(found.since,)] == outbox.conn.execute("select paused_at from outbox.queue").fetchall()


@pytest.mark.parametrize("state", ["pending", "due, not promoted", "waiting"])
def test_no_relay_is_alive(outbox: Outbox, state: str) -> None:
    id = {
        "pending": lambda: outbox.add(),
        "due, not promoted": lambda: outbox.add(delay=HOUR),
        "waiting": lambda: outbox.add(concurrency_key="k", concurrency_limit=1),
    }[state]()
    outbox.conn.execute("update outbox.task set due_at = clock_timestamp()")
    assert why(outbox.conn, id).since is None
    gone = a_relay(outbox)
    assert why(outbox.conn, id).cause != "relay_stopped"
    silence(outbox, gone)
    found = why(outbox.conn, id)
    assert (found.cause, found.mend) == ("relay_stopped", "Start: outbox relay")
    assert found.since is not None
    assert found.since < datetime.now(UTC) - timedelta(minutes=2)


def test_others_of_its_queue_are_published_first(outbox: Outbox) -> None:
    a_relay(outbox)
    first, *_, last = outbox.add_many(5)
    outbox.add_many(3, queue="another")
    found = why(outbox.conn, last)
    assert (found.cause, found.told) == ("relay_behind", "Of the queue mail are published first: 4.")
    assert why(outbox.conn, first).cause == "about_to_be_published"


def test_relays_are_alive_and_publish_nothing(outbox: Outbox) -> None:
    a_relay(outbox)
    id = outbox.add()
    outbox.conn.execute("update outbox.task set due_at = clock_timestamp() - interval '5 minutes'")
    found = why(outbox.conn, id)
    assert (found.cause, found.since) == ("nothing_published", outbox.row(id)["due_at"])


@pytest.mark.parametrize(
    ("tells", "cause"),
    [
        ("away *", "broker_away"),
        ("blocked *", "broker_blocked"),
        ("broken mail", "queue_broken"),
        ("broken other", None),
    ],
)
def test_what_every_relay_tells_of_the_broker_is_the_cause(outbox: Outbox, tells: str, cause: str | None) -> None:
    id = outbox.add()
    a_relay(outbox, tells=[tells])
    assert why(outbox.conn, id).cause == (cause or "about_to_be_published")
    a_relay(outbox)  # a second one can do what the first cannot
    assert why(outbox.conn, id).cause == "about_to_be_published"


def test_the_broker_is_away_as_a_real_relay_tells_it(make_workshop: MakeWorkshop) -> None:
    shop = make_workshop(rabbitmq_url="amqp://127.0.0.1:1/", lease=timedelta(seconds=2))
    act = shop.actor()(noted)
    shop.publish()
    id = act.send().message_id
    found = shop.await_that(lambda: (w := why(shop.db, id)).cause == "broker_away" and w)
    assert found.mend == "See that RabbitMQ runs, and RABBITMQ_URL: outbox doctor"
    assert shop.fate(id).state == "pending"


def test_the_broker_blocks_publishers_as_a_real_relay_tells_it(make_workshop: MakeWorkshop) -> None:
    shop = make_workshop(lease=timedelta(seconds=2))
    act = shop.actor()(noted)
    shop.publish()
    assert shop.relay is not None
    relay = shop.relay
    shop.await_that(lambda: relay.publisher.ready)
    relay.publisher.blocked = True  # as by RabbitMQ's alarm: the flag is all that the relay has of it
    id = act.send().message_id
    shop.await_that(lambda: why(shop.db, id).cause == "broker_blocked")
    relay.publisher.blocked = False
    shop.await_state(id, "published")


def test_a_queue_that_rabbitmq_does_not_give_as_a_real_relay_tells_it(make_workshop: MakeWorkshop) -> None:
    shop = make_workshop(lease=timedelta(seconds=2))
    act = shop.actor()(noted)
    owner = pika.BlockingConnection(pika.URLParameters(shop.settings.rabbitmq_url))
    owner.channel().queue_declare(shop.queue(), exclusive=True)
    shop.publish()
    id = act.send().message_id
    shop.await_that(lambda: why(shop.db, id).cause == "queue_broken")
    owner.close()
    shop.await_state(id, "published")


def test_as_many_wait_in_rabbitmq_as_may(make_workshop: MakeWorkshop) -> None:
    shop = make_workshop(relay_window=2, lease=timedelta(seconds=2))
    act = shop.actor()(noted)
    shop.publish()
    ids = [act.send().message_id for _ in range(5)]
    last = ids[-1]
    shop.await_that(lambda: why(shop.db, last).cause == "no_worker")  # the cause of the cause
    shop.broker.ledger.join(
        shop.db, worker=uuid4(), kind="worker", host="h", pid=1, queues=["default"], threads=1, lease=LEASE
    )
    assert why(shop.db, last).cause == "queue_full"
    assert shop.fate(last).state == "pending"


# ---------------------------------------------------------------------- lanes


def test_behind_an_earlier_task_of_its_key(outbox: Outbox) -> None:
    a_relay(outbox)
    head, middle, last = (outbox.add(ordering_key="u/7") for _ in range(3))
    outbox.fail(outbox.must_claim(head, outbox.a_worker()), wait=HOUR)
    found = why(outbox.conn, last)
    assert (found.cause, found.mend) == ("behind_another", f"outbox tasks show {head}")
    assert f"Task {head} of the same ordering key is scheduled, and comes first; waiting before it: 1." == found.told
    assert why(outbox.conn, middle).told.endswith("waiting before it: 0.")
    assert why(outbox.conn, head).cause == "retry_wait"


def test_behind_a_dead_task_that_holds(outbox: Outbox) -> None:
    a_relay(outbox)
    head, follower = (outbox.add(ordering_key="u/7", hold_on_dead=True) for _ in range(2))
    outbox.end_dead(outbox.must_claim(head, outbox.a_worker()))
    found = why(outbox.conn, follower)
    assert (found.cause, found.mend) == ("behind_dead", f"outbox tasks retry {head}")
    operate.retry(outbox.conn, outbox.ledger, head, who="ada")
    assert why(outbox.conn, follower).cause == "behind_another"


def test_its_key_has_as_many_under_way_as_may(outbox: Outbox) -> None:
    a_relay(outbox)
    ids = [outbox.add(concurrency_key="smtp", concurrency_limit=2) for _ in range(4)]
    assert why(outbox.conn, ids[-1]).cause == "about_to_be_let_go"
    outbox.sweep()
    found = why(outbox.conn, ids[-1])
    assert found.cause == "limit_reached"
    assert found.told == "2 of at most 2 with the concurrency key smtp are under way; waiting before it: 1."


def test_its_key_is_held_and_others_may_know_why(outbox: Outbox) -> None:
    a_relay(outbox)
    id = outbox.add(concurrency_key="endpoint/1", concurrency_limit=2)
    with outbox.session() as session:
        hold_lane(session, "endpoint/1", until=HOUR)
        session.commit()
    found = why(outbox.conn, id)
    assert (found.cause, "endpoint/1" in found.told) == ("lane_held", True)
    assert found.until is not None
    assert found.until > datetime.now(UTC) + timedelta(minutes=50)

    def silent(_conn: Conn, _task: TaskView, _why: Why) -> None:
        return None

    def knows(_conn: Conn, task: TaskView, held: Why) -> Why:
        assert (task.id, task.concurrency_key, held) == (id, "endpoint/1", found)
        return Why("endpoint_disabled", "The endpoint is disabled.")

    task = Reader().task(outbox.conn, id)
    assert task is not None
    assert explain(outbox.conn, task, others=[silent, knows]).cause == "endpoint_disabled"
    assert explain(outbox.conn, task, others=[silent]) == found


# ---------------------------------------------------------------------- workers


def test_no_worker_listens_to_its_queue(outbox: Outbox) -> None:
    id = outbox.add()
    publish(outbox, id)
    other = outbox.a_worker(queues=("heavy",))
    found = why(outbox.conn, id)
    assert (found.cause, found.mend) == ("no_worker", "Start: outbox worker --queues mail")
    assert found.since == outbox.row(id)["published_at"]
    gone = outbox.a_worker()
    silence(outbox, gone)
    found = why(outbox.conn, id)
    assert found.cause == "no_worker"
    assert found.since is not None
    assert found.since < datetime.now(UTC) - timedelta(minutes=2)
    assert other != gone


def test_all_workers_are_busy(outbox: Outbox) -> None:
    id, *others = outbox.add_many(9)
    publish(outbox, id, *others)
    worker = outbox.a_worker()
    assert why(outbox.conn, id).cause == "in_queue"
    runs(outbox, worker, *(outbox.must_claim(each, worker) for each in others))
    found = why(outbox.conn, id)
    assert (found.cause, found.mend) == ("workers_busy", "Start more: outbox worker --queues mail")
    assert found.told == "Workers of the queue mail: 1; their threads, all of them at a task: 8."
    outbox.a_worker()
    assert why(outbox.conn, id).cause == "in_queue"


def test_it_waits_in_rabbitmq_behind_others(outbox: Outbox) -> None:
    outbox.a_worker()
    first, second = outbox.add(), outbox.add()
    publish(outbox, first)
    publish(outbox, second)
    assert (
        why(outbox.conn, second).told == "It waits in RabbitMQ. Of its queue were published before it, and wait too: 1."
    )


def test_a_suspect_waits_to_run_alone(outbox: Outbox) -> None:
    worker = outbox.a_worker()
    id = outbox.add()
    outbox.must_claim(id, worker)
    with outbox.conn.transaction():
        assert outbox.ledger.rescue(outbox.conn, worker=worker, beat=0, max_crashes=3) == [(id, "rescued")]
    publish(outbox, id)
    assert why(outbox.conn, id).cause == "no_worker"
    outbox.a_worker()
    found = why(outbox.conn, id)
    assert (found.cause, found.since is not None) == ("waits_alone", True)


def test_it_has_been_handed_over_and_then_it_runs(outbox: Outbox) -> None:
    worker = outbox.a_worker()
    id = outbox.add()
    claimed = outbox.must_claim(id, worker)
    assert why(outbox.conn, id).cause == "handed_over"
    runs(outbox, worker, claimed)
    silence(outbox, worker, timedelta(seconds=4))
    found = why(outbox.conn, id)
    assert (found.cause, found.mend, found.since) == ("running", None, outbox.row(id)["claimed_at"])
    assert found.told.startswith("The worker here (pid 1) runs it, last heard of ")
    assert operate.cancel(outbox.conn, outbox.ledger, id, who="ada") == "requested"
    assert why(outbox.conn, id).cause == "cancel_requested"


def test_its_worker_is_silent(outbox: Outbox) -> None:
    worker = outbox.a_worker()
    id = outbox.add()
    runs(outbox, worker, outbox.must_claim(id, worker))
    silence(outbox, worker)
    assert why(outbox.conn, id).cause == "relay_stopped"  # nobody rescues it
    a_relay(outbox)
    found = why(outbox.conn, id)
    assert (found.cause, "here (pid 1)" in found.told) == ("worker_silent", True)
    outbox.conn.execute("delete from outbox.worker where id = %s", [worker])
    assert "which is gone" in why(outbox.conn, id).told


def noted() -> None:
    """Does nothing."""


def test_its_worker_knows_no_such_actor(make_workshop: MakeWorkshop) -> None:
    shop = make_workshop()
    shop.broker.declare_queue("default")
    shop.open()
    message: dramatiq.Message[Any] = a_message(actor="new_one", queue="default")
    shop.broker.enqueue(message)
    found = shop.await_that(lambda: (w := why(shop.db, message.message_id)).cause == "unknown_actor" and w)
    assert "no actor new_one" in found.told
    assert found.mend is not None
    assert found.mend.endswith("outbox --app MODULE worker --queues default")


def test_a_real_relay_and_a_real_worker_that_is_busy_and_then_not(make_workshop: MakeWorkshop) -> None:
    shop = make_workshop(lease=timedelta(seconds=2))
    go_on = threading.Event()
    act = shop.actor()(lambda: go_on.wait(60))
    shop.open(threads=1)
    first = act.send().message_id
    shop.await_that(lambda: why(shop.db, first).cause == "running")
    second = act.send().message_id
    shop.await_that(lambda: why(shop.db, second).cause == "workers_busy")
    go_on.set()
    shop.await_that(lambda: {why(shop.db, id).cause for id in (first, second)} == {"succeeded"})


# ---------------------------------------------------------------------- ended


def test_what_has_ended_says_how(outbox: Outbox) -> None:
    worker = outbox.a_worker()
    done, dead, gone = outbox.add_many(3)
    outbox.succeed(outbox.must_claim(done, worker))
    outbox.end_dead(outbox.must_claim(dead, worker))
    operate.cancel(outbox.conn, outbox.ledger, gone, who="ada", reason="no longer wanted")
    assert why(outbox.conn, done) == Why("succeeded", "It succeeded.", since=outbox.row(done)["finished_at"])
    assert (why(outbox.conn, dead).cause, why(outbox.conn, dead).mend) == ("dead", f"outbox tasks retry {dead}")
    assert (why(outbox.conn, gone).cause, "no longer wanted" in why(outbox.conn, gone).told) == ("cancelled", True)


def test_skipped_by_a_middleware(make_workshop: MakeWorkshop) -> None:
    class Skips(dramatiq.Middleware):
        def before_process_message(self, broker: Any, message: Any) -> None:
            raise dramatiq.middleware.SkipMessage

    shop = make_workshop(middleware=[Skips()])
    act = shop.actor()(noted)
    shop.open()
    id = act.send().message_id
    shop.await_that(lambda: why(shop.db, id).cause == "skipped")


# ---------------------------------------------------------------------- as a whole


def test_what_ended_or_began_since_the_task_was_read_is_told_as_of_now(outbox: Outbox) -> None:
    id = outbox.add()
    task = Reader().task(outbox.conn, id)
    assert task is not None
    outbox.succeed(outbox.must_claim(id, outbox.a_worker()))
    assert explain(outbox.conn, task).cause == "succeeded"


def test_another_schema_is_read_as_well(outbox: Outbox) -> None:
    id = outbox.add(delay=HOUR)
    waiting = outbox.add(ordering_key="k"), outbox.add(ordering_key="k")
    outbox.conn.execute("alter schema outbox rename to other")
    try:
        for each, cause in ((id, "scheduled"), (waiting[1], "behind_another"), (waiting[0], "relay_stopped")):
            task = Reader("other").task(outbox.conn, each)
            assert task is not None
            assert explain(outbox.conn, task, schema="other").cause == cause
    finally:
        outbox.conn.execute("alter schema other rename to outbox")
