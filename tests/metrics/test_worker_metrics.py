"""What a worker counts of what should not happen often, and what it has in hand."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from uuid import uuid4

import pytest
from awaiting import await_that
from broker_side import admin
from prometheus_client import REGISTRY
from workshop import Workshop

from outbox import current_run
from outbox.broker import _replace_dead_threads


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_a_copy_that_comes_too_late_is_counted_and_not_run(shop: Workshop) -> None:
    ran = []
    actor = shop.actor(actor_name="once")(lambda: ran.append(1))
    before = value("outbox_repeats_skipped_total")
    sent = actor.send()
    shop.await_state(sent.message_id, "succeeded")
    copy = sent.copy(options={"outbox_fence": str(uuid4())})
    with admin(shop.settings.rabbitmq_url) as channel:
        channel.basic_publish("", shop.queue(), copy.encode())
    await_that(lambda: value("outbox_repeats_skipped_total") == before + 1)
    assert ran == [1]


@pytest.mark.parametrize("name", ["late", "late_in_its_session"])
def test_an_outcome_that_comes_too_late_is_counted_as_such_alone(shop: Workshop, name: str) -> None:
    """Whether the settler would have recorded it, or the run's own session."""

    def loses_its_task() -> None:
        if name == "late_in_its_session":
            current_run().session()
        shop.db.execute("update outbox.task set run_id = gen_random_uuid() where id = %s", [current_run().task_id])

    actor = shop.actor(actor_name=name)(loses_its_task)
    before = value("outbox_late_outcomes_total")
    actor.send()
    await_that(lambda: value("outbox_late_outcomes_total") == before + 1)
    assert value("outbox_outcomes_total", actor=name, outcome="succeeded") == 0


def test_a_worker_that_is_declared_dead_while_it_lives_counts_that(shop: Workshop) -> None:
    before = value("outbox_outlawed_total")
    shop.db.execute("delete from outbox.worker where kind = 'worker'")
    shop.broker.station.lease.report_now()
    await_that(lambda: value("outbox_outlawed_total") == before + 1)
    await_that(lambda: shop.broker.station.lease.valid)


def test_a_thread_that_died_is_counted_when_it_is_replaced() -> None:
    dead = threading.Thread(target=lambda: None)
    dead.start()
    dead.join()
    worker = SimpleNamespace(workers=[dead, threading.current_thread()], _add_worker=lambda: None)
    before = value("outbox_dead_threads_total")
    _replace_dead_threads(worker)
    assert value("outbox_dead_threads_total") == before + 1
    assert worker.workers == [threading.current_thread()]


def test_what_runs_and_how_many_threads_there_are_is_told_as_it_is(shop: Workshop) -> None:
    may_end = threading.Event()

    def waits() -> None:
        may_end.wait(20)

    actor = shop.actor(actor_name="waits")(waits)
    sent = [actor.send() for _ in range(2)]
    try:
        await_that(lambda: value("outbox_worker_tasks", state="running") == 2)
        assert value("outbox_worker_threads") == 4
    finally:
        may_end.set()
    for each in sent:
        shop.await_state(each.message_id, "succeeded")
    await_that(lambda: value("outbox_worker_tasks", state="running") == 0)
    assert value("outbox_worker_tasks", state="held") == 0
