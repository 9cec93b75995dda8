"""What a relay knows of the queues: epoch, pause, room in the broker. Also where the broker's own losses show."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import pika
import psycopg
from dramatiq.errors import DecodeError
from pika.exceptions import AMQPError, ChannelClosedByBroker, ShortStringTooLong

from outbox import database, foreign
from outbox.database import ANSWER, QUICK
from outbox.ledger import Conn, Due, Ledger
from outbox.logs import get_logger
from outbox.relay_metrics import LOST
from outbox.settings import Settings
from outbox.topology import NOT_FOUND, PromptConnection, Topology

__all__ = ["Registry"]

log = get_logger("outbox.registry")

ACTIVE, IDLE = 0.1, 1.0
#: Seconds between two silences of a queue that are no silence of its own: the publisher connects anew in between.
RECONNECTING = 10.0
#: A search for new queues is repeated after so many times the time that it took, and after so many seconds at the latest:
#: it takes a fiftieth of the time, however many dead rows it passes.
SEARCHES, SEARCH_AT_LATEST = 49, 30.0
#: A process that is frozen while it declares a queue holds up whoever else would declare it for no longer.
DECLARING = timedelta(seconds=30)


class Registry:
    """One thread with a connection to each server.

    Flow control: at most `relay_window` messages of a queue wait in the broker; the backlog stays in PostgreSQL,
    where it can be cancelled, reordered, counted and paused.
    """

    def __init__(self, settings: Settings, ledger: Ledger, topology: Topology, *, wake: threading.Event) -> None:
        self._settings = settings
        self._ledger = ledger
        self._topology = topology
        self._wake = wake
        self._lock = threading.Lock()
        self._epochs: dict[str, int] = {}
        self._paused: set[str] = set()
        self._depths: dict[str, int] = {}
        self._taken: Counter[str] = Counter()
        self._active_until: dict[str, float] = {}
        self._empty_since: dict[str, datetime] = {}
        self._checked: dict[str, float] = {}
        self._odd: dict[str, str] = {}
        self._silent: dict[str, float] = {}
        self._held: dict[str, float] = {}
        self._search_at = 0.0
        self._deaf: set[str] = set()
        self._hurry = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="outbox-registry", daemon=True)
        self._conn: database.PromptConnection | None = None
        self._within = QUICK
        self._broker: pika.BlockingConnection | None = None
        self._channel: Any = None
        self.backlog = threading.Event()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._hurry.set()
        self._thread.join(timeout=5)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    # ------------------------------------------------------------------ asked by the lanes

    def snapshot(self) -> tuple[dict[str, int], dict[str, int]]:
        """(epoch of each queue, room of those that may be published to). Read before anything is published."""
        with self._lock:
            window, now = self._settings.relay_window, time.monotonic()
            room = {
                name: window - self._depths[name] - self._taken[name]
                for name in self._epochs
                if name not in self._paused and name in self._depths and self._held.get(name, 0) < now
            }
            return dict(self._epochs), {name: free for name, free in room.items() if free > 0}

    def left_out(self) -> dict[str, str]:
        """Queues that nothing is published to at this moment, and why: `full`, or `broken`. Paused ones are not told."""
        with self._lock:
            window, now = self._settings.relay_window, time.monotonic()
            told = {name: "full" for name, depth in self._depths.items() if depth + self._taken[name] >= window}
            told |= {name: "broken" for name in (*self._odd, *self._held) if self._held.get(name, now) >= now}
            return {name: why for name, why in told.items() if name not in self._paused}

    def took(self, rows: Sequence[Due]) -> None:
        """These rows were claimed: they use up room until the broker's own count shows them."""
        if rows:
            counts, soon = Counter(row.queue for row in rows), time.monotonic() + 2
            with self._lock:
                self._taken.update(counts)
                self._active_until.update(dict.fromkeys(counts, soon))

    def missing(self, names: Iterable[str]) -> None:
        """Messages to these queues came back: they must be declared again, in a new epoch."""
        with self._lock:
            for name in names:
                self._depths.pop(name, None)
                self._checked.pop(name, None)
        self._hurry.set()

    def silent(self, name: str) -> None:
        """This queue took a message and did not answer in time. If it does so again it is held back for a while:

        each message for it costs a lane, and with it the other queues, a whole timeout.
        """
        now, patience = time.monotonic(), 4 * self._settings.confirm_timeout.total_seconds() + RECONNECTING
        with self._lock:
            if now - self._silent.get(name, -patience) < patience:
                self._held[name] = now + patience
            self._silent[name] = now
        self._hurry.set()

    def verify_all(self) -> None:
        """The broker is (back) there: look whether it still has the queues before anything is published to them."""
        with self._lock:
            self._depths.clear()
            self._checked.clear()
        self._hurry.set()

    # ------------------------------------------------------------------ the thread

    def _watch(self) -> None:
        while not self._stopping.is_set():
            try:
                self._look()
                self._within = QUICK
            except (AMQPError, psycopg.Error, OSError, ConnectionError) as error:
                self._within = ANSWER if isinstance(error, psycopg.Error) else QUICK
                log.warning("cannot look at the queues", error=str(error).strip() or repr(error))
                self._drop()
                self._stopping.wait(0.5)
            except Exception:
                log.exception("registry failed")
                self._drop()
                self._stopping.wait(1)
            self._hurry.wait(ACTIVE)
            self._hurry.clear()
        self._drop()

    def _look(self) -> None:
        conn = self._database()
        queues = self._queues(conn)
        fresh = queues.keys() - self._epochs.keys()
        with self._lock:
            self._epochs = {name: epoch for name, (epoch, _) in queues.items()}
            self._paused = {name for name, (_, paused) in queues.items() if paused}
        now = time.monotonic()
        for name in sorted(queues, key=lambda each: self._checked.get(each, 0.0)):
            pace = ACTIVE if self._active_until.get(name, 0) > now else IDLE
            if now - self._checked.get(name, 0) >= pace:
                try:
                    self._measure_alone(conn, name)
                finally:
                    self._checked[name] = time.monotonic()  # also if it fails: it is the last of the next look
                if queues[name][1]:
                    self._ledger.unpublish_paused(conn, name)  # batches that were in flight
        if fresh:
            self._wake.set()

    def _queues(self, conn: Conn) -> dict[str, tuple[int, bool]]:
        """All queues that are known; now and then, those that only pending rows name yet join them."""
        began = time.monotonic()
        if began < self._search_at:
            return self._ledger.queues(conn)
        queues = self._ledger.register_queues(conn)
        ended = time.monotonic()
        self._search_at = ended + min(SEARCHES * (ended - began), SEARCH_AT_LATEST)
        return queues

    def _measure_alone(self, conn: Conn, name: str) -> None:
        """A queue that the broker cannot have, or does not give, is its tasks' trouble and nobody else's."""
        try:
            self._measure(conn, name)
            self._odd.pop(name, None)
        except (ChannelClosedByBroker, ShortStringTooLong) as error:
            self._channel = None
            with self._lock:
                self._depths.pop(name, None)
            if self._odd.get(name) != str(error):
                log.error("nothing can be published to this queue", queue=name, error=str(error))
            self._odd[name] = str(error)

    def _measure(self, conn: Conn, name: str) -> None:
        seen_at: datetime = conn.execute("select clock_timestamp()").fetchall()[0][0]
        with self._lock:
            taken = self._taken[name]
        fresh = name not in self._depths
        depth = self._depth(self._topology.queue(name))
        if depth == 0 and self._held.get(name, 0) > time.monotonic():
            self._delete_mute(name)
            depth = None
        if depth is None:
            self._topology.ensure(self._amqp(), lambda: self._connect("epoch"), name)
            self._hurry.set()
            fresh, depth = True, 0
        epoch = self._ledger.queue_epoch(conn, name) if fresh else self._epochs[name]
        with self._lock:
            self._epochs[name] = epoch  # before there is room: what is marked with the epoch before is published twice
            window = self._settings.relay_window
            was_full = self._depths.get(name, window) + taken >= window
            self._depths[name] = depth
            self._taken[name] -= taken
        if was_full and depth < window:
            self._wake.set()
        self._find_lost(conn, name, depth, seen_at)
        self._read_dead_letters(conn, name)

    def _delete_mute(self, name: str) -> None:
        """RabbitMQ 3.10 killed within half a second of a quorum queue's declaration has the queue for ever without a

        leader: it looks empty, takes everything and confirms nothing. Deleted, it is declared anew in a new epoch.
        """
        log.error("this queue answers nothing: it is declared anew", queue=name)
        with self._lock:
            del self._held[name], self._silent[name]
        self._topology.delete(self._amqp(), self._topology.queue(name))

    def _find_lost(self, conn: Conn, name: str, depth: int, seen_at: datetime) -> None:
        """An empty queue whose workers hold nothing unclaimed has lost what is still published."""
        if depth:
            self._empty_since.pop(name, None)
            return
        since = self._empty_since.setdefault(name, seen_at)
        if seen_at - since > self._settings.lease:
            lost = self._ledger.republish_from_empty(conn, name, before=since)
            self._empty_since.pop(name, None)
            if lost:
                log.warning("the broker lost messages", queue=name, tasks=lost, how="queue empty")
                LOST.labels("empty").inc(lost)
                self._wake.set()

    def _read_dead_letters(self, conn: Conn, name: str) -> None:
        """What RabbitMQ moved aside is due again; the copy is then dropped."""
        if name in self._deaf:
            self._deaf.discard(name)
            if self._depth(self._topology.dead_letters(name)) == 0:
                self._topology.delete(self._amqp(), self._topology.dead_letters(name))
        for _ in range(100):
            method, body = self._dead_letter(name)
            if method is None:
                return
            if self._take_back(conn, name, body):
                self._wake.set()
            self._amqp_channel().basic_ack(method.delivery_tag)

    def _take_back(self, conn: Conn, name: str, body: bytes) -> bool:
        """Whether the dead letter is due again. That of another producer becomes a task where they do: nobody else has it."""
        try:
            message = foreign.decode(body)
        except DecodeError as error:
            foreign.set_aside(conn, self._ledger, queue=name, body=body, error=error)
            return False
        token = foreign.token_of(message)
        if token is None:
            return foreign.receive(conn, self._ledger, message, way=self._settings.foreign, queue=name, body=body)
        if not self._ledger.return_dead_letter(conn, id=token[0], fence=token[1]):
            return False
        LOST.labels("dead letter").inc()
        return True

    def _dead_letter(self, name: str) -> tuple[Any, bytes]:
        """The next one, or (None, b""). A queue of them that somebody deleted is declared again: nothing else waits for it."""
        try:
            method, _, body = self._amqp_channel().basic_get(self._topology.dead_letters(name))
            return method, body
        except ChannelClosedByBroker as error:
            self._channel = None
            if error.reply_code != NOT_FOUND:
                raise
            self._topology.declare_dead_letters(self._amqp(), name)
            return None, b""
        except ConnectionError:
            self._deaf.add(name)  # as `_delete_mute`
            raise

    # ------------------------------------------------------------------ connections

    def _depth(self, queue: str) -> int | None:
        try:
            return int(self._amqp_channel().queue_declare(queue, passive=True).method.message_count)
        except ChannelClosedByBroker as error:
            self._channel = None
            if error.reply_code != NOT_FOUND:
                raise
            return None

    def _amqp(self) -> pika.BlockingConnection:
        if self._broker is None or not self._broker.is_open:
            url, within = self._settings.rabbitmq_url, self._settings.confirm_timeout
            self._broker, self._channel = PromptConnection(url, name="outbox registry", within=within), None
        return self._broker

    def _amqp_channel(self) -> Any:
        if self._channel is None or not self._channel.is_open or self._broker is None or not self._broker.is_open:
            self._channel = self._amqp().channel()
        return self._channel

    def _connect(self, name: str) -> database.PromptConnection:
        return database.connect(
            self._settings.conninfo, name=f"relay {name}", idle_in_transaction=DECLARING, pooled=self._settings.pooled
        )

    def _database(self) -> Conn:
        if self._conn is None or self._conn.closed:
            self._conn = self._connect("registry")
        self._conn.within = self._within
        return self._conn

    def _drop(self) -> None:
        try:
            if self._broker is not None and self._broker.is_open:
                self._broker.close()
        except (AMQPError, OSError):
            pass
        if self._conn is not None:
            self._conn.close()
        self._broker = self._channel = self._conn = None
