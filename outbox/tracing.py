"""Traces: one trace id from the request through the task's row, its publishing and each attempt, to what an actor calls.

The row carries the `traceparent` of the span that enqueued it (W3C), and so does its message. Only OpenTelemetry's API is
used, and only where somebody has imported it: without it nothing here does anything. No failure in here is a task's.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from outbox.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

    from outbox.ledger import Due
    from outbox.reads import TaskView
    from outbox.run import Outcome, Run

__all__ = [
    "Attempt", "begin", "call", "carried", "configure", "current_trace_id", "published", "trace_id_of", "trace_url",
]  # fmt: skip

log = logging.getLogger("outbox.tracing")

#: Octets of a tracestate that are carried: W3C asks for no more, and a request from outside may bring any number.
MOST_STATE = 512

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})(?P<trace>[0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
#: The same, sampled, as it stands in a message's body: or in its arguments, so that this alone proves nothing.
_SAMPLED = re.compile(rb'"traceparent": ?"..-[0-9a-f]{32}-[0-9a-f]{16}-.[13579bdf][-"]')
_ASKED_BY = (
    "OTEL_TRACES_EXPORTER",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_CONFIG_FILE",
)

Says = Callable[[Mapping[str, Any], str | None], None]


# ---------------------------------------------------------------------- the task's side


def carried(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options of a task that is enqueued here and now: with the current span's context, if there is one.

    A `traceparent` that the caller has set stays.
    """
    span = _current_span()
    if span is None or "traceparent" in options or not (context := span.get_span_context()).is_valid:
        return options
    own = {"traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"}
    state = context.trace_state.to_header()
    if state and len(state) <= MOST_STATE:
        own["tracestate"] = state
    return {**options, **own}


def trace_id_of(options: Mapping[str, Any]) -> str | None:
    """The trace that these options of a task belong to: 32 hexadecimal digits."""
    said = options.get("traceparent")
    found = _TRACEPARENT.fullmatch(said) if isinstance(said, str) else None
    return found["trace"] if found else None


def trace_url(task: TaskView, template: str | None = None) -> str | None:
    """Where the task's trace is shown: the template (default: OUTBOX_TRACE_URL), with the trace's id. None without both."""
    template = template or _template()
    return template.replace("{trace_id}", task.trace_id) if template and task.trace_id else None


def current_trace_id() -> str | None:
    """The trace of the span that is current here."""
    span = _current_span()
    context = None if span is None else span.get_span_context()
    return f"{context.trace_id:032x}" if context is not None and context.is_valid else None


@lru_cache(maxsize=1)
def _template() -> str | None:
    from outbox.settings import Settings

    return Settings().trace_url


# ---------------------------------------------------------------------- the relay's side


def published(rows: Sequence[Due], *, confirmed: Sequence[str], refused: Sequence[str], took: float) -> None:
    """A span for each task of a batch that belongs to a sampled trace, from its claim to the broker's answer `took` seconds later.

    Without a tracer provider no row is looked at; with one, those that are not sampled only for that.
    """
    tracer = _tracer()
    if tracer is None:
        return
    until = time.time_ns()
    since, answers = until - int(took * 1e9), dict.fromkeys(confirmed, True) | dict.fromkeys(refused, False)
    try:
        for row in rows:
            if row.id in answers and _SAMPLED.search(row.body):
                _note_published(tracer, row, since, until, confirmed=answers[row.id])
    except Exception:
        log.warning("spans of published tasks were not made", exc_info=True)


def _note_published(tracer: Tracer, row: Due, since: int, until: int, *, confirmed: bool) -> None:
    from opentelemetry.trace import SpanKind, StatusCode

    message = json.loads(row.body)
    if trace_id_of(message["options"]) is None:
        return
    attributes = _messaging("send", row.queue, row.id) | {"outbox.actor": message["actor_name"]}
    span = tracer.start_span(
        "outbox publish", _parent_of(message["options"]), SpanKind.PRODUCER, attributes, start_time=since
    )
    if not confirmed:
        span.set_status(StatusCode.ERROR, "the broker refused the message")
    span.end(until)


# ---------------------------------------------------------------------- the worker's side


class Attempt:
    """The span of one attempt, current until it ends."""

    def __init__(self, span: Span) -> None:
        from opentelemetry import context, trace

        self._span = span
        self._before = context.attach(trace.set_span_in_context(span, context.Context()))

    def ends(self, outcome: Outcome | None, error: BaseException | None) -> None:
        """What became of it. A snooze is no error, and neither is what only a database's absence ended."""
        from opentelemetry import context
        from opentelemetry.trace import StatusCode

        context.detach(self._before)
        name = outcome.name if outcome else "unknown"
        self._span.set_attribute("outbox.outcome", name)
        if error is not None and name not in ("succeeded", "snoozed"):
            self._span.record_exception(error)
            self._span.set_attribute("error.type", type(error).__qualname__)
        if outcome is not None and name in ("failed", "dead"):
            self._span.set_status(StatusCode.ERROR, outcome.error)
        self._span.end()


def begin(run: Run) -> Attempt | None:
    """The span of this attempt, below the one that enqueued the task and beside those of other attempts; None untraced.

    A task that belongs to no trace, as one of a schedule, begins one with each attempt.
    """
    tracer = _tracer()
    if tracer is None:
        return None
    from opentelemetry.trace import SpanKind

    message, task_id = run.message, str(run.task_id)
    attributes = _messaging("process", message.queue_name, task_id) | {
        "outbox.task_id": task_id,
        "outbox.actor": message.actor_name,
        "outbox.attempt": run.attempt,
    }
    return Attempt(
        tracer.start_span(f"{message.actor_name} process", _parent_of(message.options), SpanKind.CONSUMER, attributes)
    )


@contextmanager
def call(name: str, attributes: Mapping[str, Any]) -> Iterator[Says]:
    """A span around what an actor asks of another server. What it yields takes what was learned, and an error's kind."""
    tracer = _tracer()
    if tracer is None:
        yield _unheard
        return
    from opentelemetry.trace import SpanKind, StatusCode

    with tracer.start_as_current_span(name, kind=SpanKind.CLIENT, attributes=dict(attributes)) as span:

        def says(learned: Mapping[str, Any], error: str | None) -> None:
            span.set_attributes({key: value for key, value in learned.items() if value is not None})
            if error is not None:
                span.set_attribute("error.type", error)
                span.set_status(StatusCode.ERROR)

        yield says


def _unheard(_learned: Mapping[str, Any], _error: str | None) -> None:
    """Nobody traces."""


def _messaging(operation: str, queue: str, task_id: str) -> dict[str, Any]:
    return {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": queue,
        "messaging.message.id": task_id,
    }


# ---------------------------------------------------------------------- the process's side


def configure(process: str) -> None:
    """Let OpenTelemetry's SDK configure itself by its own variables, if it is installed and one of them asks for traces.

    For entry points only. What was configured before stays; what is kept back is sent when Python ends. Raises
    ConfigurationError for what the SDK does not take.
    """
    if not any(os.environ.get(name) for name in _ASKED_BY) or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    try:
        sdk = import_module("opentelemetry.sdk._configuration")
    except ImportError:
        return
    if _tracer() is not None:
        return
    _set_defaults(process)
    try:
        sdk._OTelSDKConfigurator().configure()
    except Exception as error:
        raise ConfigurationError(
            f"OpenTelemetry cannot be configured: {error}. pip install opentelemetry-exporter-otlp-proto-http, "
            "or unset OTEL_TRACES_EXPORTER and OTEL_EXPORTER_OTLP_ENDPOINT"
        ) from None


def _set_defaults(process: str) -> None:
    """As OpenTelemetry's own distribution does, but over HTTP, as its specification and FastAPI have it."""
    os.environ.setdefault("OTEL_TRACES_EXPORTER", "otlp")
    os.environ.setdefault("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    if "service.name=" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        os.environ.setdefault("OTEL_SERVICE_NAME", f"outbox-{process}")


# ---------------------------------------------------------------------- OpenTelemetry


def _api() -> Any:
    """OpenTelemetry's API, if anybody in this process has imported it: else no span can be current, and no provider set."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry import trace

    return trace


def _current_span() -> Span | None:
    trace = _api()
    return None if trace is None else trace.get_current_span()


def _tracer() -> Tracer | None:
    trace = _api()
    return None if trace is None else _tracer_of(trace.get_tracer_provider())


@lru_cache(maxsize=1)
def _tracer_of(provider: Any) -> Tracer | None:
    """None of a provider that only stands for one that nobody has configured."""
    from opentelemetry.trace import NoOpTracerProvider, ProxyTracerProvider

    idle = isinstance(provider, (NoOpTracerProvider, ProxyTracerProvider))
    tracer: Tracer = provider.get_tracer("outbox")
    return None if idle else tracer


def _parent_of(options: Mapping[str, Any]) -> Context:
    """The context that a task was enqueued in, and no other: what is current here belongs to somebody else."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    said = {name: value for name in ("traceparent", "tracestate") if isinstance(value := options.get(name), str)}
    return TraceContextTextMapPropagator().extract(said, Context())
