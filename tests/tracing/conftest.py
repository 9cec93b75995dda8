"""Spans kept in memory: OpenTelemetry's own SDK, with a provider of the test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from span_eyes import Spans
from workshop import make_workshop, open_workshop, shop, vhost_url

__all__ = ["make_workshop", "open_workshop", "shop", "vhost_url"]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """What is traced while the test runs; before and afterwards nothing is."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield Spans(exporter, provider)
    provider.shutdown()
