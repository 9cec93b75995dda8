"""The publisher: persistent, mandatory messages with pipelined confirms, on one connection in a thread of its own.

A message counts as published only by the confirm of that very message (I4). Everything else is an answer too:
returned (no such queue), refused (nack), or silence, which settles nothing.
"""

from __future__ import annotations

import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

import pika
from pika import frame, spec

from outbox.ledger import Due
from outbox.logs import get_logger
from outbox.topology import Topology, parameters

__all__ = ["Publisher", "Report", "Unpublished"]

log = get_logger("outbox.publisher")

PERSISTENT = pika.BasicProperties(delivery_mode=2, content_type="application/json")


class Report(NamedTuple):
    """What the broker said about a batch. `silent` rows stay due: nothing is known of them."""

    confirmed: list[str]
    refused: list[str]
    returned: list[str]
    silent: int


class Unpublished(Exception):
    """The channel was closed by the broker while this batch was under way: one of its rows may be the reason.

    One of them is, if the batch was `alone` on the channel.
    """

    def __init__(self, reason: str, *, alone: bool) -> None:
        super().__init__(reason)
        self.alone = alone


@dataclass(eq=False)
class _Batch:
    rows: Sequence[Due]
    future: Future[Report]
    first: int = 0
    #: All rows before this one have their answer; beyond it, those that are `apart`.
    through: int = 0
    apart: set[int] = field(default_factory=set)
    nacked: set[int] = field(default_factory=set)
    returned: dict[int, str] = field(default_factory=dict)
    sent_at: float = 0.0

    def unanswered(self) -> Due:
        """The first row without an answer. RabbitMQ takes messages in order: a queue that is stuck holds up those behind."""
        return self.rows[self.through]

    def answered(self, indexes: range, *, refused: bool) -> bool:
        """Note the answer to these rows. Whether every row has one now."""
        if refused:
            self.nacked |= {index for index in indexes if index >= self.through and index not in self.apart}
        if indexes.start > self.through:
            self.apart.update(indexes)
        else:
            self.through = max(self.through, indexes.stop)
            self.apart = {index for index in self.apart if index >= self.through}
            while self.through in self.apart:
                self.apart.discard(self.through)
                self.through += 1
        return self.through >= len(self.rows)


class Publisher:
    """Publishes batches; reconnects by itself, with a pause of at most two seconds.

    `publish` may be called from any thread. While the broker is away or blocks publishers (memory or disk alarm),
    `wait_ready` answers False and no row is claimed: an outage costs no attempt (I5).
    """

    def __init__(
        self,
        url: str,
        topology: Topology,
        *,
        confirm_timeout: timedelta,
        on_ready: Callable[[], None] = lambda: None,
        on_silent: Callable[[str], None] = lambda _queue: None,
    ) -> None:
        self._url = url
        self._topology = topology
        self._confirm_timeout = confirm_timeout.total_seconds()
        self._on_ready = on_ready
        self._on_silent = on_silent
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="outbox-publisher", daemon=True)
        self._connection: Any = None
        self._channel: Any = None
        self._batches: deque[_Batch] = deque()
        self._next = 1
        self._methods: dict[str, bytes] = {}
        self._headers: dict[int, bytes] = {}
        self.blocked = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        connection = self._connection
        if connection is not None:
            try:
                connection.ioloop.add_callback_threadsafe(self._close)
            except Exception as error:
                log.debug("already closed", error=str(error))
        self._thread.join(timeout=5)

    def wait_ready(self, timeout: float) -> bool:
        return self._ready.wait(timeout) and not self.blocked

    @property
    def ready(self) -> bool:
        return self._ready.is_set() and not self.blocked

    @property
    def unconfirmed(self) -> int:
        """Messages that were sent and have no answer yet."""
        return sum(len(batch.rows) - batch.through - len(batch.apart) for batch in list(self._batches))

    def publish(self, rows: Sequence[Due]) -> Future[Report]:
        """Send these; the future answers when each is confirmed, refused or returned, or the connection is gone.

        It raises Unpublished when the broker closed the channel on purpose.
        """
        batch = _Batch(rows, Future())
        connection = self._connection
        if connection is None or not self._ready.is_set():
            batch.future.set_result(Report([], [], [], len(rows)))
        else:
            connection.ioloop.add_callback_threadsafe(lambda: self._send(batch))
        return batch.future

    # ------------------------------------------------------------------ the connection's thread

    def _run(self) -> None:
        pause = 0.1
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._connection = pika.SelectConnection(
                    parameters(self._url, name="outbox relay"),
                    on_open_callback=self._opened,
                    on_open_error_callback=self._lost,
                    on_close_callback=self._lost,
                )
                self._connection.ioloop.start()
            except Exception as error:
                log.warning("publisher connection failed", error=repr(error))
            self._forget(None)
            pause = 0.1 if time.monotonic() - began > 5 else min(pause * 2, 2.0)
            self._stopping.wait(pause)

    def _opened(self, connection: Any) -> None:
        connection.add_on_connection_blocked_callback(lambda *_: self._set_blocked(True))
        connection.add_on_connection_unblocked_callback(lambda *_: self._set_blocked(False))
        connection.channel(on_open_callback=self._channel_opened)
        connection.ioloop.call_later(1.0, self._watch)

    def _channel_opened(self, channel: Any) -> None:
        self._channel = channel
        self._next = 1
        self._methods.clear()
        self._headers.clear()
        channel.add_on_close_callback(self._channel_closed)
        channel.add_on_return_callback(self._returned)
        channel.confirm_delivery(self._confirmed, callback=lambda _frame: self._become_ready())

    def _become_ready(self) -> None:
        self._set_blocked(False)
        self._ready.set()
        log.info("publisher ready")
        self._on_ready()

    def _set_blocked(self, blocked: bool) -> None:
        if blocked != self.blocked:
            log.warning("the broker blocks publishers" if blocked else "the broker takes messages again")
        self.blocked = blocked

    def _watch(self) -> None:
        """Silence: what was not confirmed in time is on a connection that cannot be trusted."""
        if self._batches and not self.blocked and time.monotonic() - self._batches[0].sent_at > self._confirm_timeout:
            self._on_silent(self._batches[0].unanswered().queue)
            log.warning("no confirm in time: dropping the connection", batches=len(self._batches))
            self._ready.clear()
            self._connection._terminate_stream(ConnectionError("no confirm in time"))
            return
        if self._connection.is_open:
            self._connection.ioloop.call_later(1.0, self._watch)

    def _lost(self, _connection: Any, reason: Any) -> None:
        if not self._stopping.is_set():
            log.warning("publisher lost the broker", reason=str(reason)[:200])
        self._forget(None)
        self._connection.ioloop.stop()

    def _channel_closed(self, _channel: Any, reason: Any) -> None:
        self._ready.clear()
        if self._connection.is_open and not self._stopping.is_set():
            log.warning("the broker closed the channel", reason=str(reason)[:200])
            self._forget(Unpublished(str(reason), alone=len(self._batches) == 1))
            self._connection.channel(on_open_callback=self._channel_opened)

    def _close(self) -> None:
        if self._connection.is_open:
            self._connection.close()
        else:
            self._connection.ioloop.stop()

    def _forget(self, why: Unpublished | None) -> None:
        self._ready.clear()
        while self._batches:
            batch = self._batches.popleft()
            if why is not None:
                batch.future.set_exception(why)
            else:
                batch.future.set_result(self._report(batch))

    # ------------------------------------------------------------------ sending and hearing

    def _send(self, batch: _Batch) -> None:
        if not self._ready.is_set() or not self._channel.is_open:
            batch.future.set_result(Report([], [], [], len(batch.rows)))
            return
        batch.first, batch.sent_at = self._next, time.monotonic()
        self._next += len(batch.rows)
        self._batches.append(batch)
        self._connection._output_marshaled_frames([b"".join(self._frames(batch.rows))])

    def _frames(self, rows: Sequence[Due]) -> list[bytes]:
        """The AMQP frames of a batch, one write for all: method and header differ only by queue and length."""
        number = self._channel.channel_number
        room = self._connection.params.frame_max - 8
        parts: list[bytes] = []
        for row in rows:
            body = row.body
            parts.append(self._methods.get(row.queue) or self._method(number, row.queue))
            parts.append(self._headers.get(len(body)) or self._header(number, len(body)))
            for start in range(0, len(body), room) if len(body) > room else (0,):
                piece = body[start : start + room]
                parts += (struct.pack(">BHI", spec.FRAME_BODY, number, len(piece)), piece, b"\xce")
        return parts

    def _method(self, number: int, queue: str) -> bytes:
        method = spec.Basic.Publish(exchange="", routing_key=self._topology.queue(queue), mandatory=True)
        marshalled: bytes = frame.Method(number, method).marshal()
        self._methods[queue] = marshalled
        return marshalled

    def _header(self, number: int, length: int) -> bytes:
        marshalled: bytes = frame.Header(number, length, PERSISTENT).marshal()
        if len(self._headers) < 4096:
            self._headers[length] = marshalled
        return marshalled

    def _returned(self, _channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        """A return comes before the confirm of the same message: find it by its body."""
        for batch in self._batches:
            for index, row in enumerate(batch.rows):
                if row.body == body and index not in batch.returned:
                    batch.returned[index] = row.queue
                    return
        log.warning("a message came back that nobody waits for", queue=method.routing_key)

    def _confirmed(self, answer: Any) -> None:
        method = answer.method
        tag, refused = method.delivery_tag, isinstance(method, spec.Basic.Nack)
        for batch in list(self._batches):
            if batch.first > tag:
                return
            last = min(tag - batch.first, len(batch.rows) - 1)
            if method.multiple:
                self._answered(batch, range(last + 1), refused=refused)
            elif tag < batch.first + len(batch.rows):
                self._answered(batch, range(last, last + 1), refused=refused)

    def _answered(self, batch: _Batch, indexes: range, *, refused: bool) -> None:
        if batch.answered(indexes, refused=refused):
            self._batches.remove(batch)
            batch.future.set_result(self._report(batch))

    def _report(self, batch: _Batch) -> Report:
        done = [*range(batch.through), *sorted(batch.apart)]
        if lost := batch.nacked | batch.returned.keys():
            done = [index for index in done if index not in lost]
        return Report(
            confirmed=[batch.rows[index].id for index in done],
            refused=[batch.rows[index].id for index in sorted(batch.nacked)],
            returned=sorted(set(batch.returned.values())),
            silent=len(batch.rows) - batch.through - len(batch.apart),
        )
