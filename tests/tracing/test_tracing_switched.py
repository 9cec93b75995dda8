"""What switches traces on, and what is there without them: nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from awaiting import await_that
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState, use_span
from pydantic import ValidationError
from span_eyes import Spans

from deploy.local.place import ROOT
from outbox import ConfigurationError, Settings, tracing

WITHOUT = "import sys; sys.modules['opentelemetry'] = None; from outbox.cli import main; sys.exit(main())"
WITHOUT_SDK = WITHOUT.replace("'opentelemetry'", "'opentelemetry.sdk'")


@pytest.fixture
def no_variables(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No variable of OpenTelemetry is set, and what is set by the test is gone afterwards."""
    for name in (*tracing._ASKED_BY, "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_SERVICE_NAME", "OTEL_SDK_DISABLED"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.system
@pytest.mark.parametrize("without", [WITHOUT, WITHOUT_SDK], ids=["package", "sdk"])
def test_processes_that_lack_the_package_run_as_ever(
    without: str, database_url: str, amqp_url: str, queue_prefix: str
) -> None:
    ours = {
        "DATABASE_URL": database_url, "RABBITMQ_URL": amqp_url, "OUTBOX_QUEUE_PREFIX": queue_prefix,
        "OUTBOX_APP": "tests.tracing.plain_app", "OTEL_TRACES_EXPORTER": "console", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x",
    }  # fmt: skip
    started = [
        subprocess.Popen([sys.executable, "-c", without, *words], cwd=ROOT, env={**os.environ, **ours})
        for words in (["relay"], ["worker", "--threads", "1"])
    ]
    sends = f"{without.partition('from')[0]} from tests.tracing.plain_app import parent; parent.send()"
    subprocess.run([sys.executable, "-c", sends], cwd=ROOT, env={**os.environ, **ours}, check=True)
    try:
        with psycopg.connect(database_url, autocommit=True) as eyes:
            ended = "select array_agg(actor || ' ' || state order by actor) from outbox.history"
            both = (["child succeeded", "parent succeeded"],)
            await_that(lambda: eyes.execute(ended).fetchone() == both, timedelta(seconds=60))
    finally:
        for process in started:
            process.terminate()
        assert [process.wait(30) for process in started] == [0, 0]


def test_nothing_of_it_is_imported_for_a_task() -> None:
    says = (
        "import sys, dramatiq, outbox.worker, outbox.relay; from outbox.enqueue import task_of; "
        "task_of(dramatiq.Message('q', 'a', (), {}, {})); "
        "print([name for name in sys.modules if name.startswith(('opentelemetry', 'sentry_sdk'))])"
    )
    told = subprocess.run([sys.executable, "-c", says], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


def test_an_exporter_that_is_not_installed_is_told_with_what_mends_it(no_variables: pytest.MonkeyPatch) -> None:
    no_variables.setenv("OTEL_TRACES_EXPORTER", "no_such_exporter")
    with pytest.raises(ConfigurationError, match="pip install opentelemetry-exporter-otlp-proto-http"):
        tracing.configure("worker")
    assert os.environ["OTEL_SERVICE_NAME"] == "outbox-worker"
    assert os.environ["OTEL_EXPORTER_OTLP_PROTOCOL"] == "http/protobuf"
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


@pytest.mark.parametrize(
    "variables",
    [{}, {"OTEL_TRACES_EXPORTER": "no_such_exporter", "OTEL_SDK_DISABLED": "true"}],
    ids=["unset", "disabled"],
)
def test_nobody_is_configured_who_did_not_ask(variables: dict[str, str], no_variables: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        no_variables.setenv(name, value)
    tracing.configure("worker")
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def test_a_provider_that_is_there_stays(spans: Spans, no_variables: pytest.MonkeyPatch) -> None:
    no_variables.setenv("OTEL_TRACES_EXPORTER", "no_such_exporter")
    tracing.configure("worker")
    assert trace.get_tracer_provider() is spans.provider


@pytest.mark.parametrize(("members", "carried"), [(1, True), (32, False)])
def test_a_tracestate_is_carried_unless_it_is_longer_than_anybody_must_take(members: int, carried: bool) -> None:
    state = TraceState([(f"vendor{number}", "v" * 100) for number in range(members)])
    context = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1), trace_state=state)
    with use_span(NonRecordingSpan(context)):
        options = tracing.carried({"a": 1})
    assert options["traceparent"] == f"00-{1:032x}-{2:016x}-01"
    assert ("tracestate" in options) is carried
    assert options["a"] == 1


@pytest.fixture
def template(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("OUTBOX_TRACE_URL", "https://traces.example.com/trace/{trace_id}?from=outbox")
    tracing._template.cache_clear()
    yield "https://traces.example.com/trace/{trace_id}?from=outbox"
    tracing._template.cache_clear()


@pytest.mark.parametrize(
    ("options", "trace_id"),
    [
        ({"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}, "4bf92f3577b34da6a3ce929d0e0e4736"),
        ({"traceparent": "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-new"}, "4bf92f3577b34da6a3ce929d0e0e4736"),
        ({"traceparent": '00-<script>-"'}, None),
        ({"traceparent": ["00"]}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_the_page_of_a_trace_is_made_of_its_id_alone(
    template: str, options: dict[str, Any], trace_id: str | None
) -> None:
    task = _viewed(options)
    assert task.trace_id == trace_id
    assert tracing.trace_url(task) == (trace_id and template.replace("{trace_id}", trace_id))
    assert tracing.trace_url(task, "http://t/{trace_id}") == (trace_id and f"http://t/{trace_id}")


@pytest.mark.parametrize("url", ["https://traces.example.com/", "javascript:alert('{trace_id}')", "{trace_id}"])
def test_a_page_of_traces_without_their_id_or_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="trace_url"):
        Settings(trace_url=url)


def _viewed(options: dict[str, Any]) -> Any:
    from outbox.reads import TaskView

    fields = dict.fromkeys(TaskView.__dataclass_fields__)
    return TaskView(**{**fields, "id": uuid4(), "options": options})
