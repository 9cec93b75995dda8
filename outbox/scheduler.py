"""The scheduler process: looks which schedules are due and has them fired. Any number of schedulers may run.

It keeps nothing of its own: a scheduler that dies, or loses the database, loses no fire, and one that starts takes
up where `fired_through` says.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

import psycopg
from prometheus_client import Counter, Histogram

from outbox import cron, database, logs
from outbox.calendar import calendar_of
from outbox.cron import Fired, Schedule, State
from outbox.database import PROMPT
from outbox.health import Health
from outbox.lease import Lease
from outbox.ledger import Conn, Ledger
from outbox.logs import get_logger
from outbox.settings import Settings
from outbox.signals import StopSignal
from outbox.wake import CHANNEL

__all__ = ["Scheduler", "main", "serve"]

FIRES = Counter("outbox_fires", "Cron fires by outcome.", ["outcome"])
FIRE_LATE = Histogram(
    "outbox_fire_late_seconds",
    "From a fire's time to its task.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 3600, 86400),
)
_LOOK, _RENEW, _PRUNE, _AFTER_FAILURE = 1.0, 60.0, 3600.0, 30.0

log = get_logger("outbox.scheduler")


class Scheduler:
    """The schedules of one application, fired as they are due, in a thread; and its heartbeat beside it.

    A fire comes at its second, by the database's clock. Without the database it waits and tries again, for ever.
    """

    def __init__(
        self,
        schedules: Iterable[Schedule],
        ledger: Ledger,
        conninfo: str,
        *,
        lease: timedelta = timedelta(seconds=10),
        pooled: bool = False,
    ) -> None:
        self._declared = {schedule.name: schedule for schedule in schedules}
        self._ledger = ledger
        self._conninfo = conninfo
        self._pooled = pooled
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="outbox-scheduler", daemon=True)
        self._lease = Lease(
            ledger, lambda: self._connect("scheduler lease", within=max(lease, PROMPT)), kind="scheduler", lease=lease
        )
        self._next_fires: dict[str, tuple[tuple[str, str, datetime], datetime | None]] = {}
        self._put_off: dict[str, float] = {}
        self._renew_at = self._prune_at = 0.0
        self._serving = False

    def start(self) -> None:
        self._lease.start()
        self._thread.start()

    def stop(self) -> None:
        """End between two transactions, and leave in order."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._lease.stop()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def ready(self) -> bool:
        """Whether the schedules are declared and the database answers."""
        return self._serving and self._lease.valid

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        pause, new = 0.2, True
        while not self._stopping.is_set():
            try:
                with self._connect("scheduler") as conn:
                    if new:
                        self._declare(conn, self._declared)
                        new = False
                    while not self._stopping.is_set():
                        rest = self._tick(conn)
                        self._serving, pause = True, 0.2
                        self._stopping.wait(rest)
            except Exception as error:
                if isinstance(error, psycopg.Error):
                    log.warning("the database does not answer; no fire is lost", error=str(error).strip())
                else:
                    log.exception("scheduler failed; it begins again")
                self._serving = False
                self._stopping.wait(pause)
                pause = min(pause * 2, 5.0)

    def _connect(self, name: str, **options: Any) -> Conn:
        return database.connect(
            self._conninfo, name=name, idle_in_transaction=timedelta(seconds=15), pooled=self._pooled, **options
        )

    def _declare(self, conn: Conn, names: Iterable[str]) -> None:
        for name in names:
            with conn.transaction():
                fired = cron.declare(conn, self._ledger, self._declared[name])
            self._note(conn, name, fired)
            log.info("schedule declared", schedule=name, cron=self._declared[name].cron, zone=self._declared[name].zone)

    def _tick(self, conn: Conn) -> float:
        """Fire what is due. Answers the seconds until it is worth looking again."""
        found = cron.states(conn, self._ledger, self._declared)
        began = time.monotonic()
        self._declare(conn, [n for n in self._declared if n not in found or found[n].retired])
        wait = _LOOK
        for name, state in found.items():
            if self._stopping.is_set():
                return 0
            if state.paused or state.retired or self._put_off.get(name, 0) > began:
                continue
            wait = min(wait, self._attend(conn, state))
        self._tidy(conn)
        return max(0.01, wait - (time.monotonic() - began))

    def _attend(self, conn: Conn, state: State) -> float:
        """Fire a schedule if it is due; one that cannot be is put off, and holds up no other."""
        try:
            rest = self._until_due(state)
            if rest > 0:
                return rest
            with conn.transaction():
                fired = cron.fire_due(conn, self._ledger, state.name)
            self._note(conn, state.name, fired)
        except Exception:
            if conn.closed:
                raise
            log.exception("schedule put off", schedule=state.name, cron=state.cron, zone=state.zone)
            self._put_off[state.name] = time.monotonic() + _AFTER_FAILURE
            return _LOOK
        return 0.1

    def _until_due(self, state: State) -> float:
        if state.fired_through - state.now > cron.GRACE:
            return 0
        known = (state.cron, state.zone, state.fired_through)
        if self._next_fires.get(state.name, (None,))[0] != known:
            fires = calendar_of(state.cron, state.zone).after(state.fired_through)
            self._next_fires[state.name] = known, next(fires, None)
        fire = self._next_fires[state.name][1]
        return (fire - state.now).total_seconds() if fire else _LOOK

    def _note(self, conn: Conn, name: str, fired: Fired) -> None:
        """After the commit: counted, logged, and the relay is woken."""
        for late in fired.late:
            FIRE_LATE.observe(late.total_seconds())
        FIRES.labels("fired").inc(len(fired.late))
        FIRES.labels("missed").inc(fired.missed)
        if fired.missed:
            log.warning("fires were missed", schedule=name, missed=fired.missed, fired=len(fired.late))
        if fired.late:
            log.info("fired", schedule=name, tasks=len(fired.late), late=round(fired.late[-1].total_seconds(), 3))
            conn.execute(f"notify {CHANNEL}")

    def _tidy(self, conn: Conn) -> None:
        now = time.monotonic()
        if now >= self._renew_at:
            self._renew_at = now + _RENEW
            retired = cron.retire(conn, self._ledger, self._declared)
            if retired:
                log.info("schedules retired: nobody declares them", schedules=retired)
        if now >= self._prune_at:
            pruned = cron.prune(conn, self._ledger)
            self._prune_at = now + (_LOOK if pruned else _PRUNE)


def main(settings: Settings) -> int:
    """Run a scheduler of the application that the settings name. Answers the process's exit code."""
    from outbox.app import load

    logs.configure(settings.log_format, settings.log_level)
    actors = load(settings.app).actors.values()
    schedules = [schedule for schedule in map(cron.schedule_of, actors) if schedule]
    if not schedules:
        log.warning("no actor declares a schedule", app=settings.app)
    ledger = Ledger(settings.schema_name)
    return serve(
        Scheduler(schedules, ledger, settings.conninfo, lease=settings.lease, pooled=settings.pooled), settings
    )


def serve(scheduler: Scheduler, settings: Settings) -> int:
    """Run until SIGTERM or SIGINT: then 0, within two seconds, even when the database hangs. 1 when it broke down."""
    stop = StopSignal()
    health = Health(
        settings.health_host, settings.health_port, live=lambda: scheduler.alive, ready=lambda: scheduler.ready
    )
    health.start()
    scheduler.start()
    log.info("scheduler started")
    stopped = False
    while not stopped and scheduler.alive:
        stopped = stop.wait(timeout=0.5)
    _within(timedelta(seconds=0.7), scheduler.stop)
    health.stop()
    log.info("scheduler stopped")
    return 0 if stopped else 1


def _within(limit: timedelta, act: Callable[[], None]) -> None:
    thread = threading.Thread(target=act, name="outbox-stop", daemon=True)
    thread.start()
    thread.join(timeout=limit.total_seconds())
