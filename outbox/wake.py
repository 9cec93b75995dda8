"""Wake-up: after a commit, from another connection, coalesced. A hint only; the relay's poll is the guarantee."""

from __future__ import annotations

import threading
import time
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from outbox.database import PROMPT, PromptConnection
from outbox.forks import inherited, tell_of_forks
from outbox.logs import get_logger
from outbox.models import Task

__all__ = ["CHANNEL", "Waker", "wake"]

CHANNEL = "outbox"
#: Seconds between two wake-ups under a steady stream, and between those of a burst: what commits meanwhile shares the next one.
PAUSE, SHORTEST = 0.01, 0.001
#: So many may follow each other quickly, as one for each PAUSE was saved up: commits are rarely evenly apart.
BURST = 10
#: A hint need not reach the disk. In one message, and local to it: behind a pooler the session is somebody else's next.
NOTIFY = f"begin; set local synchronous_commit = off; notify {CHANNEL}; commit"
log = get_logger("outbox.wake")


class Waker:
    """One thread, one autocommit connection: however many commits call `wake`, at most one NOTIFY is under way.

    The thread lives only while there is something to say; an idle process keeps neither thread nor connection
    busy. A NOTIFY that fails is said again a second later; until then the poll finds the rows.
    """

    def __init__(self, *connect: Any, **options: Any) -> None:
        self._connect = (connect, options)
        self._begin()
        tell_of_forks(self)

    def _begin(self) -> None:
        self._wanted = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._connection: PromptConnection | None = None

    def after_fork(self) -> None:
        inherited.append(self._connection)
        self._begin()

    def wake(self) -> None:
        """Say that rows were committed. Returns at once."""
        self._wanted.set()
        if self._thread is None or not self._thread.is_alive():
            with self._lock:
                if self._thread is None or not self._thread.is_alive():
                    self._thread = threading.Thread(target=self._speak, name="outbox-wake", daemon=True)
                    self._thread.start()

    def _speak(self) -> None:
        due = 0.0
        while self._wanted.wait(timeout=300):
            self._wanted.clear()
            try:
                if self._connection is None or self._connection.closed:
                    args, options = self._connect
                    self._connection = PromptConnection.connect(
                        *args, autocommit=True, connect_timeout=5, prepare_threshold=None, **options
                    )
                    self._connection.within = PROMPT
                self._connection.execute(NOTIFY)
                now = time.monotonic()
                due = max(due, now) + PAUSE
                time.sleep(max(SHORTEST, due - now - BURST * PAUSE))
            except psycopg.Error as error:
                log.debug("wake-up not sent, for now the poll finds the rows", error=str(error))
                if self._connection is not None:
                    self._connection.close()
                self._connection = None
                time.sleep(1)
                self._wanted.set()
        if self._connection is not None:
            self._connection.close()


_wakers: dict[str, Waker] = {}
#: To write an engine's URL down for every commit would cost more than the rest of a wake-up.
_of_engine: WeakKeyDictionary[Engine, Waker] = WeakKeyDictionary()


def wake(session: Session) -> None:
    """Wake the relay of the database that this session is bound to."""
    engine = session.get_bind(mapper=Task).engine
    waker = _of_engine.get(engine)
    if waker is None:
        waker = _of_engine[engine] = _waker_of(engine)
    waker.wake()


def _waker_of(engine: Engine) -> Waker:
    """One for each database, however many engines an application makes for it."""
    key = engine.url.render_as_string(hide_password=False)
    if key not in _wakers:
        args, options = engine.dialect.create_connect_args(engine.url)
        for ours in ("autocommit", "connect_timeout", "prepare_threshold"):
            options.pop(ours, None)
        _wakers[key] = Waker(*args, **options)
    return _wakers[key]
