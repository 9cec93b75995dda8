"""The keeper: what must happen in time although nobody asks for it. Due tasks, lanes, expiry, rescue, losses, partitions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import psycopg

from outbox import database
from outbox.database import ANSWER, QUICK, PromptConnection
from outbox.ledger import Conn, Ledger
from outbox.logs import get_logger
from outbox.registry import Registry
from outbox.relay_metrics import LOST, RESCUED
from outbox.settings import Settings

__all__ = ["Keeper", "Watch"]

log = get_logger("outbox.keeper")


class Watch:
    """Whose heartbeat stood still. A counter and this observer's monotonic clock; no two clocks are compared (I10).

    A process is dead when its counter did not move for its whole lease while we could read it: a gap between two
    reads longer than a third of the lease proves nothing, so after one everybody's time starts again.
    """

    def __init__(self) -> None:
        self._seen: dict[UUID, tuple[int, float]] = {}
        self._read_at: float | None = None

    def dead(self, beats: list[tuple[UUID, int, float]], *, now: float) -> list[tuple[UUID, int]]:
        """(process, beat) of those that stood still, given what was just read."""
        gap = now - self._read_at if self._read_at is not None else 0.0
        self._read_at = now
        found = []
        seen: dict[UUID, tuple[int, float]] = {}
        for process, beat, lease in beats:
            before, since = self._seen.get(process, (None, now))
            if before != beat or gap > lease / 3:
                since = now
            elif now - since > lease:
                found.append((process, beat))
            seen[process] = (beat, since)
        self._seen = seen
        return found


class Keeper:
    """One thread. Each duty is safe to do in any number of relays at once, and at any moment to be cut short."""

    def __init__(self, settings: Settings, ledger: Ledger, registry: Registry, *, wake: threading.Event) -> None:
        self._settings = settings
        self._ledger = ledger
        self._registry = registry
        self._wake = wake
        self._watch = Watch()
        self._epochs: dict[str, int] = {}
        self._look_often_until = self._look_again_at = 0.0
        self._swept = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="outbox-keeper", daemon=True)
        seconds = timedelta(seconds=1)
        self._duties: list[tuple[str, timedelta, Callable[[Conn], None]]] = [
            ("promote", seconds / 5, self._promote),
            ("rescue", min(seconds, settings.lease / 5), self._rescue),
            ("lanes", seconds / 5, self._lanes),
            ("expire", seconds, self._expire),
            ("older epochs", seconds, self._older_epochs),
            ("unlisted", seconds * 2, self._unlisted),
            ("overtaken", seconds * 10, self._overtaken),
            ("partitions", seconds * 600, self._partitions),
        ]
        self._next = {name: 0.0 for name, _, _ in self._duties}

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=5)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def _keep(self) -> None:
        conn: PromptConnection | None = None
        within = QUICK
        while not self._stopping.is_set():
            try:
                conn = conn or database.connect(
                    self._settings.conninfo,
                    name="relay keeper",
                    idle_in_transaction=self._settings.lease,
                    pooled=self._settings.pooled,
                )
                conn.within = within
                self._do_what_is_due(conn)
                within = QUICK
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                within = ANSWER
                log.warning("keeper waits for the database", error=str(error).strip())
                _close(conn)
                conn = None
                self._stopping.wait(0.5)
            self._stopping.wait(0.1)
        _close(conn)

    def _do_what_is_due(self, conn: Conn) -> None:
        """Each duty at its own pace, and never for more than a fifth of the time."""
        for name, pace, duty in self._duties:
            began = time.monotonic()
            if began >= self._next[name]:
                try:
                    duty(conn)
                except (psycopg.OperationalError, psycopg.InterfaceError):
                    if conn.closed:
                        raise
                    log.warning("duty put off", duty=name, exc_info=True)
                except Exception:
                    log.exception("duty failed", duty=name)
                ended = time.monotonic()
                self._next[name] = ended + max(pace.total_seconds(), 4 * (ended - began))

    def _promote(self, conn: Conn) -> None:
        with conn.transaction():
            count, lanes = self._ledger.promote_due(conn)
            self._ledger.grant(conn, lanes)
        if count:
            self._wake.set()

    def _lanes(self, conn: Conn) -> None:
        """All lanes where somebody waits, or as many as a quarter of a second allows; the next time goes on there."""
        began = time.monotonic()
        while time.monotonic() - began < 0.25:
            with conn.transaction():
                granted, self._swept = self._ledger.sweep_lanes(conn, after=self._swept)
            if granted:
                self._wake.set()
            if not self._swept:
                return

    def _expire(self, conn: Conn) -> None:
        with conn.transaction():
            self._ledger.grant(conn, sorted(set(self._ledger.expire(conn))))

    def _rescue(self, conn: Conn) -> None:
        for process, beat in self._watch.dead(self._ledger.beats(conn), now=time.monotonic()):
            rescued = self._rescue_one(conn, process, beat)
            if rescued is not None:
                log.warning("a process died; its tasks are due again", process=str(process), tasks=len(rescued))
                for _, became in rescued:
                    RESCUED.labels(became).inc()
                self._wake.set()

    def _rescue_one(self, conn: Conn, process: UUID, beat: int) -> list[tuple[UUID, str]] | None:
        """One that cannot be rescued now does not keep the others waiting."""
        try:
            with conn.transaction():
                conn.execute("set local lock_timeout = '2s'")
                return self._ledger.rescue(conn, worker=process, beat=beat, max_crashes=self._settings.max_crashes)
        except psycopg.Error as error:
            if conn.closed:
                raise
            log.warning("rescue put off", process=str(process), error=str(error).strip())
            return None

    def _unlisted(self, conn: Conn) -> None:
        found = self._ledger.rescue_unlisted(conn)
        if found:
            log.warning("running tasks that no worker knows are due again", tasks=[str(i) for i in found[:20]])
            RESCUED.labels("unlisted").inc(len(found))
            self._wake.set()

    def _older_epochs(self, conn: Conn) -> None:
        """Looks through all published rows: often only while an epoch is young, when late marks may still name the old one."""
        epochs, _ = self._registry.snapshot()
        if epochs != self._epochs:
            self._epochs, self._look_often_until = epochs, time.monotonic() + 10
        if time.monotonic() < self._look_often_until or time.monotonic() >= self._look_again_at:
            self._look_again_at = time.monotonic() + 15
            self._count_lost(self._ledger.republish_older_epochs(conn), "epoch")

    def _overtaken(self, conn: Conn) -> None:
        self._count_lost(self._ledger.republish_overtaken(conn, margin=self._settings.lease * 3), "overtaken")

    def _count_lost(self, lost: int, how: str) -> None:
        if lost:
            log.warning("the broker lost messages; they are published again", tasks=lost, how=how)
            LOST.labels(how).inc(lost)
            self._wake.set()

    def _partitions(self, conn: Conn) -> None:
        with conn.transaction():
            conn.execute("set local lock_timeout = '2s'")
            made = self._ledger.keep_partitions(conn)
        if made:
            log.info("history partitions made", days=made)


def _close(conn: Conn | None) -> None:
    if conn is not None:
        conn.close()
