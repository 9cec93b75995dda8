"""When: as people write it into a form."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from outbox.dashboard.page import Refused
from outbox.times import duration

__all__ = ["moment_of"]


def moment_of(at: str, span: str) -> dict[str, Any]:
    """`run_at` or `delay`, of the two fields of which one is given. Raises Refused, which says what would do."""
    if bool(at) == bool(span):
        raise Refused("Say when: at an instant, or in a while, one of them.")
    try:
        if span:
            return {"delay": duration(span)}
        found = datetime.fromisoformat(at)
    except ValueError:
        raise Refused(
            "Say when as 2026-11-25 09:00, which is UTC, or how long from now, as 90s, 15m, 2h or 1d12h."
        ) from None
    return {"run_at": found if found.tzinfo else found.replace(tzinfo=UTC)}
