"""What the supervisor, the demo and the tests ask of a server, whether it is ours or was given to us."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from deploy.local.child import Child, write_atomically


class ServerFailed(Exception):
    """A server did not come up; the message ends with the last lines of its log."""


class Server(Protocol):
    @property
    def url(self) -> str: ...

    @property
    def running(self) -> bool: ...

    def launch(self) -> None:
        """Starts it without waiting."""

    def ready(self) -> bool:
        """Whether it answers a client now."""

    def start(self) -> None:
        """Starts it and waits until it is ready."""

    def stop(self) -> None:
        """Ends it in order; its data stays."""


@dataclass(frozen=True)
class GivenServer:
    """Somebody else's server, named by `DATABASE_URL` or `RABBITMQ_URL`: used, never started, never stopped."""

    url: str
    running: bool = True

    def launch(self) -> None: ...

    def ready(self) -> bool:
        return True

    def start(self) -> None: ...

    def stop(self) -> None: ...


def await_ready(child: Child, ready: Callable[[], bool], relaunch: Callable[[], None], *, within: timedelta) -> None:
    """Returns when `ready()`. A server that ends meanwhile is launched again: the shared memory or the port of
    one that was just killed may still be in use. ServerFailed when time is up."""
    deadline = time.monotonic() + within.total_seconds()
    while not ready():
        if time.monotonic() > deadline:
            raise ServerFailed(
                f"{child.name} is not ready after {within}; {child.log} ends with:\n{child.last_words()}"
            )
        if not child.running:
            time.sleep(0.3)
            relaunch()
        time.sleep(0.05)


def remember(path: Path, facts: dict[str, Any]) -> None:
    """Writes what a server must find again at its next start: ports, names, its password."""
    write_atomically(path, json.dumps(facts, indent=1) + "\n", mode=0o600)


def remembered(path: Path) -> dict[str, Any] | None:
    """What `remember` wrote; None when it is missing or broken."""
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None
