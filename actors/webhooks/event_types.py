"""Names of events, and the patterns by which endpoints subscribe to them."""

import re
from collections.abc import Sequence

MAX_LENGTH = 128
MAX_PATTERNS = 100
#: Events of this service itself: nobody else publishes them, and `*` does not ask for them.
OURS = "webhook."

_NAME = re.compile(r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*")


class EventTypeRefused(ValueError):
    """Not a name of events or not a pattern for them. The text never repeats the input."""


def check_name(event_type: str) -> str:
    """An event type: words of letters, digits and `_`, joined by full stops, such as `order.placed`."""
    if len(event_type) > MAX_LENGTH or not _NAME.fullmatch(event_type):
        raise EventTypeRefused("an event type consists of letters, digits and '_', in words joined by '.'")
    return event_type


def check_theirs(event_type: str) -> str:
    """As `check_name`, for an event that comes from outside: not one of ours."""
    if check_name(event_type).startswith(OURS):
        raise EventTypeRefused(f"event types that begin with '{OURS}' are reserved for this service; choose another")
    return event_type


def check_patterns(patterns: Sequence[str]) -> list[str]:
    """What an endpoint subscribes to: event types, `order.*` for all that begin with `order.`, or `*` for all but ours."""
    if not 1 <= len(patterns) <= MAX_PATTERNS:
        raise EventTypeRefused(f"1 to {MAX_PATTERNS} event types")
    for pattern in patterns:
        if pattern != "*":
            check_name(pattern.removesuffix(".*"))
    return list(dict.fromkeys(patterns))


def matching_patterns(event_type: str) -> list[str]:
    """Every pattern that an event of this type fits. One of ours tells of other endpoints: it must be asked for by name,
    or as `webhook.*`."""
    words = event_type.split(".")
    prefixes = [".".join(words[:n]) + ".*" for n in range(1, len(words))]
    return [*([] if event_type.startswith(OURS) else ["*"]), event_type, *prefixes]
