"""What was traced, as a test asks for it."""

from __future__ import annotations

from dataclasses import dataclass

from awaiting import await_that
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Tracer

__all__ = ["Spans", "id_of", "parent_of", "trace_of"]


@dataclass(frozen=True)
class Spans:
    exporter: InMemorySpanExporter
    provider: TracerProvider

    @property
    def tracer(self) -> Tracer:
        return self.provider.get_tracer("test")

    def named(self, name: str) -> list[ReadableSpan]:
        """Ended spans of this name, in the order of their beginning."""
        found = [span for span in self.exporter.get_finished_spans() if span.name == name]
        return sorted(found, key=lambda span: span.start_time or 0)

    def await_named(self, name: str, count: int = 1) -> list[ReadableSpan]:
        """These, once there are so many: a span may end after what it tells of can be seen."""
        return await_that(lambda: found if len(found := self.named(name)) >= count else [])

    def await_one(self, name: str) -> ReadableSpan:
        (found,) = self.await_named(name)
        return found


def id_of(span: ReadableSpan) -> int:
    return span.get_span_context().span_id


def trace_of(span: ReadableSpan) -> str:
    return f"{span.get_span_context().trace_id:032x}"


def parent_of(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None
