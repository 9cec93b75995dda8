"""The circuit: an endpoint that keeps failing is tried by one delivery at a time, and in the end by none."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from uuid import UUID

import pytest
from actor_bench import Bench
from far_http import answering, endpoint, read_request, status
from sqlalchemy import event, select, text
from webhook_bench import at_once, change, create, endpoint_of, fan_out, health_of, held, stored

from actors import webhooks
from actors.tables import Delivery, Endpoint, EndpointHealth, Mail, Payload
from actors.webhooks.outbound import DeliveryFailed
from outbox import Permanent, Snooze

pytestmark = pytest.mark.usefixtures("configured")
Configure = Callable[..., None]


class Changing:
    """A receiver that answers what it is told to, and counts."""

    def __init__(self, code: int) -> None:
        self.code = code

    def __call__(self, stream: socket.socket) -> None:
        answering(status(self.code))(stream)


def fail(bench: Bench, times: int) -> list[UUID]:
    """Deliveries that fail one after the other."""
    ids = [fan_out(bench)[0] for _ in range(times)]
    for each in ids:
        with pytest.raises((DeliveryFailed, Permanent)):
            bench.perform(each)
    return ids


def health(bench: Bench, made: Endpoint) -> EndpointHealth:
    found = health_of(bench, made.id)
    assert found is not None
    return found


def seconds_to_probe(bench: Bench, made: Endpoint) -> float:
    with bench.engine.connect() as connection:
        left = text(
            "select extract(epoch from probe_at - clock_timestamp()) from app.endpoint_health where endpoint_id = :id"
        )
        return float(connection.execute(left, {"id": made.id}).scalar_one())


def let_the_pause_pass(bench: Bench) -> None:
    change(bench, "update app.endpoint_health set probe_at = clock_timestamp() - interval '1 second'")


def fail_for_five_days(bench: Bench, *, failures: int = 9) -> None:
    change(
        bench,
        "update app.endpoint_health set failures = :n, probe_at = null, failing_since = now() - interval '121 hours'",
        n=failures,
    )


def mails(bench: Bench) -> list[Mail]:
    with bench.session() as session:
        return list(session.scalars(select(Mail)))


def notices(bench: Bench) -> list[Delivery]:
    with bench.session() as session:
        told = select(Delivery).where(Delivery.event_type == "webhook.endpoint_disabled")
        return list(session.scalars(told))


class TestCircuit:
    def test_ten_failures_in_a_row_open_it_and_hold_the_lane_until_the_probe(self, bench: Bench) -> None:
        with endpoint(Changing(500)) as far:
            made, _ = create(bench, far)
            fail(bench, 9)
            assert health(bench, made).probe_at is None
            assert held(bench) == []
            fail(bench, 1)
            assert 55 < seconds_to_probe(bench, made) < 67
            assert held(bench) == [(f"limit/endpoint/{made.id}", 1)]
            with bench.engine.connect() as connection:
                until = connection.execute(text("select held_until from outbox.lane")).scalar_one()
            assert until == health(bench, made).probe_at
            waiting = fan_out(bench)[0]
            with pytest.raises(Snooze) as snooze:
                bench.perform(waiting)
            assert timedelta(seconds=50) < snooze.value.wait < timedelta(seconds=67)
            assert far.connections == 10
        assert (stored(bench, waiting).status, stored(bench, waiting).attempts) == ("queued", 0)

    def test_a_success_in_between_begins_the_count_anew_and_frees_the_lane(self, bench: Bench) -> None:
        receiver = Changing(500)
        with endpoint(receiver) as far:
            made, _ = create(bench, far)
            fail(bench, 9)
            receiver.code = 200
            bench.perform(fan_out(bench)[0])
            row = health(bench, made)
            assert (row.failures, row.failing_since, row.openings, row.probe_at) == (0, None, 0, None)
            receiver.code = 500
            fail(bench, 9)
        assert health(bench, made).probe_at is None

    def test_a_probe_that_fails_opens_it_for_longer_and_never_for_more_than_about_an_hour(self, bench: Bench) -> None:
        with endpoint(Changing(500)) as far:
            made, _ = create(bench, far)
            fail(bench, 10)
            for minutes in (2, 4, 8, 16, 32, 60, 60):
                let_the_pause_pass(bench)
                fail(bench, 1)
                assert minutes * 60 - 5 < seconds_to_probe(bench, made) < minutes * 66
        assert far.connections == 17

    def test_a_probe_that_arrives_closes_it(self, bench: Bench) -> None:
        receiver = Changing(503)
        with endpoint(receiver) as far:
            made, _ = create(bench, far)
            fail(bench, 10)
            let_the_pause_pass(bench)
            receiver.code = 200
            for _ in range(2):
                bench.perform(fan_out(bench)[0])
        assert (health(bench, made).probe_at, held(bench)) == (None, [])

    def test_a_probe_that_is_refused_closes_it_for_the_endpoint_is_awake(self, bench: Bench) -> None:
        receiver = Changing(503)
        with endpoint(receiver) as far:
            made, _ = create(bench, far)
            fail(bench, 10)
            let_the_pause_pass(bench)
            receiver.code = 404
            fail(bench, 1)
        assert (health(bench, made).probe_at, health(bench, made).failures, held(bench)) == (None, 11, [])

    def test_answers_that_refuse_count_but_open_nothing(self, bench: Bench) -> None:
        with endpoint(Changing(404)) as far:
            made, _ = create(bench, far)
            fail(bench, 11)
        assert (health(bench, made).failures, health(bench, made).probe_at) == (11, None)

    def test_one_of_many_probes_and_the_others_wait(self, bench: Bench) -> None:
        others_have_asked, receiver = threading.Event(), Changing(500)

        def hold(stream: socket.socket) -> None:
            read_request(stream)
            if receiver.code == 200:
                others_have_asked.wait(30)
            stream.sendall(status(receiver.code))

        with endpoint(hold) as far:
            made, _ = create(bench, far)
            fail(bench, 10)
            let_the_pause_pass(bench)
            receiver.code = 200
            ids = [fan_out(bench)[0] for _ in range(6)]
            snoozed = threading.Semaphore(0)

            def perform(each: UUID) -> None:
                try:
                    bench.perform(each)
                except Snooze:
                    snoozed.release()
                    raise

            def release() -> None:
                for _ in range(5):
                    snoozed.acquire(timeout=30)
                others_have_asked.set()

            raised = at_once([*(partial(perform, each) for each in ids), release])
        assert sum(isinstance(each, Snooze) for each in raised) == 5
        assert raised.count(None) == 2
        assert far.connections == 11
        assert health(bench, made).probe_at is None

    def test_a_probe_whose_worker_died_is_followed_by_another(self, bench: Bench) -> None:
        with endpoint(Changing(500)) as far:
            made, _ = create(bench, far)
            fail(bench, 10)
            change(bench, "update app.endpoint_health set probe_at = clock_timestamp() + interval '30 seconds'")
            with pytest.raises(Snooze):
                bench.perform(fan_out(bench)[0])
            let_the_pause_pass(bench)
            fail(bench, 1)
        assert health(bench, made).openings == 2

    def test_a_failure_that_was_under_way_before_does_not_open_it_again(self, bench: Bench) -> None:
        opened: list[object] = []
        begun = threading.Event()

        def late(stream: socket.socket) -> None:
            read_request(stream)
            if not begun.is_set():
                begun.set()
                fail(bench, 10)
                opened.append(health(bench, made).probe_at)
            stream.sendall(status(500))

        with endpoint(late) as far:
            made, _ = create(bench, far)
            fail(bench, 1)
        row = health(bench, made)
        assert (row.failures, row.openings, [row.probe_at]) == (11, 1, opened)

    def test_a_probe_that_fails_when_somebody_has_closed_it_does_not_open_it_again(self, bench: Bench) -> None:
        def close(stream: socket.socket) -> None:
            read_request(stream)
            change(bench, "update app.endpoint_health set failures = 0, openings = 0, probe_at = null")
            stream.sendall(status(500))

        with endpoint(Changing(500)) as far:
            made, _ = create(bench, far)
            fail(bench, 10)
        let_the_pause_pass(bench)
        with endpoint(close) as far:
            change(bench, "update app.endpoint set url = :url", url=f"http://127.0.0.1:{far.port}/")
            fail(bench, 1)
        row = health(bench, made)
        assert (row.failures, row.openings, row.probe_at) == (1, 0, None)

    @pytest.mark.parametrize("code", [500, 404, 410])
    def test_what_fails_at_the_url_before_says_nothing_of_the_new_one(self, bench: Bench, code: int) -> None:
        def moved(stream: socket.socket) -> None:
            read_request(stream)
            with bench.session() as session, session.begin():
                found = session.get_one(Endpoint, made.id)
                webhooks.change_endpoint(session, found, url="https://other.example.com/")
            stream.sendall(status(code))

        with endpoint(Changing(500)) as far:
            made, _ = create(bench, far)
            fail(bench, 10)
        let_the_pause_pass(bench)
        with endpoint(moved) as far:
            change(bench, "update app.endpoint set url = :url", url=f"http://127.0.0.1:{far.port}/")
            (failed,) = fail(bench, 1)
        row = health(bench, made)
        assert (row.failures, row.openings, row.probe_at, held(bench)) == (0, 0, None, [])
        assert endpoint_of(bench, made.id).enabled
        assert stored(bench, failed).status_code == code

    def test_a_test_event_tries_an_open_circuit_at_once(self, bench: Bench) -> None:
        receiver = Changing(500)
        with endpoint(receiver) as far:
            made, _ = create(bench, far)
            fail(bench, 10)
            receiver.code = 200
            with bench.session() as session, session.begin():
                task = webhooks.send_test(session, session.get_one(Endpoint, made.id))
            assert held(bench) == [(f"limit/endpoint/{made.id}", 1)]
            bench.perform(task.id)
        assert (health(bench, made).probe_at, held(bench)) == (None, [])

    def test_a_new_url_begins_anew(self, bench: Bench) -> None:
        with endpoint(Changing(500)) as far:
            made, _ = create(bench, far)
            fail(bench, 10)
        with bench.session() as session, session.begin():
            webhooks.change_endpoint(session, session.get_one(Endpoint, made.id), url="https://other.example.com/")
        assert (health(bench, made).probe_at, health(bench, made).failures, held(bench)) == (None, 0, [])


class TestThreads:
    def test_an_endpoint_that_hangs_may_hold_one_thread_until_it_answers(
        self, bench: Bench, configured: Configure
    ) -> None:
        configured(WEBHOOK_DEADLINE="0.3")
        hangs = threading.Event()

        def hang(stream: socket.socket) -> None:
            read_request(stream)
            if not hangs.is_set():
                stream.sendall(status(200))
            else:
                stream.recv(1)

        with endpoint(hang) as far:
            made, _ = create(bench, far)
            hangs.set()
            fail(bench, 1)
            assert held(bench) == [(f"limit/endpoint/{made.id}", 1)]
            configured(WEBHOOK_DEADLINE="15")
            hangs.clear()
            bench.perform(fan_out(bench)[0])
        assert held(bench) == []

    def test_one_that_fails_fast_keeps_its_places(self, bench: Bench) -> None:
        with endpoint(Changing(500)) as far:
            create(bench, far)
            fail(bench, 3)
        assert held(bench) == []

    def test_an_endpoint_that_is_well_pays_no_statement(self, bench: Bench) -> None:
        statements: list[str] = []
        with endpoint(Changing(200)) as far:
            made, _ = create(bench, far)
            delivery_id = fan_out(bench)[0]
            event.listen(bench.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
            bench.perform(delivery_id)
        of_the_actor = [each.split()[0].lower() for each in statements[1:] if "update outbox.task" not in each]
        assert of_the_actor == ["select", "with"], "the delivery read, and its attempt recorded"
        assert health_of(bench, made.id) is None


class TestDisabling:
    def test_one_that_failed_for_five_days_is_disabled_and_its_owner_told(self, bench: Bench) -> None:
        with endpoint(Changing(500)) as far:
            made, _ = create(bench, far, "order.*", notify="ada@example.org", description="CRM")
            fail(bench, 1)
            fail_for_five_days(bench)
            fail(bench, 1)
        row = endpoint_of(bench, made.id)
        assert not row.enabled
        assert row.disabled_reason == "failing for more than five days: HTTP 500: the endpoint failed"
        (told,) = mails(bench)
        assert told.recipient == "ada@example.org"
        assert str(made.id).encode() in told.body
        assert [str(task.id) for task in bench.tasks("send_mail")] == [str(told.id)]
        assert held(bench) == []

    @pytest.mark.parametrize(("failures", "hours"), [(8, 121), (9, 119)])
    def test_neither_time_nor_number_alone_is_enough(self, bench: Bench, failures: int, hours: int) -> None:
        with endpoint(Changing(500)) as far:
            made, _ = create(bench, far)
            fail(bench, 1)
            change(
                bench,
                "update app.endpoint_health set failures = :n, failing_since = now() - :hours * interval '1 hour'",
                n=failures,
                hours=hours,
            )
            fail(bench, 1)
        assert endpoint_of(bench, made.id).enabled

    def test_many_failures_at_once_make_one_notice(self, bench: Bench) -> None:
        with endpoint(Changing(500)) as far:
            made, _ = create(bench, far, "*", notify="ada@example.org")
            listening, _ = create(bench, None, "webhook.*")
            fail(bench, 1)
            fail_for_five_days(bench)
            ids = [fan_out(bench)[0] for _ in range(6)]
            raised = at_once([partial(bench.perform, each) for each in ids])
        assert {type(each) for each in raised} <= {DeliveryFailed, Permanent, Snooze}
        assert not endpoint_of(bench, made.id).enabled
        assert len(mails(bench)) == 1
        assert [each.endpoint_id for each in notices(bench)] == [listening.id]

    def test_who_subscribed_to_everything_hears_nothing_of_the_trouble_of_others(self, bench: Bench) -> None:
        with endpoint(Changing(410)) as far:
            made, _ = create(bench, far, "order.*")
            create(bench, None, "*")
            named, _ = create(bench, None, "webhook.endpoint_disabled")
            ids = fan_out(bench)
            with pytest.raises(Permanent):
                bench.perform(ids[0])
        (told,) = notices(bench)
        assert told.endpoint_id == named.id
        with bench.session() as session:
            body = json.loads(session.get_one(Payload, told.event_id).body)
        assert body["type"] == "webhook.endpoint_disabled"
        assert body["data"].keys() == {"endpoint_id", "reason", "disabled_at"}
        assert body["data"]["endpoint_id"] == str(made.id)
        assert "410" in body["data"]["reason"]

    @pytest.mark.parametrize(
        ("operator", "told"),
        [("ops@example.org", ["ops@example.org"]), ("", []), ("no address", [])],
        ids=["operator", "nobody", "nonsense"],
    )
    def test_the_operator_is_told_of_those_who_named_nobody(
        self, bench: Bench, configured: Configure, operator: str, told: list[str]
    ) -> None:
        configured(OPERATOR_MAIL=operator)
        with endpoint(Changing(410)) as far:
            made, _ = create(bench, far)
            fail(bench, 1)
        assert not endpoint_of(bench, made.id).enabled
        assert [each.recipient for each in mails(bench)] == told

    def test_enabled_again_it_begins_anew_and_knows_since_when_it_missed_what(self, bench: Bench) -> None:
        with endpoint(Changing(500)) as far:
            made, _ = create(bench, far)
            fail(bench, 10)
            fail_for_five_days(bench)
            fail(bench, 1)
        disabled_at = endpoint_of(bench, made.id).disabled_at
        assert disabled_at is not None
        with bench.session() as session, session.begin():
            webhooks.change_endpoint(session, session.get_one(Endpoint, made.id), enabled=True)
        assert endpoint_of(bench, made.id).missed_since == disabled_at
        row = health(bench, made)
        assert (row.failures, row.failing_since, row.openings, row.probe_at) == (0, None, 0, None)
