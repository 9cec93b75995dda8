"""When a delivery that failed is tried again: steps that grow to a day, and never sooner than its endpoint asked for."""

import random
from collections.abc import Sequence
from datetime import timedelta

#: Ten attempts over about three days: those of Standard Webhooks.
DEFAULT = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
MAX_STEPS = 30
MAX_STEP = timedelta(hours=24)
#: The part of a step by which it may be shorter or longer: what failed together does not come back together.
JITTER = 0.2


def next_wait(
    schedule: Sequence[timedelta], *, failures: int, retry_after: timedelta | None, draw: random.Random
) -> timedelta | None:
    """How long to wait after an attempt that failed, with so many failures before it; None if it was the last.

    What the endpoint asked for can lengthen a step. It never shortens one, and it adds none.
    """
    if failures >= len(schedule):
        return None
    step = schedule[failures] * draw.uniform(1 - JITTER, 1 + JITTER)
    return max(step, retry_after or timedelta())
