"""What an endpoint missed reaches it once more: no event left out, none twice, each under the id that it had (I8, I9)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from actor_bench import Bench
from awaiting import await_that
from sqlalchemy import select, text, update
from webhook_bench import held

from actors import webhooks
from actors.tables import Delivery, DeliveryAttempt, Endpoint, EndpointHealth, EndpointSecret, Payload, Replay
from actors.webhooks import forget, replay
from actors.webhooks.lanes import key_of
from outbox import Permanent, Snooze, Task, enqueue, hold_lane

pytestmark = pytest.mark.usefixtures("configured")
AT = datetime(2026, 11, 22, 12, 30, tzinfo=UTC)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def shop(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setattr(replay, "_PAGE", 3)
    return Shop(bench)


class Shop:
    """An endpoint, the events that concern it or not, and replays; pages are run one by one."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        with bench.session() as session, session.begin():
            made, _ = webhooks.create_endpoint(session, url="https://hooks.example.com/", event_types=["*"])
        self.endpoint_id = made.id

    def change(self, **columns: Any) -> None:
        with self.bench.session() as session, session.begin():
            session.execute(update(Endpoint).where(Endpoint.id == self.endpoint_id).values(columns))

    def disable(self) -> None:
        self.change(enabled=False, disabled_at=datetime.now(UTC), disabled_reason="by a test")

    def endpoint(self) -> Endpoint:
        with self.bench.session() as session:
            return session.get_one(Endpoint, self.endpoint_id)

    def publish(self, event_type: str = "order.placed") -> UUID:
        """The event's id. Whether there is a delivery depends on the endpoint."""
        event_id = uuid4()
        with self.bench.session() as session, session.begin():
            webhooks.fan_out(session, event_id=event_id, event_type=event_type, content=b"1", occurred_at=AT)
        return event_id

    def missed(self, number: int, event_type: str = "order.placed") -> list[UUID]:
        """Events that were published when nobody had subscribed."""
        before = self.endpoint().event_types
        self.change(event_types=["nothing"])
        events = [self.publish(event_type) for _ in range(number)]
        self.change(event_types=before)
        return events

    def sent(self, status: str, task: str) -> tuple[UUID, UUID]:
        """An event and its delivery, which ended so; its task is gone, or dead."""
        event_id = self.publish()
        delivery = self.deliveries(event_id)[0]
        with self.bench.session() as session, session.begin():
            row = session.get_one(Delivery, delivery.id)
            row.status, row.delivered_at = status, datetime.now(UTC) if status == "delivered" else None
            session.execute(text(GONE.format(kept=DEAD if task == "dead" else "select")), {"id": delivery.id})
        return event_id, delivery.id

    def deliveries(self, event_id: UUID) -> list[Delivery]:
        with self.bench.session() as session:
            of_it = select(Delivery).where(Delivery.event_id == event_id, Delivery.endpoint_id == self.endpoint_id)
            return list(session.scalars(of_it.order_by(Delivery.id)))

    def counts(self, events: Sequence[UUID]) -> list[int]:
        return [len(self.deliveries(each)) for each in events]

    def start(self, since: datetime = LONG_AGO, **given: Any) -> UUID:
        with self.bench.session() as session, session.begin():
            endpoint = session.get_one(Endpoint, self.endpoint_id)
            return webhooks.start_replay(session, endpoint, since=since, who="ada", **given).replay.id

    def pages(self, replay_id: UUID) -> list[Task]:
        return [task for task in self.bench.tasks("replay_page") if str(replay_id) in task.args]

    def page(self, replay_id: UUID) -> Replay:
        """Runs its latest page."""
        self.bench.perform(self.pages(replay_id)[-1].id)
        return self.replay(replay_id)

    def replay(self, replay_id: UUID) -> Replay:
        with self.bench.session() as session:
            return session.get_one(Replay, replay_id)

    def run(self, replay_id: UUID) -> Replay:
        before = 0
        while len(found := self.pages(replay_id)) > before:
            before = len(found)
            self.bench.perform(found[-1].id)
        return self.replay(replay_id)


GONE = "with gone as (delete from outbox.task where id = :id returning *) {kept}"
DEAD = """
insert into outbox.dead (id, state, queue, actor, args, kwargs, options, priority, created_at, due_at, finished_at,
    lane, lane_limit, lane_holds, failures, crashes, losses, attempts)
select id, 'dead', queue, actor, args, kwargs, options, priority, created_at, due_at, clock_timestamp(),
    lane, lane_limit, lane_holds, 1, 0, 0, '[]'
from gone
"""


class TestWhich:
    @pytest.mark.parametrize(
        ("status", "task", "which"),
        [
            ("missed", "dead", {"missed", "all"}),
            ("refused", "dead", {"failed", "missed", "all"}),
            ("failed", "gone", {"failed", "missed", "all"}),
            ("failing", "dead", {"failed", "missed", "all"}),
            ("queued", "dead", {"failed", "missed", "all"}),
            ("delivered", "gone", {"all"}),
        ],
    )
    def test_it_depends_on_what_became_of_the_event_here(
        self, shop: Shop, status: str, task: str, which: set[str]
    ) -> None:
        shop.sent(status, task)
        chosen = set()
        for each in ("failed", "missed", "all"):
            with shop.bench.session() as session:
                endpoint = session.get_one(Endpoint, shop.endpoint_id)
                events = {row.event_id: row.event_type for row in session.scalars(select(Payload))}
                chosen |= {each} if webhooks.resend(session, endpoint, events, which=each) else set()  # type: ignore[arg-type]
                session.rollback()
        assert chosen == which

    def test_what_was_never_sent_here_was_missed_but_did_not_fail(self, shop: Shop) -> None:
        (event,) = shop.missed(1)
        assert shop.run(shop.start(which="failed")).enqueued == 0
        assert shop.run(shop.start()).enqueued == 1
        (delivery,) = shop.deliveries(event)
        assert delivery.webhook_id is None

    @pytest.mark.parametrize("which", ["failed", "missed", "all"])
    def test_what_is_under_way_is_left_alone(self, shop: Shop, which: str) -> None:
        event = shop.publish()
        assert shop.run(shop.start(which=which)).enqueued == 0
        assert shop.counts([event]) == [1]

    def test_a_dead_task_is_retried_under_its_id(self, shop: Shop) -> None:
        event, delivery_id = shop.sent("refused", "dead")
        assert shop.run(shop.start()).enqueued == 1
        (delivery,) = shop.deliveries(event)
        assert (delivery.id, delivery.status) == (delivery_id, "queued")
        assert shop.bench.tasks("deliver_webhook")[0].id == delivery_id
        assert shop.run(shop.start()).enqueued == 0

    def test_what_is_sent_anew_keeps_the_webhook_id_of_the_first_time(self, shop: Shop) -> None:
        event, first = shop.sent("delivered", "gone")
        for _ in range(2):
            assert shop.run(shop.start(which="all")).enqueued == 1
            latest = shop.deliveries(event)[-1]
            assert (latest.webhook_id, latest.status, latest.attempts) == (first, "queued", 0)
            with shop.bench.session() as session, session.begin():
                session.execute(text("delete from outbox.task where actor = 'deliver_webhook'"))
        assert shop.counts([event]) == [3]

    def test_what_is_sent_again_goes_in_the_endpoints_lane(self, shop: Shop) -> None:
        shop.missed(1)
        shop.change(concurrency=7)
        shop.run(shop.start())
        (task,) = shop.bench.tasks("deliver_webhook")
        assert (task.lane, task.lane_limit) == (f"limit/{key_of(shop.endpoint_id)}", 7)

    def test_another_endpoints_deliveries_do_not_count(self, shop: Shop) -> None:
        (event,) = shop.missed(1)
        with shop.bench.session() as session, session.begin():
            webhooks.create_endpoint(session, url="https://other.example.com/", event_types=["*"])
        other = shop.publish("order.placed")
        assert shop.run(shop.start()).enqueued == 1
        assert shop.counts([event, other]) == [1, 1]


class TestTheWalk:
    def test_every_event_is_seen_once_and_the_numbers_add_up(self, shop: Shop) -> None:
        events = shop.missed(7)
        done = shop.run(replay_id := shop.start())
        assert (done.status, done.seen, done.enqueued, done.total) == ("done", 7, 7, 7)
        assert done.ended_at is not None
        assert shop.counts(events) == [1] * 7
        assert len(shop.pages(replay_id)) == 3

    def test_progress_is_told_page_by_page(self, shop: Shop) -> None:
        shop.missed(4)
        replay_id = shop.start()
        first = shop.page(replay_id)
        assert (first.status, first.seen, first.enqueued, first.total) == ("running", 3, 3, 4)
        last = shop.page(replay_id)
        assert (last.status, last.seen, last.enqueued, last.total) == ("done", 4, 4, 4)

    def test_many_events_of_one_instant_all_go_once(self, shop: Shop) -> None:
        events = shop.missed(10)
        with shop.bench.session() as session, session.begin():
            session.execute(update(Payload).values(created_at=datetime.now(UTC) - timedelta(minutes=1)))
        assert shop.run(shop.start()).seen == 10
        assert shop.counts(events) == [1] * 10

    def test_only_what_the_endpoint_subscribed_to_and_was_asked_for_goes(self, shop: Shop) -> None:
        kinds = ["order.placed", "order.item.added", "user.created", "order"]
        events = {kind: shop.missed(1, kind)[0] for kind in kinds}
        shop.change(event_types=["order.*", "order"])
        done = shop.run(shop.start(event_types=["order.item.*", "user.*"]))
        assert (done.seen, done.enqueued) == (4, 1)
        assert shop.counts([events["order.item.added"]]) == [1]
        assert shop.run(shop.start()).enqueued == 2
        assert shop.counts([events[kind] for kind in kinds]) == [1, 1, 0, 1]

    def test_test_events_of_others_are_nobodys_business(self, shop: Shop) -> None:
        with shop.bench.session() as session, session.begin():
            other, _ = webhooks.create_endpoint(session, url="https://other.example.com/", event_types=["a"])
            session.flush()
            webhooks.send_test(session, other)
        shop.change(event_types=["*", "webhook.*", "webhook.test"])
        done = shop.run(shop.start(which="all"))
        assert (done.seen, done.enqueued) == (1, 0)

    def test_it_is_about_a_span_that_ends_when_it_was_made(self, shop: Shop) -> None:
        before, during, after = (shop.missed(1)[0] for _ in range(3))
        with shop.bench.session() as session:
            at = {row.event_id: row.created_at for row in session.scalars(select(Payload))}
        shop.run(shop.start(since=at[during], until=at[after]))
        assert shop.counts([before, during, after]) == [0, 1, 0]
        replay_id = shop.start(until=datetime.now(UTC) + timedelta(days=1))
        (late,) = shop.missed(1)
        shop.run(replay_id)
        assert shop.counts([before, during, after, late]) == [1, 1, 1, 0]

    def test_what_is_past_its_retention_is_not_replayed_for_what_arrived_is_no_longer_known(
        self, shop: Shop, configured: Callable[..., None]
    ) -> None:
        configured(WEBHOOK_DAYS=3)
        old, young = shop.missed(2)
        with shop.bench.session() as session, session.begin():
            session.get_one(Payload, old).created_at = datetime.now(UTC) - timedelta(days=3, seconds=1)
        done = shop.run(shop.start())
        assert shop.counts([old, young]) == [0, 1]
        assert done.since == done.created_at - timedelta(days=3)

    def test_an_event_that_commits_after_the_replay_was_made_is_waited_for(self, shop: Shop) -> None:
        shop.disable()
        event_id = uuid4()
        with shop.bench.session() as slow, slow.begin():
            webhooks.fan_out(slow, event_id=event_id, event_type="a", content=b"1", occurred_at=AT)
            slow.flush()
            shop.change(enabled=True, disabled_at=None, disabled_reason=None)
            replay_id = shop.start()
            with pytest.raises(Snooze, match="older than the replay"):
                shop.page(replay_id)
        assert shop.page(replay_id).enqueued == 1
        assert shop.counts([event_id]) == [1]

    def test_two_replays_at_once_send_no_event_twice(self, shop: Shop) -> None:
        events = shop.missed(10)
        replays = [shop.start(), shop.start()]
        threads = [threading.Thread(target=shop.run, args=(each,)) for each in replays]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        ended = [shop.replay(each) for each in replays]
        assert [(each.status, each.seen) for each in ended] == [("done", 10)] * 2
        assert sum(each.enqueued for each in ended) == 10
        assert shop.counts(events) == [1] * 10

    def test_a_page_waits_for_another_one_to_the_same_endpoint(self, shop: Shop) -> None:
        shop.missed(1)
        replay_id = shop.start()
        with shop.bench.session() as session, session.begin():
            locked = select(Endpoint).where(Endpoint.id == shop.endpoint_id)
            session.execute(locked.with_for_update(key_share=True))
            thread = threading.Thread(target=shop.page, args=(replay_id,))
            thread.start()
            await_that(lambda: session.scalar(text("select exists (select from pg_locks where not granted)")))
            assert shop.replay(replay_id).seen == 0
            shop.publish()  # who publishes does not wait for a page
        thread.join()
        assert shop.replay(replay_id).seen == 1

    def test_a_page_that_breaks_leaves_nothing_and_the_next_run_does_it_whole(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        events = shop.missed(4)
        replay_id = shop.start()
        with monkeypatch.context() as broken:
            broken.setattr(replay, "enqueue", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                shop.page(replay_id)
        assert (shop.replay(replay_id).seen, shop.counts(events)) == (0, [0] * 4)
        assert shop.run(replay_id).seen == 4
        assert shop.counts(events) == [1] * 4

    def test_a_page_reads_what_it_needs_by_index_and_no_more(self, shop: Shop) -> None:
        row = shop.replay(shop.start())
        row.after_at, row.after_id = AT, uuid4()
        with shop.bench.session() as session:
            session.execute(text("set local enable_seqscan = off"))
            page = replay._page_of(row).compile(session.get_bind(), compile_kwargs={"literal_binds": True})
            plan = session.connection().exec_driver_sql(f"explain {page}").scalars().all()
        assert "Index Scan using payload_created" in plan[1]
        assert "ROW(created_at, event_id) > ROW" in plan[2]

    def test_a_page_run_once_more_does_nothing_that_was_done(self, shop: Shop) -> None:
        events = shop.missed(2)
        replay_id = shop.start()
        done = shop.page(replay_id)
        again = shop.page(replay_id)
        assert (done.seen, again.seen, shop.counts(events)) == (2, 2, [1, 1])


class TestItsEnd:
    def test_no_page_follows_an_abort(self, shop: Shop) -> None:
        events = shop.missed(7)
        replay_id = shop.start()
        shop.page(replay_id)
        with shop.bench.session() as session, session.begin():
            webhooks.abort_replay(session.get_one(Replay, replay_id, with_for_update=True), reason="aborted by ada")
        ended = shop.run(replay_id)
        assert (ended.status, ended.reason, ended.seen) == ("aborted", "aborted by ada", 3)
        assert (sum(shop.counts(events)), len(shop.pages(replay_id))) == (3, 2)

    def test_it_ends_when_its_endpoint_is_disabled(self, shop: Shop) -> None:
        shop.missed(4)
        replay_id = shop.start()
        shop.page(replay_id)
        shop.disable()
        ended = shop.page(replay_id)
        assert (ended.status, ended.reason, ended.enqueued) == ("aborted", "the endpoint was disabled", 3)

    def test_it_waits_while_there_is_much_to_do_for_the_endpoint(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(replay, "_ENOUGH", 2)
        missed = shop.missed(1)
        waiting, pending = (shop.deliveries(shop.publish())[0].id for _ in range(2))
        with shop.bench.session() as session, session.begin():
            session.execute(
                text("update outbox.task set state = 'waiting', position = 1 where id = :id"), {"id": waiting}
            )
            session.execute(text("update outbox.task set state = 'pending' where id = :id"), {"id": pending})
        replay_id = shop.start()
        with pytest.raises(Snooze, match="unfinished"):
            shop.page(replay_id)
        with shop.bench.session() as session, session.begin():
            session.execute(text("delete from outbox.task where id = :id"), {"id": pending})
        shop.page(replay_id)
        assert shop.counts(missed) == [1]

    def test_an_endpoint_that_is_forgotten_takes_its_replays_along(self, shop: Shop) -> None:
        shop.missed(1)
        replay_id = shop.start()
        with shop.bench.session() as session, session.begin():
            session.delete(session.get_one(Endpoint, shop.endpoint_id))
        shop.bench.perform(shop.pages(replay_id)[-1].id)
        assert shop.bench.tasks("deliver_webhook") == []


class TestWhatWasMissed:
    SINCE = datetime(2026, 11, 20, tzinfo=UTC)

    def covered(self, shop: Shop, since: datetime = LONG_AGO, **given: Any) -> datetime | None:
        shop.change(missed_since=self.SINCE)
        done = shop.run(shop.start(since=since, **given))
        assert done.status == "done"
        return shop.endpoint().missed_since

    def test_a_replay_of_all_of_it_makes_up_for_it(self, shop: Shop, configured: Callable[..., None]) -> None:
        configured(WEBHOOK_DAYS=3650)
        assert self.covered(shop) is None
        assert self.covered(shop, since=self.SINCE) is None
        assert self.covered(shop, which="all") is None

    def test_what_waited_when_the_endpoint_was_disabled_was_missed_too(self, shop: Shop) -> None:
        waited = [shop.publish(), shop.publish()]
        with shop.bench.session() as session, session.begin():
            webhooks.change_endpoint(session, session.get_one(Endpoint, shop.endpoint_id), enabled=False)
        for each in reversed(waited):
            with pytest.raises(Permanent, match="disabled"):
                shop.bench.perform(shop.deliveries(each)[0].id)
        with shop.bench.session() as session, session.begin():
            session.execute(text("delete from outbox.task"))
            webhooks.change_endpoint(session, session.get_one(Endpoint, shop.endpoint_id), enabled=True)
            first = session.get_one(Payload, waited[0]).created_at
        since = shop.endpoint().missed_since
        assert since == first
        done = shop.run(shop.start(since=since))
        assert (done.enqueued, shop.endpoint().missed_since) == (2, None)

    @pytest.mark.parametrize(
        "given",
        [{"event_types": ["*"]}, {"which": "failed"}, {"since": SINCE + timedelta(seconds=1)}, {"until": SINCE}],
    )
    def test_a_replay_of_a_part_does_not(
        self, shop: Shop, configured: Callable[..., None], given: dict[str, Any]
    ) -> None:
        configured(WEBHOOK_DAYS=3650)
        assert self.covered(shop, **given) == self.SINCE

    def test_one_that_ends_earlier_leaves_the_rest(self, shop: Shop, configured: Callable[..., None]) -> None:
        configured(WEBHOOK_DAYS=3650)
        end = self.SINCE + timedelta(hours=1)
        assert self.covered(shop, until=end) == end

    def test_what_is_past_its_retention_holds_nothing_open(self, shop: Shop, configured: Callable[..., None]) -> None:
        configured(WEBHOOK_DAYS=1)
        shop.change(missed_since=datetime.now(UTC) - timedelta(days=5))
        shop.run(shop.start())
        assert shop.endpoint().missed_since is None

    def test_what_a_replay_enqueued_may_have_been_missed_again_in_another_gap(self, shop: Shop) -> None:
        events = shop.missed(4)
        shop.change(missed_since=(since := datetime.now(UTC) - timedelta(hours=1)))
        replay_id = shop.start()
        shop.page(replay_id)
        for enabled in (False, True):
            with shop.bench.session() as session, session.begin():
                webhooks.change_endpoint(session, session.get_one(Endpoint, shop.endpoint_id), enabled=enabled)
        assert shop.run(replay_id).status == "done"
        assert shop.counts(events) == [1] * 4
        assert shop.endpoint().missed_since == since


class TestForgetting:
    @pytest.fixture
    def forgotten(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
        """Runs the pages; answers how many there were."""
        monkeypatch.setattr(forget, "_PAGE", 2)

        def run() -> int:
            pages = 0
            with shop.bench.session() as session, session.begin():
                enqueue(session, webhooks.forget_endpoint.message(str(shop.endpoint_id)))
            while len(found := shop.bench.tasks("forget_endpoint")) > pages:
                shop.bench.perform(found[pages].id)
                pages += 1
            return pages

        return run

    def test_a_deleted_endpoint_goes_with_its_log_page_by_page(self, shop: Shop, forgotten: Callable[[], int]) -> None:
        for _ in range(5):
            shop.publish()
        shop.start()
        with shop.bench.session() as session, session.begin():
            for each in session.scalars(select(Delivery)):
                session.add(DeliveryAttempt(delivery_id=each.id, number=1, outcome="retry"))
            session.add(EndpointHealth(endpoint_id=shop.endpoint_id))
        assert forgotten() == 3
        with shop.bench.session() as session:
            for table in (Endpoint, EndpointSecret, EndpointHealth, Delivery, DeliveryAttempt, Replay):
                assert session.query(table).count() == 0, table
            assert session.query(Payload).count() == 5

    def test_its_deliveries_under_way_are_cancelled_and_nobody_elses(
        self, shop: Shop, forgotten: Callable[[], int]
    ) -> None:
        mine = [shop.publish(), shop.publish()]
        with shop.bench.session() as session, session.begin():
            other, _ = webhooks.create_endpoint(session, url="https://other.example.com/", event_types=["*"])
        mine.append(shop.publish())
        gone = {shop.deliveries(each)[0].id for each in mine}
        forgotten()
        with shop.bench.session() as session:
            assert [row.endpoint_id for row in session.scalars(select(Delivery))] == [other.id]
            cancelled = session.execute(text("select id, reason from outbox.history where state = 'cancelled'")).all()
        assert set(cancelled) == {(each, "the endpoint was deleted") for each in gone}
        assert len(shop.bench.tasks("deliver_webhook")) == 1

    def test_its_lane_is_forgotten_too(self, shop: Shop, forgotten: Callable[[], int]) -> None:
        with shop.bench.session() as session, session.begin():
            hold_lane(session, key_of(shop.endpoint_id), until=timedelta(), places=1)
        forgotten()
        assert held(shop.bench) == []

    def test_it_may_be_asked_for_twice(self, shop: Shop, forgotten: Callable[[], int]) -> None:
        shop.publish()
        assert forgotten() == 1
        assert forgotten() == 2
        assert shop.bench.tasks("deliver_webhook") == []
