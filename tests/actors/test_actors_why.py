"""Why a mail or a webhook waits, where the outbox alone sees a lane that is held or a task that was put off."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

import pytest
from actor_bench import Bench
from far_http import answering, endpoint, status
from outbox_rows import Outbox, failure
from sqlalchemy import text
from webhook_bench import create, fan_out

import actors
from actors import webhooks
from actors.mail.replies import Phase, Reply, TransportTrouble
from actors.mail.transport_state import pause
from actors.tables import Endpoint
from actors.webhooks.outbound import DeliveryFailed
from outbox import Permanent, Snooze
from outbox.reads import Reader
from outbox.why import Why, explain

pytestmark = pytest.mark.usefixtures("configured")


@pytest.fixture
def outbox(database_url: str) -> Iterator[Outbox]:
    outbox = Outbox(database_url)
    yield outbox
    outbox.close()


def why(outbox: Outbox, id: UUID) -> Why:
    task = Reader().task(outbox.conn, id)
    assert task is not None
    return explain(outbox.conn, task, others=[actors.explain])


def put_off(outbox: Outbox, id: UUID) -> None:
    """As its worker records a snooze."""
    outbox.sweep()
    claimed = outbox.must_claim(id, outbox.a_worker())
    with outbox.conn.transaction():
        outbox.ledger.record_again(outbox.conn, [failure(claimed, wait=timedelta(minutes=5), outcome="snoozed")])


def test_an_endpoint_that_keeps_failing_is_the_cause_while_its_lane_is_held(bench: Bench, outbox: Outbox) -> None:
    with endpoint(answering(status(500))) as far:
        made, _ = create(bench, far)
        for _ in range(10):
            (id,) = fan_out(bench)
            with pytest.raises(DeliveryFailed):
                bench.perform(id)
    (waiting,) = fan_out(bench)
    found = why(outbox, waiting)
    assert (found.cause, str(made.id) in found.told, "10 times" in found.told) == ("endpoint_failing", True, True)
    ((probe_at, since),) = outbox.conn.execute("select probe_at, failing_since from app.endpoint_health").fetchall()
    assert (found.until, found.since) == (probe_at, since)
    assert found.mend is not None
    assert f"POST /v1/endpoints/{made.id}/test" in found.mend


def test_an_endpoint_that_was_disabled_is_the_cause_of_what_it_missed(bench: Bench, outbox: Outbox) -> None:
    made, _ = create(bench)
    (missed,), (died,) = fan_out(bench), fan_out(bench)
    outbox.sweep()
    outbox.end_dead(outbox.must_claim(died, outbox.a_worker()))
    with bench.session() as session, session.begin():
        webhooks.change_endpoint(session, session.get_one(Endpoint, made.id), enabled=False)
    with pytest.raises(Permanent, match="disabled"):
        bench.perform(missed)
    outbox.end_dead(outbox.must_claim(missed, outbox.a_worker()))
    found = why(outbox, missed)
    assert (found.cause, "disabled by its owner" in found.told) == ("endpoint_disabled", True)
    assert found.since is not None
    assert why(outbox, died).cause == "dead"  # before that, of something else


def test_an_endpoints_rate_is_the_cause_until_the_deliverys_slot(bench: Bench, outbox: Outbox) -> None:
    with endpoint(answering(status(200))) as far:
        create(bench, far, rate_per_second=0.01)
        (first,), (second,) = fan_out(bench), fan_out(bench)
        bench.perform(first)
        with pytest.raises(Snooze, match="slot"):
            bench.perform(second)
    put_off(outbox, second)
    found = why(outbox, second)
    assert found.cause == "rate_limited"
    assert found.until is not None


def test_a_mail_server_that_cannot_be_used_is_the_cause(bench: Bench, outbox: Outbox) -> None:
    id = outbox.add("an id", concurrency_key="mail/example.org", concurrency_limit=2)
    put_off(outbox, id)
    assert why(outbox, id).cause == "put_off"
    with bench.session() as session, session.begin():
        trouble = TransportTrouble(Reply.missing(Phase.CONNECT, "connection refused"))
        assert pause(session, "smtp.example.org:25", trouble, None) is not None
    found = why(outbox, id)
    assert (found.cause, "smtp.example.org:25" in found.told, "refused" in found.told) == (
        "mail_server_away",
        True,
        True,
    )
    with bench.engine.begin() as connection:
        assert connection.execute(text("select paused_until from app.transport")).scalar_one() == found.until


def test_what_is_no_endpoints_has_no_nearer_cause(outbox: Outbox) -> None:
    id = outbox.add("an id", concurrency_key="endpoint/no-id", concurrency_limit=1)
    put_off(outbox, id)
    assert why(outbox, id).cause == "put_off"
