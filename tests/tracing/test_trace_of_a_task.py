"""One trace id from who enqueues through the row, the relay and each attempt, on real servers."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode
from span_eyes import Spans, id_of, parent_of, trace_of
from sqlalchemy.orm import Session
from workshop import Workshop

from outbox import Permanent, Snooze, current_run, enqueue, tracing
from outbox.reads import Reader


def send(shop: Workshop, actor: dramatiq.Actor[..., Any], *args: Any, **options: Any) -> str:
    """Enqueued in a session, as an application does. The task's id."""
    with Session(shop.broker.engine()) as session, session.begin():
        return str(enqueue(session, actor.message_with_options(args=args, **options)).id)


def test_the_row_the_publishing_and_the_attempt_are_in_the_trace_of_who_enqueued(shop: Workshop, spans: Spans) -> None:
    seen = []

    @shop.actor()
    def greet(name: str) -> None:
        with spans.tracer.start_as_current_span("inside"):
            seen.append(name)

    with spans.tracer.start_as_current_span("request") as request:
        id = send(shop, greet, "ada")
    shop.await_state(id, "succeeded")
    process, publish = spans.await_one("greet process"), spans.await_one("outbox publish")
    (inside,) = spans.named("inside")
    root = request.get_span_context()
    assert {trace_of(each) for each in (process, publish, inside)} == {f"{root.trace_id:032x}"}
    assert parent_of(process) == parent_of(publish) == root.span_id
    assert parent_of(inside) == id_of(process)
    assert (process.kind, publish.kind) == (SpanKind.CONSUMER, SpanKind.PRODUCER)
    assert process.parent is not None
    assert process.parent.is_remote
    assert dict(process.attributes or {}) == {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "default",
        "messaging.message.id": id,
        "outbox.task_id": id,
        "outbox.actor": "greet",
        "outbox.attempt": 1,
        "outbox.outcome": "succeeded",
    }
    assert (publish.attributes or {})["messaging.message.id"] == id
    assert (publish.start_time or 0) < (publish.end_time or 0) <= (process.end_time or 0)
    view = Reader().task(shop.db, shop.fate(id).id)
    assert view is not None
    assert view.trace_id == f"{root.trace_id:032x}"
    assert tracing.trace_url(view, "https://t.example/{trace_id}") == f"https://t.example/{view.trace_id}"


def test_each_attempt_has_a_span_beside_the_others_and_keeps_what_it_failed_of(shop: Workshop, spans: Spans) -> None:
    @shop.actor(max_retries=1, min_backoff=1, max_backoff=1)
    def fail() -> None:
        raise ValueError("no such order")

    with spans.tracer.start_as_current_span("request") as request:
        id = send(shop, fail)
    shop.await_state(id, "dead")
    first, second = spans.await_named("fail process", 2)
    assert parent_of(first) == parent_of(second) == request.get_span_context().span_id
    assert [(each.attributes or {})["outbox.attempt"] for each in (first, second)] == [1, 2]
    assert [(each.attributes or {})["outbox.outcome"] for each in (first, second)] == ["failed", "dead"]
    for each in (first, second):
        assert each.status.status_code is StatusCode.ERROR
        assert each.status.description == "ValueError: no such order"
        assert [(event.attributes or {})["exception.message"] for event in each.events] == ["no such order"]
    assert len(spans.named("outbox publish")) == 2


def test_a_snooze_is_no_error_and_a_permanent_failure_is(shop: Workshop, spans: Spans) -> None:
    @shop.actor()
    def wait() -> None:
        if current_run().attempt == 1:
            raise Snooze(timedelta(0), "not yet")
        raise Permanent("never")

    with spans.tracer.start_as_current_span("request"):
        id = send(shop, wait)
    shop.await_state(id, "dead")
    snoozed, dead = spans.await_named("wait process", 2)
    assert snoozed.status.status_code is StatusCode.UNSET
    assert not snoozed.events
    assert dead.status.status_code is StatusCode.ERROR


def test_an_async_actor_runs_in_its_span(shop: Workshop, spans: Spans) -> None:
    @shop.actor()
    async def greet() -> None:
        with spans.tracer.start_as_current_span("inside"):
            pass

    with spans.tracer.start_as_current_span("request"):
        id = send(shop, greet)
    shop.await_state(id, "succeeded")
    assert parent_of(spans.named("inside")[0]) == id_of(spans.await_one("greet process"))


def test_what_an_actor_sends_is_in_the_same_trace_below_its_attempt(shop: Workshop, spans: Spans) -> None:
    @shop.actor()
    def child() -> None: ...

    @shop.actor()
    def parent() -> None:
        child.send()

    with spans.tracer.start_as_current_span("request"):
        send(shop, parent)
    shop.await_all("succeeded", 2)
    of_parent, of_child = spans.await_one("parent process"), spans.await_one("child process")
    assert trace_of(of_child) == trace_of(of_parent)
    assert parent_of(of_child) == id_of(of_parent)


def test_no_span_of_one_task_is_current_in_the_next(shop: Workshop, spans: Spans) -> None:
    current = []

    @shop.actor()
    def look() -> None:
        current.append(trace.get_current_span().get_span_context().trace_id)

    with spans.tracer.start_as_current_span("request") as request:
        traced = [send(shop, look) for _ in range(8)]
    apart = [send(shop, look) for _ in range(8)]
    shop.await_all("succeeded", len(traced + apart))
    spans.await_named("look process", 16)
    ours = request.get_span_context().trace_id
    assert current.count(ours) == 8
    assert len(set(current)) == 9, "one that belongs to no trace begins one of its own"


def test_options_of_the_callers_own_win(shop: Workshop, spans: Spans) -> None:
    @shop.actor()
    def greet() -> None: ...

    mine = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with spans.tracer.start_as_current_span("request"):
        id = send(shop, greet, traceparent=mine)
    shop.await_state(id, "succeeded")
    assert trace_of(spans.await_one("greet process")) == "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize("broken", ["", "x", 7, None, ["00"], "00-" + "0" * 32 + "-" + "1" * 16 + "-01"])
def test_a_traceparent_that_is_none_harms_no_task(shop: Workshop, spans: Spans, broken: Any) -> None:
    @shop.actor()
    def greet() -> None: ...

    id = send(shop, greet, traceparent=broken, tracestate=5)
    shop.await_state(id, "succeeded")
    spans.await_one("greet process")
    assert spans.named("outbox publish") == []


def test_who_is_not_sampled_is_not_traced_further_on(shop: Workshop, spans: Spans) -> None:
    @shop.actor()
    def greet() -> None: ...

    spans.provider.sampler, kept = ALWAYS_OFF, spans.provider.sampler
    with spans.provider.get_tracer("off").start_as_current_span("request"):
        id = send(shop, greet)
    spans.provider.sampler = kept
    shop.await_state(id, "succeeded")
    assert spans.exporter.get_finished_spans() == ()
    (options,) = shop.db.execute("select options from outbox.history").fetchone() or ()
    assert int(options["traceparent"][-2:], 16) & 1 == 0


def test_without_a_provider_nothing_is_carried(shop: Workshop) -> None:
    @shop.actor()
    def greet() -> None: ...

    id = send(shop, greet)
    shop.await_state(id, "succeeded")
    assert shop.db.execute("select options::text from outbox.history").fetchone() == ("{}",)


def test_a_tracer_that_breaks_harms_no_task(
    shop: Workshop, spans: Spans, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @shop.actor()
    def greet() -> None: ...

    def breaks(*_: Any, **__: Any) -> None:
        raise RuntimeError("a processor that breaks")

    with spans.tracer.start_as_current_span("request"):
        id = send(shop, greet)
        monkeypatch.setattr(tracing, "_messaging", breaks)
    with caplog.at_level(logging.WARNING):
        shop.await_state(id, "succeeded")
    assert shop.fate(id).failures == 0
