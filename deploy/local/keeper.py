"""Keeps one thing alive, as an orchestrator would: what died starts again, later each time it dies young."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

FIRST_PAUSE = timedelta(seconds=0.3)
LONGEST_PAUSE = timedelta(seconds=4)
YOUNG = timedelta(seconds=3)

Tell = Callable[[str], None]


class Launchable(Protocol):
    @property
    def running(self) -> bool: ...

    def launch(self) -> None: ...

    def kill(self) -> None: ...


class Keeper:
    """Tended often by the supervisor; between two calls nothing happens."""

    def __init__(
        self,
        name: str,
        kept: Launchable,
        *,
        tell: Tell,
        first_pause: timedelta = FIRST_PAUSE,
        is_beyond_help: Callable[[], bool] = lambda: False,
    ) -> None:
        self.name = name
        self.kept = kept
        self.restarts = 0
        self._tell = tell
        self._first_pause = first_pause
        self._is_beyond_help = is_beyond_help
        self._launched = 0.0
        self._due: float | None = None
        self._young_deaths = 0
        self._wanted = False

    def launch(self) -> None:
        """From now on it is kept alive."""
        self._wanted = True
        self._launched = time.monotonic()
        self._due = None
        self.kept.launch()

    def release(self) -> None:
        """From now on it may end."""
        self._wanted = False

    def tend(self) -> None:
        """One look: kills what runs and cannot recover, notices a death, launches what is due."""
        if not self._wanted:
            return
        if self.kept.running and self._is_beyond_help():
            self._tell(f"{self.name} lost its directory: killed")
            self.kept.kill()
        if self.kept.running:
            return
        if self._due is None:
            self._due = time.monotonic() + self._pause().total_seconds()
        elif time.monotonic() >= self._due:
            self._launch_again()

    def _pause(self) -> timedelta:
        lived = timedelta(seconds=time.monotonic() - self._launched)
        self._young_deaths = min(self._young_deaths + 1, 10) if lived < YOUNG else 0
        pause = min(self._first_pause * (1 << self._young_deaths), LONGEST_PAUSE)
        self._tell(f"{self.name} died; starts again in {pause.total_seconds():.1f} s")
        return pause

    def _launch_again(self) -> None:
        self.restarts += 1
        try:
            self.launch()
        except Exception as error:  # a directory deleted under our feet, say: the next look tries again
            self._tell(f"{self.name} does not start: {error}")
            self._due = time.monotonic() + LONGEST_PAUSE.total_seconds()
