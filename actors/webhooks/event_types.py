"""Names of events, and the patterns by which endpoints subscribe to them."""

import re
from collections.abc import Sequence

MAX_LENGTH = 128
MAX_PATTERNS = 100

_NAME = re.compile(r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*")


class EventTypeRefused(ValueError):
    """Not a name of events or not a pattern for them. The text never repeats the input."""


def check_name(event_type: str) -> str:
    """An event type: words of letters, digits and `_`, joined by full stops, such as `order.placed`."""
    if len(event_type) > MAX_LENGTH or not _NAME.fullmatch(event_type):
        raise EventTypeRefused("an event type consists of letters, digits and '_', in words joined by '.'")
    return event_type


def check_patterns(patterns: Sequence[str]) -> list[str]:
    """What an endpoint subscribes to: event types, `order.*` for all that begin with `order.`, or `*` for all."""
    if not 1 <= len(patterns) <= MAX_PATTERNS:
        raise EventTypeRefused(f"1 to {MAX_PATTERNS} event types")
    for pattern in patterns:
        if pattern != "*":
            check_name(pattern.removesuffix(".*"))
    return list(dict.fromkeys(patterns))


def matching_patterns(event_type: str) -> list[str]:
    """Every pattern that an event of this type fits."""
    words = event_type.split(".")
    return ["*", event_type, *(".".join(words[:n]) + ".*" for n in range(1, len(words)))]
