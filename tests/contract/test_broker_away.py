"""The broker dies, is not there, refuses, or its answer is lost: what `send()` makes of that, and what an outbox does."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from awaiting import await_that
from broker_side import depth_of
from dramatiq.errors import ConnectionClosed
from sides import MakeStock, publish_by_way_of
from sqlalchemy import text
from sqlalchemy.orm import Session
from wire import Wire
from workshop import Fate, MakeWorkshop, Workshop

import outbox
from deploy.local.ports import free_ports
from deploy.local.servers import RabbitMQ

#: Seconds. RabbitMQ 3.10 killed right after a quorum queue's declaration has no leader for it: see test_relay_outages.
AGE = 1.0
FULL = '{"max-length": 1, "overflow": "reject-publish"}'


@pytest.fixture
def full_queues(own_rabbitmq: RabbitMQ, queue_prefix: str) -> Iterator[None]:
    """An operator's policy: this test's queues refuse what comes while a message waits in them."""
    own_rabbitmq.ctl("set_policy", queue_prefix, f"^{queue_prefix}", FULL, "--apply-to", "queues")
    yield
    own_rabbitmq.ctl("clear_policy", queue_prefix)


@pytest.fixture
def users(workshop: Workshop) -> Callable[[], list[str]]:
    """The committed users, of a domain that has tasks to send for each."""
    workshop.db.execute("create table users (email text primary key)")
    return lambda: [email for (email,) in workshop.db.execute("select email from users order by email").fetchall()]


def sign_up(session: Session, email: str) -> None:
    session.execute(text("insert into users values (:email)"), {"email": email})


def test_a_broker_that_is_killed_takes_along_what_was_sent_and_not_confirmed(
    make_stock: MakeStock, make_workshop: MakeWorkshop, own_rabbitmq: RabbitMQ
) -> None:
    stock = make_stock(confirm_delivery=False)
    workshop = make_workshop(confirm_timeout=timedelta(seconds=1), lease=timedelta(seconds=2))
    ran: list[int] = []

    @stock.actor(actor_name="note")
    def _note(n: int) -> None: ...

    @workshop.actor()
    def note(n: int) -> None:
        ran.append(n)

    workshop.publish()
    workshop.await_state(note.send(0).message_id, "published")
    declared = time.monotonic()
    _note.send(0)
    await_that(lambda: depth_of(stock.url, stock.queue()) == 1)
    await_that(lambda: time.monotonic() - declared > AGE)

    assert own_rabbitmq.pid is not None
    os.kill(own_rabbitmq.pid, signal.SIGSTOP)  # so that what comes now has arrived on its machine, and no further
    _note.send(1)  # returns as if all were well
    message = note.send(1)
    own_rabbitmq.kill()
    assert workshop.fate(message.message_id).state == "pending"
    own_rabbitmq.start()
    stock.broker.connections.clear()
    stock.broker.channels.clear()
    workshop.work()
    workshop.await_all("succeeded", 2)
    assert set(ran) == {0, 1}
    assert depth_of(stock.url, stock.queue()) in (0, 1)  # of two


def test_a_commit_is_not_followed_by_a_send_that_fails(
    make_stock: MakeStock, workshop: Workshop, wire: Wire, users: Callable[[], list[str]]
) -> None:
    """The stock producer has two stores, and a time between them; an outbox has one."""
    stock = make_stock(wire.url)
    ran: list[str] = []

    @stock.actor(actor_name="welcome")
    def _welcome(email: str) -> None: ...

    @workshop.actor()
    def welcome(email: str) -> None:
        ran.append(email)

    publish_by_way_of(workshop, wire)
    wire.cut()
    with Session(workshop.broker.engine()) as session:
        sign_up(session, "stock@example.com")
        session.commit()
        with pytest.raises(ConnectionClosed):  # after six attempts without a pause
            _welcome.send("stock@example.com")
        sign_up(session, "ours@example.com")
        outbox.enqueue(session, welcome.message("ours@example.com"))
        session.commit()
    workshop.work()
    assert users() == ["ours@example.com", "stock@example.com"]
    wire.mend()
    workshop.await_all("succeeded", 1)
    assert ran == ["ours@example.com"]
    stock.url = workshop.settings.rabbitmq_url
    assert depth_of(stock.url, stock.queue()) is None  # that user waits for ever


def test_a_send_before_a_rollback_is_not_taken_back(
    make_stock: MakeStock, workshop: Workshop, users: Callable[[], list[str]]
) -> None:
    stock = make_stock()

    @stock.actor(actor_name="welcome")
    def _welcome(email: str) -> None: ...

    @workshop.actor()
    def welcome(email: str) -> None: ...

    with Session(workshop.broker.engine()) as session:
        sign_up(session, "a@example.com")
        _welcome.send("a@example.com")
        outbox.enqueue(session, welcome.message("a@example.com"))
        session.rollback()
    assert depth_of(stock.url, stock.queue()) == 1  # will welcome nobody
    assert (users(), workshop.fates()) == ([], {})


def test_where_nobody_listens_the_stock_send_fails_at_once_and_a_task_waits(
    make_stock: MakeStock, workshop: Workshop
) -> None:
    nowhere = f"amqp://guest:guest@127.0.0.1:{free_ports(1)[0]}/%2F"
    ran: list[int] = []

    @workshop.actor()
    def note(n: int) -> None:
        ran.append(n)

    workshop.publish(rabbitmq_url=nowhere)
    message = note.send(1)
    stock = make_stock(nowhere)

    @stock.actor(actor_name="note")
    def _note(n: int) -> None: ...

    with pytest.raises(ConnectionClosed):
        _note.send(1)
    stock.url = workshop.settings.rabbitmq_url

    assert workshop.relay is not None
    workshop.relay.stop()
    workshop.open()
    fate = workshop.await_state(message.message_id, "succeeded")
    assert (ran, fate.failures, fate.losses) == ([1], 0, 0)


def test_a_full_queue_makes_the_stock_send_fail_and_a_task_wait(
    make_stock: MakeStock, workshop: Workshop, full_queues: None
) -> None:
    stock = make_stock()
    ran: list[int] = []

    @stock.actor(actor_name="note")
    def _note(n: int) -> None: ...

    @workshop.actor()
    def note(n: int) -> None:
        ran.append(n)

    _note.send(0)
    with pytest.raises(ConnectionClosed):  # six refusals in a row, a new connection for each
        _note.send(1)

    def refused() -> list[Fate]:
        return [fate for fate in workshop.fates().values() if fate.state == "scheduled"]

    workshop.publish()
    first = note.send(0)
    workshop.await_state(first.message_id, "published")
    sent = 0
    while not (late := refused()):  # a quorum queue takes a few more
        sent += 1
        workshop.await_state(note.send(sent).message_id, "published", "scheduled")
    assert {fate.reason for fate in late} == {"the broker refused the message"}
    workshop.work()
    workshop.await_state(first.message_id, "succeeded")
    for fate in late:
        workshop.make_due(fate.id)
    fates = workshop.await_all("succeeded", sent + 1)
    assert sorted(ran) == list(range(sent + 1))
    assert {fate.failures for fate in fates.values()} == {0}
