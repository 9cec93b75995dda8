"""What the supervisor does about a death, an unborn restart and a deleted directory."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from awaiting import await_that

from deploy.local.child import Child, Command
from deploy.local.keeper import Keeper, Launchable


class Sleeper:
    """Sleeps for so many seconds; counts how often it was launched."""

    def __init__(self, directory: Path, seconds: str) -> None:
        self.child = Child("sleeper", pids=directory, logs=directory)
        self.launches = 0
        self._command = Command(["sleep", seconds], dict(os.environ))

    @property
    def running(self) -> bool:
        return self.child.running

    def launch(self) -> None:
        self.launches += 1
        self.child.spawn(self._command)

    def kill(self) -> None:
        self.child.kill()


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Sleeper]:
    sleeper = Sleeper(tmp_path, "60")
    yield sleeper
    sleeper.child.stop(within=timedelta())


def test_what_was_killed_runs_again_soon(sleeper: Sleeper) -> None:
    told: list[str] = []
    keeper = Keeper("kept", sleeper, tell=told.append)
    keeper.launch()
    first = sleeper.child.pid
    assert first
    os.kill(first, signal.SIGKILL)
    _tend_until(keeper, lambda: sleeper.launches == 2 and sleeper.running)
    assert [float(line.split()[-2]) < 1 for line in told] == [True]
    assert int(sleeper.child.pid_file.read_text()) == sleeper.child.pid != first


def test_what_dies_at_once_starts_again_later_each_time(tmp_path: Path) -> None:
    told: list[str] = []
    keeper = Keeper("short", Sleeper(tmp_path, "0"), tell=told.append, first_pause=timedelta(seconds=0.01))
    keeper.launch()
    _tend_until(keeper, lambda: keeper.restarts == 5)
    pauses = [float(line.split()[-2]) for line in told]
    assert pauses == sorted(pauses)
    assert pauses[-1] > pauses[0]


def test_a_start_that_fails_is_tried_again(sleeper: Sleeper) -> None:
    class Refusing(Sleeper):
        def launch(self) -> None:
            if self.launches:
                self.launches += 1
                raise FileNotFoundError("somebody deleted the directory")
            super().launch()

    told: list[str] = []
    refusing = Refusing(sleeper.child.pid_file.parent, "0")
    keeper = Keeper("refusing", refusing, tell=told.append, first_pause=timedelta(0))
    keeper.launch()
    _tend_until(keeper, lambda: refusing.launches == 2)
    assert any("somebody deleted the directory" in line for line in told)
    assert not refusing.running


def test_what_cannot_recover_is_killed_and_started_afresh(sleeper: Sleeper) -> None:
    keeper = Keeper("doomed", sleeper, tell=print, is_beyond_help=lambda: sleeper.launches == 1)
    keeper.launch()
    _tend_until(keeper, lambda: sleeper.launches == 2 and sleeper.running)


def test_what_was_released_stays_dead(sleeper: Sleeper) -> None:
    keeper = _keeper(sleeper)
    keeper.launch()
    keeper.release()
    sleeper.kill()
    for _ in range(3):
        keeper.tend()
    assert sleeper.launches == 1


def _keeper(kept: Launchable) -> Keeper:
    return Keeper("kept", kept, tell=print)


def _tend_until(keeper: Keeper, reached: Callable[[], bool]) -> None:
    def reached_by_tending() -> bool:
        keeper.tend()
        return reached()

    await_that(reached_by_tending, timedelta(seconds=40))
