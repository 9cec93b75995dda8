"""The clocks that a campaign steps are those that our processes look at."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.campaign.clock import Clock

LOOK = """
import datetime, sys, time
for _ in sys.stdin:
    print(time.time(), datetime.datetime.now(datetime.UTC).timestamp(), time.time_ns() / 1e9, time.monotonic(), flush=True)
"""
HOUR = timedelta(hours=1)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    clock = Clock(tmp_path)
    if not clock.environment:
        pytest.skip("no C compiler (`cc`) is installed")
    return clock


@pytest.fixture
def watcher(clock: Clock) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", LOOK], env=os.environ | clock.environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        yield process
        process.kill()


@pytest.mark.parametrize("step", [HOUR, -HOUR, timedelta(0)], ids=["forth", "back", "not at all"])
def test_a_step_moves_every_wall_clock_of_a_running_process_and_not_its_monotonic_one(
    clock: Clock, watcher: subprocess.Popen[str], step: timedelta
) -> None:
    assert _ahead(watcher) == pytest.approx([0, 0, 0, 0], abs=60)
    clock.step_to(step)
    seconds = step.total_seconds()
    assert _ahead(watcher) == pytest.approx([seconds, seconds, seconds, 0], abs=60)


def _ahead(watcher: subprocess.Popen[str]) -> list[float]:
    assert watcher.stdin is not None
    assert watcher.stdout is not None
    watcher.stdin.write("\n")
    watcher.stdin.flush()
    *walls, monotonic = map(float, watcher.stdout.readline().split())
    return [*(wall - time.time() for wall in walls), monotonic - time.monotonic()]
