"""Waiting for a condition, within a limit, with the processes' last words when it does not come."""

from __future__ import annotations

import time
from collections.abc import Callable

from bench.ground import Field


def until(condition: Callable[[], bool], what: str, *, here: Field, seconds: float = 120.0, every: float = 0.1) -> None:
    """Returns once the condition holds. RuntimeError when it does not in time, or a process of the round ended."""
    deadline = time.monotonic() + seconds
    while not condition():
        ended = [each.name for each in here.children if not each.running and each.exit_code]
        if ended:
            raise RuntimeError(f"{', '.join(ended)} ended while waiting until {what}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"not in {seconds:.0f} s: {what}")
        time.sleep(every)
