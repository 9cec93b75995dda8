"""Structured logs: one event a line on stderr, for people or as JSON; the standard library's loggers join in."""

from __future__ import annotations

import io
import logging
import re
import sys
from typing import Any, Literal

import structlog

from outbox.run import _current
from outbox.tracing import current_trace_id

__all__ = ["configure", "get_logger"]


def _of_the_task(_logger: Any, _method: str, event: Any) -> Any:
    """A line that is written while a task runs says which, whoever writes it; and of which trace."""
    if (run := _current.get()) is not None:
        event.setdefault("task_id", str(run.task_id))
    if (trace_id := current_trace_id()) is not None:
        event.setdefault("trace_id", trace_id)
    return event


_SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    _of_the_task,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
]


def get_logger(name: str) -> Any:
    """A structlog logger over the standard library: silent until the application configures logging."""
    return structlog.wrap_logger(
        logging.getLogger(name),
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            _hand_over,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        context_class=dict,
        cache_logger_on_first_use=True,
    )


#: A task's own text must not steer the terminal that shows the log, nor look like a line of its own.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_configured = False
_as_text = structlog.processors.KeyValueRenderer(key_order=["event"], drop_missing=True)


def _hand_over(logger: Any, method: str, event: Any) -> Any:
    """To our formatter where `configure` set it up; as one line of text to anybody else's."""
    if _configured:
        return structlog.stdlib.ProcessorFormatter.wrap_for_formatter(logger, method, event)
    text = event.pop("event")
    for known in ("level", "logger", "timestamp"):
        event.pop(known, None)
    return f"{text} {_as_text(logger, method, event)}" if event else text


def _unsteered(_logger: Any, _method: str, event: Any) -> Any:
    """For people's eyes: JSON escapes by itself, the console does not. Lists and mappings are shown by their repr."""
    return {name: _plain(value) if isinstance(value, str) else value for name, value in event.items()}


def _plain(text: str) -> str:
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _plain_traceback(out: Any, error: Any) -> None:
    """The pretty ones print local variables, secrets too. Lines stay lines."""
    text = io.StringIO()
    structlog.dev.plain_traceback(text, error)
    out.write("\n".join(map(_plain, text.getvalue().split("\n"))))


def configure(style: Literal["console", "json"], level: str = "INFO") -> None:
    """Send every log line of the process to stderr in one style. For entry points only."""
    global _configured
    _configured = True
    last: Any = (
        structlog.processors.JSONRenderer()
        if style == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            exception_formatter=_plain_traceback,
        )
    )
    before: list[Any] = [structlog.processors.format_exc_info] if style == "json" else [_unsteered]
    out = logging.StreamHandler(sys.stderr)
    out.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *before, last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [out]
    root.setLevel(level.upper())
    logging.getLogger("pika").setLevel(logging.ERROR)
