"""What a relay measures of its own work."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from awaiting import await_that
from prometheus_client import REGISTRY
from workshop import Workshop

from outbox.relay_metrics import PUBLISH_SECONDS, note_publish


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_the_way_from_due_to_confirmed_is_measured_for_each_batch(shop: Workshop) -> None:
    actor = shop.actor(actor_name="quick")(lambda: None)
    count, spent = value("outbox_publish_seconds_count"), value("outbox_publish_seconds_sum")
    sent = actor.send()
    shop.await_state(sent.message_id, "succeeded")
    await_that(lambda: value("outbox_publish_seconds_count") > count)
    assert 0 < value("outbox_publish_seconds_sum") - spent < 20
    assert shop.relay is not None
    await_that(lambda: shop.relay.publisher.unconfirmed == 0)


@pytest.mark.parametrize(
    ("due", "ahead", "seconds"),
    [(timedelta(seconds=-30), 0.0, 30), (timedelta(seconds=-30), 10.0, 40), (timedelta(seconds=5), 0.0, 0)],
    ids=["by our clock", "by a database's clock that is ahead", "never less than nothing"],
)
def test_a_wait_is_told_by_the_databases_clock(due: timedelta, ahead: float, seconds: float) -> None:
    before = PUBLISH_SECONDS._sum.get()
    note_publish((datetime.now(UTC) + due).isoformat(sep=" "), ahead=ahead)
    assert PUBLISH_SECONDS._sum.get() - before == pytest.approx(seconds, abs=5)


@pytest.mark.parametrize("due", ["infinity", "Thu Nov 26 02:03:04 2026 UTC"])
def test_a_due_time_that_cannot_be_read_stops_no_batch(due: str) -> None:
    before = value("outbox_publish_seconds_count")
    note_publish(due, ahead=0.0)
    assert value("outbox_publish_seconds_count") == before
