"""The chronicle: the thread of a relay that writes the figures of each minute. Nobody waits for it, and nothing depends on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from outbox.figures import MINUTE, Figures
from outbox.ledger import Conn
from outbox.logs import get_logger

__all__ = ["Chronicle"]

log = get_logger("outbox.chronicle")

#: Seconds between two writings; a dear one is repeated after so many times the time that it took.
PACE, REST = 5.0, 49
#: What it catches up with at once after nobody wrote, and how far back it begins when nothing was ever written.
STRETCH, BACK = timedelta(hours=1), timedelta(days=1)
#: An outcome may be committed so long after the instant that it names: minutes that young are made anew.
LATE = timedelta(seconds=75)


class Chronicle:
    """Any number of relays write the same rows. `connect` makes its own connection, in autocommit."""

    def __init__(self, schema: str, connect: Callable[[], Conn]) -> None:
        self._figures = Figures(schema)
        self._connect = connect
        self._through: datetime | None = None
        self._stretch = STRETCH
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._write_on, name="outbox-chronicle", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=1)

    def write(self, conn: Conn) -> bool:
        """One stretch of minutes. Answers whether what ended until now is written."""
        now: datetime = conn.execute("select clock_timestamp()").fetchall()[0][0]
        since = self._through or self._figures.latest(conn) or now - BACK
        since = min(since, now - LATE)
        until = min(since + self._stretch, now + MINUTE)
        self._figures.write(conn, since=since, until=until)
        self._through, self._stretch = min(until, now), STRETCH
        return until > now

    def _write_on(self) -> None:
        conn: Conn | None = None
        while not self._stopping.is_set():
            began, whole = time.monotonic(), True
            try:
                conn = conn or self._connect()
                whole = self.write(conn)
            except Exception as error:
                log.warning("the figures of the last minute were not written", error=str(error).strip() or repr(error))
                if conn is not None:
                    conn.close()
                conn, began = None, time.monotonic()
                self._stretch = max(MINUTE, self._stretch / 2)  # it may have been too much at once
            took = time.monotonic() - began
            self._stopping.wait(max(PACE, REST * took) if whole else took)
        if conn is not None:
            conn.close()
