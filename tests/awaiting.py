"""Waiting for a fact instead of for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["await_that"]

T = TypeVar("T")


def await_that(condition: Callable[[], T], *, timeout: float = 15.0, pace: float = 0.02) -> T:
    """What `condition` answers, as soon as that is true. AssertionError, naming it and its last answer, after `timeout` seconds."""
    until = time.monotonic() + timeout
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > until:
            where = f"{condition.__code__.co_filename.rsplit('/', 1)[-1]}:{condition.__code__.co_firstlineno}"
            raise AssertionError(f"{condition.__qualname__} ({where}) not true after {timeout:g} s: {answer!r}")
        time.sleep(pace)
