"""Waiting for what must come true, instead of sleeping for as long as it might take."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")

SOON = timedelta(seconds=20)


def await_that(
    condition: Callable[[], T], timeout: timedelta = SOON, *, pace: timedelta = timedelta(milliseconds=10)
) -> T:
    """What `condition` answers as soon as that is true in the sense of `if`; AssertionError when time is up."""
    began = time.monotonic()
    while not (answer := condition()):
        if time.monotonic() - began > timeout.total_seconds():
            raise AssertionError(f"not within {timeout}: {getattr(condition, '__qualname__', condition)}")
        time.sleep(pace.total_seconds())
    return answer
