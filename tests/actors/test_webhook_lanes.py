"""What an endpoint takes at once, and at what pace."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from itertools import pairwise
from uuid import UUID

import pytest
from actor_bench import Bench
from far_http import answering, endpoint, status
from sqlalchemy import text
from webhook_bench import at_once, attempts, change, create, fan_out, stored

from actors import webhooks
from actors.tables import Endpoint
from actors.webhooks.outbound import DeliveryFailed
from outbox import Snooze

pytestmark = pytest.mark.usefixtures("configured")
PASS = "update app.delivery set slot_at = clock_timestamp() - :ago * interval '1 second' where id = :id"


def wait_of(bench: Bench, delivery_id: UUID) -> timedelta:
    with pytest.raises(Snooze) as snooze:
        bench.perform(delivery_id)
    return snooze.value.wait


class TestRate:
    def test_the_first_goes_at_once_and_the_next_waits_for_its_slot(self, bench: Bench) -> None:
        with endpoint(answering(status(200))) as far:
            create(bench, far, rate_per_second=0.02)
            first, second, third = (fan_out(bench)[0] for _ in range(3))
            bench.perform(first)
            assert timedelta(seconds=20) < wait_of(bench, second) <= timedelta(seconds=50)
            assert timedelta(seconds=70) < wait_of(bench, third) <= timedelta(seconds=100)
            assert far.connections == 1

    def test_the_slots_of_many_lie_exactly_one_pace_apart(self, bench: Bench) -> None:
        create(bench, rate_per_second=0.05)
        ids = [fan_out(bench)[0] for _ in range(9)]
        with endpoint(answering(status(200))) as far:
            change(bench, "update app.endpoint set url = :url", url=f"http://127.0.0.1:{far.port}/")
            bench.perform(ids.pop())
        raised = at_once([partial(bench.perform, each) for each in ids])
        assert {type(each) for each in raised} == {Snooze}
        slots = sorted(slot for each in ids if (slot := stored(bench, each).slot_at) is not None)
        assert len(slots) == 8
        assert {later - earlier for earlier, later in pairwise(slots)} == {timedelta(seconds=20)}

    def test_a_delivery_keeps_its_slot_and_waits_once(self, bench: Bench) -> None:
        with endpoint(answering(status(200))) as far:
            create(bench, far, rate_per_second=0.02)
            bench.perform(fan_out(bench)[0])
            delivery_id = fan_out(bench)[0]
            wait_of(bench, delivery_id)
            slot = stored(bench, delivery_id).slot_at
            wait_of(bench, delivery_id)
            assert stored(bench, delivery_id).slot_at == slot
            change(bench, PASS, id=delivery_id, ago=1)
            bench.perform(delivery_id)
            assert far.connections == 2

    def test_slots_that_were_missed_while_nobody_worked_do_not_all_come_at_once(self, bench: Bench) -> None:
        with endpoint(answering(status(200))) as far:
            create(bench, far, rate_per_second=0.02)
            ids = [fan_out(bench)[0] for _ in range(3)]
            for each in ids:
                change(bench, PASS, id=each, ago=600)
            bench.perform(ids[0])
            assert wait_of(bench, ids[1]) > timedelta(seconds=20)
            assert far.connections == 1

    @pytest.mark.parametrize(
        "changes",
        [{"rate_per_second": 500.0}, {"url": "https://other.example.com/"}, {"enabled": True}],
        ids=["rate", "url", "enabled"],
    )
    def test_slots_that_were_reserved_at_another_pace_count_no_more(
        self, bench: Bench, changes: dict[str, object]
    ) -> None:
        with endpoint(answering(status(200))) as far:
            made, _ = create(bench, far, rate_per_second=0.02)
            ids = [fan_out(bench)[0] for _ in range(3)]
            bench.perform(ids[0])
            for each in ids[1:]:
                wait_of(bench, each)
            with bench.session() as session, session.begin():
                webhooks.change_endpoint(session, session.get_one(Endpoint, made.id), **changes)  # type: ignore[arg-type]
            change(bench, "update app.endpoint set url = :url", url=f"http://127.0.0.1:{far.port}/")
            bench.perform(ids[2])
            assert far.connections == 2

    def test_whoever_waits_long_looks_again_whether_its_slot_still_stands(self, bench: Bench) -> None:
        with endpoint(answering(status(200))) as far:
            create(bench, far, rate_per_second=0.01)
            bench.perform(fan_out(bench)[0])
            delivery_id = fan_out(bench)[0]
            change(bench, "update app.endpoint_health set next_at = clock_timestamp() + interval '9 hours'")
            assert wait_of(bench, delivery_id) == timedelta(minutes=15)
            slot = stored(bench, delivery_id).slot_at
            wait_of(bench, delivery_id)
            assert stored(bench, delivery_id).slot_at == slot

    def test_each_attempt_takes_a_slot_of_its_own(self, bench: Bench) -> None:
        with endpoint(answering(status(500))) as far:
            create(bench, far, rate_per_second=0.02)
            delivery_id = fan_out(bench)[0]
            with pytest.raises(DeliveryFailed):
                bench.perform(delivery_id)
            assert stored(bench, delivery_id).slot_at is None
            assert wait_of(bench, delivery_id) > timedelta(seconds=20)
        assert len(attempts(bench, delivery_id)) == 1

    def test_without_a_rate_nothing_waits(self, bench: Bench) -> None:
        with endpoint(answering(status(200))) as far:
            create(bench, far)
            for _ in range(3):
                bench.perform(fan_out(bench)[0])
            assert far.connections == 3


class TestLane:
    def test_a_change_of_the_limit_counts_for_what_comes_later(self, bench: Bench) -> None:
        made, _ = create(bench, concurrency=2)
        fan_out(bench)
        with bench.session() as session, session.begin():
            webhooks.change_endpoint(session, session.get_one(Endpoint, made.id), concurrency=9)
        fan_out(bench)
        with bench.engine.connect() as connection:
            limits = connection.execute(text("select lane_limit from outbox.task order by id")).scalars()
            assert list(limits) == [2, 9]

    def test_a_test_event_stands_in_the_endpoints_lane(self, bench: Bench) -> None:
        made, _ = create(bench, fifo=True)
        with bench.session() as session, session.begin():
            webhooks.send_test(session, session.get_one(Endpoint, made.id))
        with bench.engine.connect() as connection:
            assert connection.execute(text("select lane from outbox.task")).scalar_one() == f"order/endpoint/{made.id}"
