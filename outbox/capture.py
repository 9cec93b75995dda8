"""What an actor logs is kept with its attempt, when that did not succeed: the last lines, without secrets.

On the way nothing is formatted: a record is held until its run has ended, and forgotten with it when all went well. An argument that
changes meanwhile is shown as it is in the end.
"""

from __future__ import annotations

import logging
from collections import deque
from datetime import UTC, datetime
from typing import Any

from outbox.redaction import Redaction, usual
from outbox.run import Run, _current

__all__ = ["begin", "told"]

#: Lines that are kept of a run, the newest; characters of one, and bytes of all.
LINES, LONGEST, MOST = 50, 1000, 4096
#: Loggers that tell of runs from outside: what they say stands in the attempt anyway.
OURS = ("outbox.", "dramatiq.")


def begin() -> None:
    """From now on records that reach the root logger are kept with the run that logs them, asynchronous ones too."""
    root = logging.getLogger()
    if any(isinstance(each, _Keeper) for each in root.handlers):
        return
    if not root.handlers and logging.lastResort is not None:
        root.addHandler(logging.lastResort)  # as if there were still no handler: warnings go to stderr
    root.addHandler(_Keeper(logging.INFO))


def told(run: Run) -> str | None:
    """The last lines that this run logged; None without any."""
    lines: list[str] = []
    room = MOST
    for record in reversed(tuple(run.logged or ())):
        line = _line(record, usual())
        room -= len(line.encode(errors="replace")) + 1
        if room < 0:
            break
        lines.append(line)
    return "\n".join(reversed(lines)) or None


class _Keeper(logging.Handler):
    def handle(self, record: logging.LogRecord) -> bool:
        """Without the lock of handlers: nothing is written."""
        run = _current.get()
        if run is not None and run.outcome is None and not record.name.startswith(OURS):
            if run.logged is None:
                run.logged = deque(maxlen=LINES)
            run.logged.append(record)
        return True


def _line(record: logging.LogRecord, rules: Redaction) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return f"{at:%H:%M:%S}.{at.microsecond // 1000:03}Z {record.levelname} {record.name}: {_text(record, rules)}"[
        :LONGEST
    ]


def _text(record: logging.LogRecord, rules: Redaction) -> str:
    try:
        said = _of_event(record.msg, rules) if isinstance(record.msg, dict) else record.getMessage()
        if isinstance(record.exc_info, tuple) and (error := record.exc_info[1]) is not None:
            said = f"{said} ({type(error).__name__}: {error})"
        return rules.text(said[: 4 * LONGEST])
    except Exception as error:
        return f"a line whose text fails with {type(error).__name__}"


def _of_event(event: dict[str, Any], rules: Redaction) -> str:
    """An event of structlog: its words, then its values by name."""
    known = ("event", "level", "logger", "timestamp", "task_id", "trace_id", "exc_info", "stack_info")
    values = rules.value({name: value for name, value in event.items() if name not in known})
    return " ".join([str(event.get("event", "")), *(f"{name}={value!r}" for name, value in values.items())])
