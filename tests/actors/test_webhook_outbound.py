"""From an event to the deliveries that it makes: endpoints, tasks, signatures, evidence."""

from __future__ import annotations

import base64
import errno
import os
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
import standardwebhooks
from actor_bench import Bench
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from far_http import answering, endpoint, headers_of, read_request, status
from sqlalchemy import delete, select, text
from webhook_bench import AT, attempts, create, endpoint_of, fan_out, health_of, stored

from actors import webhooks
from actors.secrets import SecretKeyMissing, Unreadable
from actors.tables import Delivery, Endpoint, EndpointSecret, Payload
from actors.webhooks import endpoints, wire
from actors.webhooks.delivery import Unreachable
from actors.webhooks.outbound import DeliveryFailed
from actors.webhooks.outcomes import Retry
from actors.webhooks.record import record
from actors.webhooks.wire import Phase
from outbox import Permanent, Snooze

pytestmark = pytest.mark.usefixtures("configured")
Configure = Callable[..., None]


class TestFanOut:
    @pytest.mark.parametrize(
        ("patterns", "event_type", "matches"),
        [
            (["*"], "order.placed", True),
            (["order.placed"], "order.placed", True),
            (["order.*"], "order.placed", True),
            (["order.*"], "order.item.added", True),
            (["order.item.*"], "order.item.added", True),
            (["order.*"], "order", False),
            (["order.*"], "orders.placed", False),
            (["order.placed"], "order.placed.again", False),
            (["user.created", "order.refunded"], "order.placed", False),
        ],
    )
    def test_an_event_goes_to_those_who_subscribed(
        self, bench: Bench, patterns: list[str], event_type: str, matches: bool
    ) -> None:
        create(bench, None, *patterns)
        assert len(fan_out(bench, event_type)) == matches

    def test_each_enabled_endpoint_gets_a_delivery_with_its_tasks_id_and_the_same_body(self, bench: Bench) -> None:
        first, _ = create(bench)
        second, _ = create(bench)
        disabled, _ = create(bench)
        with bench.session() as session, session.begin():
            webhooks.change_endpoint(session, session.get_one(Endpoint, disabled.id), enabled=False)
        task_ids = fan_out(bench)
        with bench.session() as session:
            deliveries = session.scalars(select(Delivery).order_by(Delivery.id)).all()
            assert [d.endpoint_id for d in deliveries] == [first.id, second.id]
            assert [d.id for d in deliveries] == task_ids == [t.id for t in bench.tasks("deliver_webhook")]
            (payload,) = session.scalars(select(Payload)).all()
        assert payload.body == (b'{"type":"order.placed","timestamp":"2026-11-22T12:30:00Z","data":{"b": 1, "a": 1.0}}')

    def test_nobody_subscribed_means_no_task_and_the_body_is_kept_for_a_replay(self, bench: Bench) -> None:
        assert fan_out(bench) == []
        with bench.session() as session:
            assert [p.event_type for p in session.scalars(select(Payload))] == ["order.placed"]

    def test_the_tasks_of_an_endpoint_share_its_lane(self, bench: Bench) -> None:
        many, _ = create(bench)
        one, _ = create(bench)
        with bench.session() as session, session.begin():
            session.get_one(Endpoint, many.id).concurrency = 7
            session.get_one(Endpoint, one.id).fifo = True
        fan_out(bench)
        with bench.session() as session:
            lanes = session.execute(text("select lane, lane_limit from outbox.task order by id")).all()
        assert lanes == [(f"limit/endpoint/{many.id}", 7), (f"order/endpoint/{one.id}", None)]

    def test_a_rolled_back_transaction_leaves_no_delivery(self, bench: Bench) -> None:
        create(bench)
        with bench.session() as session:
            webhooks.fan_out(session, event_id=uuid4(), event_type="a", content=b"1", occurred_at=AT)
            session.flush()
            session.rollback()
        assert bench.tasks("deliver_webhook") == []

    def test_an_endpoint_deleted_at_the_same_moment_does_not_break_the_event(self, bench: Bench) -> None:
        made, _ = create(bench)
        other, _ = create(bench)
        with bench.session() as deleting, bench.session() as publishing:
            deleting.execute(delete(Endpoint).where(Endpoint.id == made.id))
            found: list[UUID] = []
            thread = threading.Thread(target=lambda: found.extend(fan_out(bench)))
            thread.start()
            while not publishing.scalar(text("select exists (select from pg_locks where not granted)")):
                publishing.rollback()
            deleting.commit()
            thread.join()
        assert [stored(bench, each).endpoint_id for each in found] == [other.id]

    def test_an_endpoint_that_is_being_changed_holds_up_no_event(self, bench: Bench) -> None:
        made, _ = create(bench)
        with bench.session() as changing, bench.session() as publishing, publishing.begin():
            endpoints.lock(changing, made.id)
            publishing.execute(text("set local lock_timeout = '5s'"))
            assert webhooks.fan_out(publishing, event_id=uuid4(), event_type="a", content=b"1", occurred_at=AT)

    def test_events_of_our_own_go_only_to_those_who_asked_for_them_by_name(self, bench: Bench) -> None:
        create(bench, None, "*")
        asked = {create(bench, None, pattern)[0].id for pattern in ("webhook.*", "webhook.endpoint_disabled")}
        found = fan_out(bench, "webhook.endpoint_disabled")
        assert {stored(bench, each).endpoint_id for each in found} == asked


class TestEndpoints:
    def test_the_secret_is_stored_sealed(self, bench: Bench) -> None:
        made, secret = create(bench)
        with bench.session() as session:
            (row,) = session.scalars(select(EndpointSecret)).all()
        assert row.endpoint_id == made.id
        assert secret.encode() not in row.sealed

    def test_the_values_of_headers_are_stored_sealed_and_each_for_its_endpoint(self, bench: Bench) -> None:
        made, _ = create(bench, headers={"Authorization": "Bearer hunter2", "X-Tenant": "seven"})
        other, _ = create(bench, headers={"Authorization": "Bearer hunter3"})
        row, theirs = endpoint_of(bench, made.id), endpoint_of(bench, other.id).sealed_headers
        assert row.sealed_headers is not None
        assert b"hunter2" not in row.sealed_headers
        assert row.headers == {"Authorization": "", "X-Tenant": ""}
        opened = endpoints.headers_of(made.id, row.headers, row.sealed_headers)
        assert opened == {"Authorization": "Bearer hunter2", "X-Tenant": "seven"}
        with pytest.raises(Unreadable):
            endpoints.headers_of(made.id, row.headers, theirs)

    def test_the_url_is_stored_in_its_canonical_spelling(self, bench: Bench) -> None:
        with bench.session() as session, session.begin():
            made, _ = webhooks.create_endpoint(session, url="HTTPS://Hooks.Example.COM:443", event_types=["*"])
        assert made.url == "https://hooks.example.com/"

    @pytest.mark.parametrize(
        ("options", "refusal"),
        [
            ({"url": "https://10.0.0.1/"}, webhooks.AddressRefused),
            ({"event_types": []}, webhooks.EventTypeRefused),
            ({"event_types": ["order.**"]}, webhooks.EventTypeRefused),
            ({"event_types": ["*.placed"]}, webhooks.EventTypeRefused),
            ({"event_types": ["a b"]}, webhooks.EventTypeRefused),
            ({"headers": {"Host": "x"}}, webhooks.HeaderRefused),
        ],
    )
    def test_what_may_not_be_is_refused_and_changes_nothing(
        self, bench: Bench, options: dict[str, object], refusal: type[Exception]
    ) -> None:
        made, _ = create(bench, None, "order.*")
        with bench.session() as session, pytest.raises(refusal):
            webhooks.create_endpoint(session, **{"url": "https://a.com/", "event_types": ["*"], **options})  # type: ignore[arg-type]
        with bench.session() as session, session.begin():
            found = session.get_one(Endpoint, made.id)
            with pytest.raises(refusal):
                webhooks.change_endpoint(session, found, **{"description": "new", **options})  # type: ignore[arg-type]
            assert (found.description, found.event_types) == ("", ["order.*"])

    def test_without_secret_key_no_endpoint_is_made(self, bench: Bench, configured: Configure) -> None:
        configured(SECRET_KEY="")
        with bench.session() as session, pytest.raises(SecretKeyMissing):
            webhooks.create_endpoint(session, url="https://a.com/", event_types=["*"])

    def test_since_when_it_missed_events_stays_known_over_several_absences(self, bench: Bench) -> None:
        made, _ = create(bench)
        since = []
        for enabled in (False, True, False, True):
            with bench.session() as session, session.begin():
                webhooks.change_endpoint(session, session.get_one(Endpoint, made.id), enabled=enabled)
            row = endpoint_of(bench, made.id)
            since.append(row.disabled_at or row.missed_since)
        assert since[0] == since[1] == since[3] < since[2]  # type: ignore[operator]
        with bench.session() as session, session.begin():
            webhooks.change_endpoint(session, session.get_one(Endpoint, made.id), missed_since=None)
        assert endpoint_of(bench, made.id).missed_since is None

    def test_of_two_times_since_when_it_missed_something_the_earlier_stays(self, bench: Bench) -> None:
        """An event that was being published when it was disabled is later than that."""
        made, _ = create(bench)
        for changes in ({"enabled": False}, {"enabled": True}):
            before = endpoint_of(bench, made.id).disabled_at
            with bench.session() as session, session.begin():
                found = session.get_one(Endpoint, made.id)
                if before is not None:
                    found.missed_since = before + timedelta(seconds=1)
                webhooks.change_endpoint(session, found, **changes)  # type: ignore[arg-type]
        assert endpoint_of(bench, made.id).missed_since == before
        with bench.session() as session, session.begin():
            webhooks.change_endpoint(session, session.get_one(Endpoint, made.id), enabled=False)
        with bench.session() as session, session.begin():
            found = session.get_one(Endpoint, made.id)
            webhooks.change_endpoint(session, found, enabled=True, missed_since=None)
        assert endpoint_of(bench, made.id).missed_since is None

    def test_disabling_keeps_reason_and_time_and_enabling_clears_them(self, bench: Bench) -> None:
        made, _ = create(bench)
        with bench.session() as session, session.begin():
            webhooks.change_endpoint(session, session.get_one(Endpoint, made.id), enabled=False)
        with bench.session() as session, session.begin():
            found = session.get_one(Endpoint, made.id)
            assert found.disabled_at is not None
            assert found.disabled_reason == "disabled by its owner"
            webhooks.change_endpoint(session, found, enabled=True)
        with bench.session() as session:
            found = session.get_one(Endpoint, made.id)
            assert (found.enabled, found.disabled_at, found.disabled_reason) == (True, None, None)


class TestDelivery:
    def test_the_stored_body_arrives_signed_under_the_tasks_id(self, bench: Bench) -> None:
        seen: list[bytes] = []
        with endpoint(answering(status(200, body=b"thanks"), seen=seen)) as far:
            _, secret = create(bench, far, headers={"X-Api-Key": "k"})
            (delivery_id,) = fan_out(bench)
            bench.perform(delivery_id)
        headers, body = headers_of(seen[0]), seen[0].partition(b"\r\n\r\n")[2]
        assert headers["webhook-id"] == str(delivery_id)
        assert headers["x-api-key"] == "k"
        event = standardwebhooks.Webhook(secret).verify(body, headers)
        assert event == {"type": "order.placed", "timestamp": "2026-11-22T12:30:00Z", "data": {"b": 1, "a": 1.0}}
        row = stored(bench, delivery_id)
        assert (row.status, row.status_code, row.excerpt, row.attempts, row.phase) == (
            "delivered",
            200,
            "thanks",
            1,
            "body",
        )
        assert row.delivered_at is not None
        assert row.duration is not None
        assert timedelta() < row.duration < timedelta(seconds=5)

    def test_headers_from_before_they_were_sealed_go_along(self, bench: Bench) -> None:
        seen: list[bytes] = []
        with endpoint(answering(status(200), seen=seen)) as far:
            made, _ = create(bench, far)
            with bench.session() as session, session.begin():
                session.get_one(Endpoint, made.id).headers = {"X-Api-Key": "old"}
            bench.perform(fan_out(bench)[0])
        assert headers_of(seen[0])["x-api-key"] == "old"

    def test_a_delivery_that_repeats_another_has_its_webhook_id(self, bench: Bench) -> None:
        seen: list[bytes] = []
        with endpoint(answering(status(200), seen=seen)) as far:
            create(bench, far)
            first, again = fan_out(bench)[0], fan_out(bench)[0]
            with bench.session() as session, session.begin():
                session.get_one(Delivery, again).webhook_id = first
            bench.perform(again)
        assert headers_of(seen[0])["webhook-id"] == str(first)

    @pytest.mark.parametrize(
        ("answer", "raised", "stands"),
        [
            (status(500, body=b"oops\x00"), DeliveryFailed, "failing"),
            (status(429), DeliveryFailed, "failing"),
            (status(404), Permanent, "refused"),
            (status(302, "Location: /"), Permanent, "refused"),
            (status(410), Permanent, "refused"),
        ],
        ids=["500", "429", "404", "302", "410"],
    )
    def test_the_status_decides_and_is_kept(
        self, bench: Bench, answer: bytes, raised: type[Exception], stands: str
    ) -> None:
        with endpoint(answering(answer)) as far:
            create(bench, far)
            (delivery_id,) = fan_out(bench)
            with pytest.raises(raised):
                bench.perform(delivery_id)
        row = stored(bench, delivery_id)
        assert (row.status, row.status_code, row.delivered_at) == (stands, int(answer[9:12]), None)
        assert row.reason is not None
        assert row.reason.startswith(f"HTTP {row.status_code}")

    @pytest.mark.parametrize("asked", ["0", "1", "Sun, 06 Nov 1994 08:49:37 GMT"])
    def test_a_retry_after_that_asks_for_no_wait_shortens_none(self, bench: Bench, asked: str) -> None:
        with endpoint(answering(status(503, f"Retry-After: {asked}"))) as far:
            create(bench, far)
            (delivery_id,) = fan_out(bench)
            with pytest.raises(DeliveryFailed) as failed:
                bench.perform(delivery_id)
        assert failed.value.delay is not None
        assert 4_000 <= failed.value.delay <= 6_000

    def test_a_longer_retry_after_is_waited_for_and_counts_as_an_attempt(self, bench: Bench) -> None:
        with endpoint(answering(status(429, "Retry-After: 7200"))) as far:
            create(bench, far)
            (delivery_id,) = fan_out(bench)
            with pytest.raises(DeliveryFailed) as failed:
                bench.perform(delivery_id)
            assert failed.value.delay == 7_200_000
            with pytest.raises(Permanent, match="last attempt"):
                bench.perform(delivery_id, attempt=10)
        assert (stored(bench, delivery_id).status, stored(bench, delivery_id).attempts) == ("failed", 2)

    def test_an_endpoint_may_have_a_schedule_of_its_own(self, bench: Bench) -> None:
        with endpoint(answering(status(500))) as far:
            made, _ = create(bench, far)
            (delivery_id,) = fan_out(bench)
            with bench.session() as session, session.begin():
                session.get_one(Endpoint, made.id).schedule = [timedelta(minutes=1), timedelta(hours=1)]
            with pytest.raises(DeliveryFailed) as failed:
                bench.perform(delivery_id, attempt=2)
            with pytest.raises(Permanent):
                bench.perform(delivery_id, attempt=3)
        assert failed.value.delay is not None
        assert 2_880_000 <= failed.value.delay <= 4_320_000

    def test_an_endpoint_may_have_other_4xx_tried_again(self, bench: Bench) -> None:
        with endpoint(answering(status(404))) as far:
            made, _ = create(bench, far)
            (delivery_id,) = fan_out(bench)
            with bench.session() as session, session.begin():
                session.get_one(Endpoint, made.id).other_4xx = "retry"
            with pytest.raises(DeliveryFailed):
                bench.perform(delivery_id)
        assert stored(bench, delivery_id).status == "failing"

    def test_410_disables_the_endpoint(self, bench: Bench) -> None:
        with endpoint(answering(status(410))) as far:
            made, _ = create(bench, far)
            (delivery_id,) = fan_out(bench)
            with pytest.raises(Permanent):
                bench.perform(delivery_id)
        with bench.session() as session:
            found = session.get_one(Endpoint, made.id)
        assert not found.enabled
        assert found.disabled_reason is not None
        assert "410" in found.disabled_reason
        assert fan_out(bench) == []

    def test_an_unreachable_endpoint_is_a_failure_with_its_phase(self, bench: Bench) -> None:
        with endpoint(answering(b"")) as far:
            pass
        create(bench, far)
        (delivery_id,) = fan_out(bench)
        with pytest.raises(DeliveryFailed, match="connect"):
            bench.perform(delivery_id)
        row = stored(bench, delivery_id)
        assert (row.status, row.phase, row.status_code) == ("failing", "connect", None)

    def test_the_id_and_the_body_stay_over_the_attempts(self, bench: Bench) -> None:
        seen: list[bytes] = []
        with endpoint(answering(status(500), seen=seen)) as far:
            create(bench, far)
            (delivery_id,) = fan_out(bench)
            for attempt in (1, 2):
                with pytest.raises(DeliveryFailed):
                    bench.perform(delivery_id, attempt=attempt)
        assert len({headers_of(request)["webhook-id"] for request in seen}) == 1
        assert len({request.partition(b"\r\n\r\n")[2] for request in seen}) == 1

    @pytest.mark.parametrize("key", ["", "another key, of 32 characters ok"], ids=["none", "another"])
    def test_a_wrong_secret_key_uses_up_no_attempt(self, bench: Bench, configured: Configure, key: str) -> None:
        with endpoint(answering(status(200))) as far:
            made, _ = create(bench, far)
            (delivery_id,) = fan_out(bench)
            configured(SECRET_KEY=key)
            with pytest.raises(Snooze, match=r"trouble of our own: .*SECRET_KEY"):
                bench.perform(delivery_id)
            assert far.connections == 0
        assert (stored(bench, delivery_id).status, stored(bench, delivery_id).attempts) == ("queued", 0)
        assert health_of(bench, made.id) is None

    @pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS])
    def test_a_worker_without_a_free_socket_is_no_failure_of_the_endpoint(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        def short_of_it(*_: object) -> None:
            raise OSError(code, os.strerror(code))

        with endpoint(answering(status(200))) as far:
            made, _ = create(bench, far)
            (delivery_id,) = fan_out(bench)
            monkeypatch.setattr(wire, "_connected", short_of_it)
            with pytest.raises(Snooze, match="trouble of our own"):
                bench.perform(delivery_id)
        assert stored(bench, delivery_id).attempts == 0
        assert health_of(bench, made.id) is None

    def test_each_attempt_has_a_line_of_its_own(self, bench: Bench) -> None:
        answers = [status(503, body=b"later"), status(200, body=b"thanks")]
        with endpoint(lambda stream: answering(answers.pop(0))(stream)) as far:
            create(bench, far)
            (delivery_id,) = fan_out(bench)
            with pytest.raises(DeliveryFailed):
                bench.perform(delivery_id)
            bench.perform(delivery_id, attempt=2)
        lines = attempts(bench, delivery_id)
        assert [(a.number, a.outcome, a.status_code, a.excerpt) for a in lines] == [
            (1, "retry", 503, "later"),
            (2, "delivered", 200, "thanks"),
        ]
        assert lines[0].at < lines[1].at

    @pytest.mark.parametrize("late", [500, 410], ids=["failed", "gone"])
    def test_a_run_that_was_overtaken_says_nothing_of_the_delivery_and_the_endpoint(
        self, bench: Bench, late: int
    ) -> None:
        answers, ids = [late, 200], []

        def overtaken(stream: socket.socket) -> None:
            read_request(stream)
            if (answer := answers.pop(0)) != 200:
                bench.perform(ids[0])
            stream.sendall(status(answer))

        with endpoint(overtaken) as far:
            made, _ = create(bench, far)
            ids += fan_out(bench)
            with pytest.raises((DeliveryFailed, Permanent)):
                bench.perform(ids[0])
        row = stored(bench, ids[0])
        assert (row.status, row.attempts, [each.outcome for each in attempts(bench, ids[0])]) == (
            "delivered",
            1,
            ["delivered"],
        )
        assert endpoint_of(bench, made.id).enabled
        assert health_of(bench, made.id) is None

    def test_no_failure_takes_back_what_was_delivered(self, bench: Bench) -> None:
        with endpoint(answering(status(200))) as far:
            create(bench, far)
            (delivery_id,) = fan_out(bench)
            bench.perform(delivery_id)
        late = Unreachable(Phase.CONNECT, "refused", timedelta())
        with bench.session() as session, session.begin():
            assert record(session, delivery_id, late, Retry("connect: refused", None)) is None
        assert (stored(bench, delivery_id).status, len(attempts(bench, delivery_id))) == ("delivered", 1)

    def test_a_disabled_endpoint_gets_nothing_more(self, bench: Bench) -> None:
        with endpoint(answering(status(200))) as far:
            made, _ = create(bench, far)
            (delivery_id,) = fan_out(bench)
            with bench.session() as session, session.begin():
                webhooks.change_endpoint(session, session.get_one(Endpoint, made.id), enabled=False)
            with pytest.raises(Permanent, match="disabled"):
                bench.perform(delivery_id)
            assert far.connections == 0
        row = stored(bench, delivery_id)
        assert (row.status, row.attempts, row.reason) == (
            "missed",
            0,
            "the endpoint is disabled: disabled by its owner",
        )

    def test_a_network_that_is_no_longer_allowed_gets_no_connection(self, bench: Bench, configured: Configure) -> None:
        with endpoint(answering(status(200))) as far:
            create(bench, far)
            (delivery_id,) = fan_out(bench)
            configured(WEBHOOK_ALLOWED_NETWORKS="")
            with pytest.raises(Permanent, match="no longer permitted"):
                bench.perform(delivery_id)
            assert far.connections == 0
        assert stored(bench, delivery_id).status == "failed"

    def test_a_delivered_webhook_is_not_delivered_again(self, bench: Bench) -> None:
        with endpoint(answering(status(200))) as far:
            create(bench, far)
            (delivery_id,) = fan_out(bench)
            bench.perform(delivery_id)
            bench.perform(delivery_id)
            assert far.connections == 1

    def test_the_deliveries_of_a_deleted_endpoint_end(self, bench: Bench) -> None:
        made, _ = create(bench)
        (delivery_id,) = fan_out(bench)
        with bench.session() as session, session.begin():
            session.execute(delete(Endpoint).where(Endpoint.id == made.id))
        with pytest.raises(Permanent, match="deleted"):
            bench.perform(delivery_id)

    def test_no_transaction_is_open_while_the_endpoint_is_waited_for(self, bench: Bench) -> None:
        open_ones: list[int] = []

        def look(stream: object) -> None:
            with bench.engine.connect() as connection:
                open_ones.append(
                    connection.exec_driver_sql(
                        "select count(*) from pg_stat_activity "
                        "where state like 'idle in transaction%%' and datname = current_database()"
                    ).scalar_one()
                )
            answering(status(200))(stream)  # type: ignore[arg-type]

        with endpoint(look) as far:
            create(bench, far)
            (delivery_id,) = fan_out(bench)
            bench.perform(delivery_id)
        assert open_ones == [0]

    def test_a_test_event_goes_to_one_endpoint_whatever_it_subscribed_to(self, bench: Bench) -> None:
        seen: list[bytes] = []
        with endpoint(answering(status(200), seen=seen)) as far:
            made, secret = create(bench, far, "order.placed")
            with bench.session() as session, session.begin():
                task = webhooks.send_test(session, session.get_one(Endpoint, made.id))
            bench.perform(task.id)
        event = standardwebhooks.Webhook(secret).verify(seen[0].partition(b"\r\n\r\n")[2], headers_of(seen[0]))
        assert event["type"] == "webhook.test"
        assert event["data"] == {"endpoint_id": str(made.id)}


class TestRotation:
    def signed_by(self, bench: Bench, *secrets: str) -> list[bool]:
        seen: list[bytes] = []
        with endpoint(answering(status(200), seen=seen)) as far:
            with bench.session() as session, session.begin():
                session.scalars(select(Endpoint)).one().url = f"http://127.0.0.1:{far.port}/"
            (delivery_id,) = fan_out(bench)
            bench.perform(delivery_id)
        valid = []
        for secret in secrets:
            try:
                standardwebhooks.Webhook(secret).verify(seen[0].partition(b"\r\n\r\n")[2], headers_of(seen[0]))
                valid.append(True)
            except standardwebhooks.WebhookVerificationError:
                valid.append(False)
        return valid

    def rotate(self, bench: Bench, overlap: timedelta) -> str:
        with bench.session() as session, session.begin():
            return webhooks.rotate_secret(session, session.scalars(select(Endpoint)).one(), overlap=overlap)

    def test_old_and_new_secret_sign_during_the_overlap(self, bench: Bench) -> None:
        _, old = create(bench)
        new = self.rotate(bench, timedelta(hours=1))
        assert self.signed_by(bench, old, new) == [True, True]

    def test_without_overlap_the_old_secret_signs_no_more(self, bench: Bench) -> None:
        _, old = create(bench)
        new = self.rotate(bench, timedelta())
        assert self.signed_by(bench, old, new) == [False, True]

    def test_a_second_rotation_does_not_lengthen_the_life_of_the_first_secret(self, bench: Bench) -> None:
        create(bench)
        self.rotate(bench, timedelta(hours=1))
        self.rotate(bench, timedelta(days=7))
        with bench.session() as session:
            expiries = session.scalars(select(EndpointSecret.expires_at)).all()
        first, second = sorted(expiry - datetime.now(UTC) for expiry in expiries if expiry is not None)
        assert first < timedelta(hours=1) < second
        assert expiries.count(None) == 1

    def test_at_most_five_secrets_sign_at_once_and_a_rotation_without_overlap_is_always_possible(
        self, bench: Bench
    ) -> None:
        create(bench)
        for _ in range(4):
            self.rotate(bench, timedelta(hours=1))
        with pytest.raises(webhooks.TooManySecrets, match="overlap of 0"):
            self.rotate(bench, timedelta(hours=1))
        with bench.session() as session:
            (valid,) = session.scalars(select(endpoints.VALID_SECRETS).select_from(Endpoint))
            assert len(valid) == 5
        new = self.rotate(bench, timedelta())
        assert self.signed_by(bench, new) == [True]

    def test_a_key_pair_signs_and_only_its_public_half_is_told(self, bench: Bench) -> None:
        seen: list[bytes] = []
        with endpoint(answering(status(200), seen=seen)) as far:
            made, public = create(bench, far, signature="v1a")
            bench.perform(fan_out(bench)[0])
        headers, body = headers_of(seen[0]), seen[0].partition(b"\r\n\r\n")[2]
        version, _, signature = headers["webhook-signature"].partition(",")
        assert (version, public[:5]) == ("v1a", "whpk_")
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public[5:]))
        key.verify(base64.b64decode(signature), signed)
        with bench.session() as session:
            (secret,) = session.scalars(select(EndpointSecret))
            assert secret.public_key == public
            assert endpoints.valid_secrets(session, [made.id])[made.id] == [secret]

    def test_expired_secrets_are_removed_and_the_overlap_is_bounded(self, bench: Bench) -> None:
        create(bench)
        for _ in range(3):
            self.rotate(bench, timedelta())
        with bench.session() as session:
            assert len(session.scalars(select(EndpointSecret)).all()) == 2
        with pytest.raises(ValueError, match="overlap"):
            self.rotate(bench, timedelta(days=8))
