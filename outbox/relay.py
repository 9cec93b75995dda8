"""The relay: claims due rows, publishes them with confirms, marks what was confirmed. Any number of relays may run.

`Lane` is the hot path; `Registry` knows the queues, their epochs and the room in the broker; `Keeper` (in
`outbox/keeper.py`) promotes, grants, rescues and finds what the broker lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import psycopg
from prometheus_client import REGISTRY

from outbox import database, logs, tracing
from outbox.carrier import Carrier
from outbox.census import Census
from outbox.chronicle import Chronicle
from outbox.database import PROMPT
from outbox.front import Front
from outbox.health import Health
from outbox.keeper import Keeper
from outbox.lease import Lease
from outbox.lease import Report as Told
from outbox.ledger import Conn, Due, Ledger
from outbox.logs import get_logger
from outbox.publisher import Publisher, Report, Unpublished
from outbox.registry import Registry
from outbox.relay_metrics import CONFIRM_SECONDS, PUBLISHED, REFUSED, RELAY_READY, UNCONFIRMED, note_publish
from outbox.settings import Settings
from outbox.signals import StopSignal
from outbox.topology import Topology
from outbox.wake import CHANNEL

__all__ = ["Relay", "main"]

log = get_logger("outbox.relay")

#: Seconds after which a lane that found something looks again; ever longer while it finds nothing, up to the poll.
SOON = 0.005
#: Seconds, and seconds a row, beyond which a claim from the beginning is dear: it passes rows that are gone.
DEAR, DEAR_A_ROW = 0.01, 0.000_05
#: It is then repeated after so many times the time that it took, and after so many seconds at the latest.
LOOKS, LOOK_AT_LATEST = 19, 10.0
#: Beyond the time for confirms, after which the database drops a relay that hangs in the middle of a batch.
STALL = timedelta(seconds=15)


class Relay:
    """The threads of one relay process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.ledger = Ledger(settings.schema_name)
        self.topology = Topology(prefix=settings.queue_prefix, ledger=self.ledger)
        self.wake = threading.Event()
        self.stopping = threading.Event()
        self.one_by_one = threading.RLock()
        self.front = Front()
        self.publisher = Publisher(
            settings.rabbitmq_url,
            self.topology,
            confirm_timeout=settings.confirm_timeout,
            on_ready=self._broker_is_back,
            on_silent=lambda queue: self.registry.silent(queue),
        )
        self.registry = Registry(settings, self.ledger, self.topology, wake=self.wake)
        self.keeper = Keeper(settings, self.ledger, self.registry, wake=self.wake)
        self.lease = Lease(
            self.ledger,
            lambda: self.connect("lease", within=max(settings.lease, PROMPT)),
            kind="relay",
            lease=settings.lease,
            report=self._report,
        )
        self.census = Census(settings.schema_name, lambda: self.connect("census", by_index=True))
        self.chronicle = Chronicle(settings.schema_name, lambda: self.connect("chronicle", by_index=True))
        self.carrier = Carrier(
            self.ledger,
            lambda: self.connect("carrier", by_index=True, idle_in_transaction=self.settings.lease),
            on_moved=self.wake.set,
        )
        self.lanes = [Lane(self, number) for number in range(settings.relay_lanes)]
        self._listener = threading.Thread(target=self._listen, name="outbox-listen", daemon=True)

    def start(self) -> None:
        self.lease.start()
        self.publisher.start()
        self.registry.start()
        self.keeper.start()
        self.chronicle.start()
        self.carrier.start()
        if self.settings.listen:
            self._listener.start()
        for lane in self.lanes:
            lane.start()

    def stop(self) -> None:
        """Let the batches that are under way be confirmed and marked, then go."""
        self.stopping.set()
        self.wake.set()
        for lane in self.lanes:
            lane.join(timeout=self.settings.shutdown_grace.total_seconds())
        self.publisher.stop()
        self.keeper.stop()
        self.chronicle.stop()
        self.carrier.stop()
        self.registry.stop()
        self.lease.stop()

    @property
    def alive(self) -> bool:
        others = (self.keeper, self.registry, self.chronicle, self.carrier)
        return all(lane.is_alive() for lane in self.lanes) and all(each.alive for each in others)

    def connect(self, name: str, **options: Any) -> Conn:
        return database.connect(self.settings.conninfo, name=f"relay {name}", pooled=self.settings.pooled, **options)

    def _report(self) -> Told:
        """What is not published, and why, for `outbox.why`: `away *` and `blocked *` are said of all queues, `full NAME` and
        `broken NAME` of one. A relay takes no messages, so nobody else reads what it has unclaimed."""
        if not self.publisher.ready:
            return Told(unclaimed=["blocked *" if self.publisher.blocked else "away *"])
        return Told(unclaimed=[f"{why} {name}" for name, why in sorted(self.registry.left_out().items())])

    def _broker_is_back(self) -> None:
        self.registry.verify_all()
        self.wake.set()
        self.lease.report_now()

    def _listen(self) -> None:
        """A hint: somebody committed rows. The poll finds them without it."""
        while not self.stopping.is_set():
            try:
                with self.connect("listen", within=PROMPT) as conn:
                    conn.execute(f"listen {CHANNEL}")
                    self.wake.set()
                    while not self.stopping.is_set():
                        for _ in conn.notifies(timeout=5, stop_after=1):
                            self.wake.set()
                        conn.execute("select")  # whether it is the database that is silent
            except psycopg.Error as error:
                log.warning("no wake-ups for now, polling", error=str(error).strip())
                self.stopping.wait(1)


class Lane(threading.Thread):
    """One batch at a time: claim, publish, wait for the confirms, mark. The row locks live exactly that long.

    The first lane serves what trickles in; the others join while there is a backlog, so that the database's work
    and the broker's overlap.

    Its commits do not wait for the disk. If a crash of PostgreSQL undoes one, a row that was marked is pending again with
    the fence that it had: it is published again, the first copy wins, and the broker's own count of what waits there is
    the room. No mark is ever made that no confirm preceded (I4); a claim or settle of a worker, which does wait for the
    disk, makes the mark before it lasting too. The same goes for what is pushed back or let go: it happens again.
    """

    def __init__(self, relay: Relay, number: int) -> None:
        super().__init__(name=f"outbox-lane-{number}", daemon=True)
        self.relay = relay
        self.number = number
        self._conn: Conn | None = None
        self._turn = number
        self._let_go_at = self._look_at = 0.0
        self._swept = ""
        self._pause = SOON
        self._stall = relay.settings.confirm_timeout + STALL

    def run(self) -> None:
        relay = self.relay
        while not relay.stopping.is_set():
            try:
                if not relay.publisher.wait_ready(0.5):
                    time.sleep(0 if relay.publisher.ready else 0.05)
                    continue
                if self.number and not relay.registry.backlog.wait(0.5):
                    continue
                if self.serve():
                    self._pause = SOON
                else:
                    self._rest()
            except psycopg.Error as error:
                log.warning("the database does not answer", lane=self.number, error=str(error).strip())
                self._drop_connection()
                relay.stopping.wait(0.5)
            except Exception:
                log.exception("lane failed", lane=self.number)
                self._drop_connection()
                relay.stopping.wait(1)
        self._drop_connection()

    def serve(self) -> int:
        """Claim and publish one batch. Answers how many rows were claimed."""
        relay, batch = self.relay, self.relay.settings.relay_batch
        if self.number == 0:
            relay.wake.clear()
        epochs, room = relay.registry.snapshot()
        if not room:
            return 0
        if self._conn is None or self._conn.closed:
            self._conn = relay.connect(
                f"lane {self.number}", idle_in_transaction=self._stall, unhurried=True, within=self._stall
            )
        with self._conn.transaction():
            if relay.settings.pooled:
                self._conn.execute(
                    f"set local idle_in_transaction_session_timeout = '{self._stall.total_seconds():.0f}s'"
                )
            rows = self._claim(self._conn, self._rotated(room), batch)
            if rows:
                self._publish(self._conn, rows, epochs)
        relay.registry.took(rows)
        self._note_backlog(len(rows), batch)
        return len(rows) + (self._let_go(self._conn) if self.number == 0 else 0)

    def _claim(self, conn: Conn, room: dict[str, int], batch: int) -> list[Due]:
        """What is due, from the beginning on; while that is dear, from the front on, and from the beginning now and then."""
        front, began = self.relay.front, time.monotonic()
        whole = began >= self._look_at
        rows = self.relay.ledger.claim_due(conn, room=room, batch=batch, stretches=None if whole else front.ahead(room))
        took = time.monotonic() - began
        if whole and took > DEAR + DEAR_A_ROW * len(rows):
            self._look_at = began + took + min(LOOKS * took, LOOK_AT_LATEST)
        front.claimed(rows)
        return rows

    def _let_go(self, conn: Conn) -> int:
        """Tasks of a lane may have been enqueued, or a place in it come free: do not wait for the keeper's round.

        A page of lanes at a time, each in its turn; at most a fifth of the lane's time goes into looking.
        """
        began = time.monotonic()
        if began < self._let_go_at:
            return 0
        with conn.transaction():
            granted, self._swept = self.relay.ledger.sweep_lanes(conn, after=self._swept)
        ended = time.monotonic()
        self._let_go_at = ended + max(SOON, 4 * (ended - began))
        return granted

    def _rotated(self, room: dict[str, int]) -> dict[str, int]:
        """Each claim begins with another queue: a backlog in one does not keep the others waiting."""
        names = sorted(room)
        self._turn = (self._turn + 1) % len(names)
        return {name: room[name] for name in names[self._turn :] + names[: self._turn]}

    def _publish(self, conn: Conn, rows: list[Due], epochs: Mapping[str, int]) -> None:
        relay, began = self.relay, time.perf_counter()
        limit = relay.settings.confirm_timeout.total_seconds() + 5
        why = "the broker refused the message"
        try:
            report = relay.publisher.publish(rows).result(timeout=limit)
        except Unpublished as error:
            if len(rows) > 1 or not error.alone:
                self._publish_one_by_one(conn, rows, epochs)
                return
            report, why = Report([], [rows[0].id], [], 0), f"the broker closed the channel: {error}"
            log.error("the broker refuses this task's message", task_id=rows[0].id, reason=str(error))
        took = time.perf_counter() - began
        CONFIRM_SECONDS.observe(took)
        tracing.published(rows, confirmed=report.confirmed, refused=report.refused, took=took)
        if report.confirmed:
            relay.ledger.mark_published(conn, report.confirmed, epochs=epochs)
            PUBLISHED.inc(len(report.confirmed))
            note_publish(rows[0].due_at, ahead=relay.census.ahead)
        if report.refused:
            REFUSED.inc(len(report.refused))
            relay.ledger.push_back(conn, [(id, why) for id in report.refused])
        if report.silent or report.returned:
            relay.front.forget()
        if report.returned:
            relay.registry.missing(report.returned)

    def _publish_one_by_one(self, conn: Conn, rows: list[Due], epochs: Mapping[str, int]) -> None:
        """Some row of what was in flight made the broker close the channel: find it without holding up the others.

        One lane at a time, so that each row is soon alone on the channel. What the broker is not there for stays due.
        """
        relay = self.relay
        for row in rows:
            with relay.one_by_one:
                if relay.stopping.is_set() or not relay.publisher.wait_ready(5):
                    relay.front.forget()
                    return
                self._publish(conn, [row], epochs)

    def _note_backlog(self, claimed: int, batch: int) -> None:
        if claimed >= batch // 2:
            self.relay.registry.backlog.set()
        elif claimed == 0:
            self.relay.registry.backlog.clear()

    def _rest(self) -> None:
        if self.number == 0:
            self.relay.wake.wait(self._pause)
            self._pause = min(2 * self._pause, self.relay.settings.relay_poll.total_seconds())
        else:
            self.relay.stopping.wait(0.02)

    def _drop_connection(self) -> None:
        self.relay.front.forget()
        if self._conn is not None:
            self._conn.close()
        self._conn = None


def main(settings: Settings) -> int:
    """Run a relay until SIGTERM or SIGINT. Answers the process's exit code."""
    logs.configure(settings.log_format, settings.log_level)
    relay, stop = Relay(settings), StopSignal()
    RELAY_READY.set_function(lambda: float(relay.publisher.ready))
    UNCONFIRMED.set_function(lambda: relay.publisher.unconfirmed)
    if settings.health_port is not None:  # else nobody asks
        REGISTRY.register(relay.census)
        relay.census.start()
    health = Health(
        settings.health_host, settings.health_port, live=lambda: relay.alive, ready=lambda: relay.lease.valid
    )
    health.start()
    relay.start()
    log.info("relay started", lanes=settings.relay_lanes, batch=settings.relay_batch)
    stop.wait()
    relay.stop()
    relay.census.stop()
    health.stop()
    log.info("relay stopped")
    return 0
