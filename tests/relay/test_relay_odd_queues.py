"""A queue that the broker cannot have, or does not give, keeps no other waiting (I5)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from threading import Event

import pika
import pytest
from awaiting import await_that
from outbox_rows import Outbox
from relay_eyes import MakeRelay, Queues

from outbox.ledger import Conn
from outbox.registry import Registry
from outbox.settings import Settings
from outbox.topology import Topology

RAW = """
insert into outbox.task (id, state, queue, actor, args, kwargs, options, due_at)
values (gen_random_uuid(), 'pending', %s, 'a', '[]', '{}', '{}', clock_timestamp() - interval '1 hour')
"""
QUARTER = timedelta(seconds=0.25)


@pytest.fixture(params=["too long for AMQP", "somebody else's alone"])
def odd(request: pytest.FixtureRequest, outbox: Outbox, queues: Queues) -> Iterator[str]:
    """The name of a queue that no relay can declare or look at, with a task in it."""
    if request.param == "too long for AMQP":
        outbox.conn.execute(RAW, ["a" * 300])
        yield "a" * 300
        return
    owner = pika.BlockingConnection(pika.URLParameters(queues.url))
    owner.channel().queue_declare(queues.name("a"), exclusive=True)
    outbox.conn.execute(RAW, ["a"])
    yield "a"
    owner.close()


def test_an_odd_queue_keeps_no_other_waiting_and_costs_no_connection(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay, odd: str
) -> None:
    relay = make_relay(relay_window=20)
    others = outbox.add_many(20, queue="mail") + outbox.add_many(20, queue="bulk")
    await_that(lambda: {outbox.state(id) for id in others} == {"published"})
    connection = relay.registry._broker
    drained = outbox.add_many(100, queue="mail")

    def drains() -> bool:
        queues.take("mail")
        return {outbox.state(id) for id in drained} == {"published"}

    await_that(drains, pace=QUARTER)
    assert relay.registry._broker is connection
    (left,) = [row for row in outbox.all() if row["queue"] == odd]
    assert (left["state"], left["refusals"], left["failures"]) == ("pending", 0, 0)
    assert relay.alive


def test_a_queue_that_answers_only_with_silence_does_not_starve_those_behind_it(
    outbox: Outbox, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its silence ends the look, and has lasted longer than any queue's pace: the next one begins with the others."""
    monkeypatch.setattr("outbox.registry.IDLE", 0.0)
    settings = Settings(database_url=outbox.url, rabbitmq_url=queues.url, queue_prefix=queues.prefix)
    registry = Registry(settings, outbox.ledger, Topology(prefix=queues.prefix, ledger=outbox.ledger), wake=Event())
    names = ["bulk", "mail", "other"]
    for name in names:
        outbox.conn.execute(RAW, [name])
    looked: list[str] = []

    def measure(_conn: Conn, name: str) -> None:
        looked.append(name)
        if name == mute:
            raise ConnectionError("no answer")

    monkeypatch.setattr(registry, "_measure", measure)
    mute = next(iter(outbox.ledger.register_queues(outbox.conn)))
    for _ in range(2):
        with pytest.raises(ConnectionError):
            registry._look()
    registry._drop()
    assert sorted(looked) == sorted([*names, mute])
    assert looked[-1] == mute
