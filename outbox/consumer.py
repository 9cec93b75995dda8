"""The consumer: takes messages from RabbitMQ, claims their tasks in the ledger, and acknowledges what is recorded.

It remembers which connection a message came from and never acknowledges on another one; a consumer that the broker
cancels is a lost connection; what cannot be decoded goes aside; acknowledgements are coalesced.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import dramatiq
import psycopg
from dramatiq.broker import Consumer, MessageProxy
from dramatiq.errors import ConnectionClosed, DecodeError
from pika.exceptions import AMQPError

from outbox import foreign
from outbox.ledger import Asked, Claimed, Conn
from outbox.logs import get_logger
from outbox.metrics import REPEATS_SKIPPED
from outbox.outcomes import without_outcome
from outbox.run import Run
from outbox.topology import Topology, connect

if TYPE_CHECKING:
    from outbox.station import Station

__all__ = ["Delivery", "OutboxConsumer", "acknowledgements"]

log = get_logger("outbox.consumer")

#: A claim waits this long for a relay that has published but not yet marked.
LOCKED = timedelta(seconds=1.5)
#: A process that is frozen while it declares a queue holds up whoever else would declare it for no longer.
DECLARING = timedelta(seconds=30)
#: Seconds that its own thread has to leave a consumer that another one closes: more than a claim waits.
LEAVING = 5.0
#: Seconds that a message may lie here unclaimed before it goes back to the queue.
PARKED = 1.0


class Delivery(MessageProxy):
    """A claimed message on its way to a worker thread. It has the message's fields itself: they are asked for often."""

    def __init__(self, message: dramatiq.Message[Any], run: Run) -> None:
        super().__init__(message)
        vars(self).update(vars(message))
        self.run = run
        run.delivery = self


class _Arrived:
    """A message as it came: not yet claimed."""

    __slots__ = ("body", "fence", "id", "message", "run_id", "since", "tag")

    def __init__(self, tag: int, body: bytes, message: dramatiq.Message[Any], id: str, fence: str) -> None:
        self.tag = tag
        self.body = body
        self.message = message
        self.id = id
        self.fence = fence
        self.run_id = os.urandom(16).hex()
        self.since = time.monotonic()

    @property
    def asked(self) -> Asked:
        return self.id, self.fence, self.run_id


def acknowledgements(unanswered: Iterable[int], ended: set[int]) -> tuple[int | None, list[int]]:
    """The tag through which one acknowledgement serves for all, and those beyond it that need one each.

    `unanswered` are the connection's tags in their order. RabbitMQ closes a channel that acknowledges any other, and takes
    a multiple one for every earlier tag that it still waits for: so it ends before the first that is under way.
    """
    through, alone, whole = None, [], True
    for tag in unanswered:
        whole = whole and tag in ended
        if whole:
            through = tag
        elif tag in ended:
            alone.append(tag)
    return through, alone


class OutboxConsumer(Consumer):
    """One queue, one connection. Used by one thread; `acknowledge`, `flush` and `nudge` by any."""

    def __init__(
        self, station: Station, topology: Topology, url: str, *, queue_name: str, timeout: int, others: foreign.Way
    ) -> None:
        self.queue_name = queue_name
        self._others = others
        self._station = station
        self._timeout = timeout / 1000
        self._arrived: deque[_Arrived] = deque()
        self._suspects: deque[_Arrived] = deque()
        self._ready: deque[Delivery] = deque()
        self._tags: deque[int] = deque()
        self._unanswered: dict[int, None] = {}
        self._flush_scheduled = False
        self._open = True
        self._base: str | None = None
        self._more: str | None = None
        self._parked = False
        self._more_changed = time.monotonic()
        self._thread = threading.current_thread()
        self._database: Conn | None = None
        try:
            self._database = self._claims()
            self._connection = connect(url, name=f"outbox worker {queue_name}")
            topology.ensure(
                self._connection, lambda: station.connect("topology", idle_in_transaction=DECLARING), queue_name
            )
            self._queue = topology.queue(queue_name)
            self._channel = self._connection.channel()
            self._channel.add_on_cancel_callback(self._cancelled)
            self._base = self._consume(2 * station.threads)
        except (AMQPError, psycopg.Error, OSError) as error:
            self.close()
            raise ConnectionClosed(error) from None
        station.opens(self)

    @property
    def unclaimed(self) -> int:
        return len(self._arrived) + len(self._suspects)

    # ------------------------------------------------------------------ taking

    def __next__(self) -> Delivery | None:
        try:
            if not self._ready:
                self._claim()
            if not self._ready:
                self._connection.process_data_events(time_limit=self._patience())
                self._check_open()
                self._adapt()
                self._claim()
                self._park_or_return()
            return self._ready.popleft() if self._ready else None
        except (AMQPError, psycopg.Error, OSError) as error:
            raise ConnectionClosed(error) from None

    def _patience(self) -> float:
        if self._suspects or self._parked or (self._arrived and not self._station.lease.valid):
            return 0.1
        if self._arrived:
            return min(self._timeout, PARKED / 2)
        return self._timeout

    def _check_open(self) -> None:
        if not self._open or not self._channel.is_open:
            raise ConnectionClosed(RuntimeError("the broker cancelled this consumer"))

    def _consume(self, prefetch: int) -> str:
        self._channel.basic_qos(prefetch_count=min(prefetch, 65_535))
        return str(self._channel.basic_consume(self._queue, self._deliver))

    def _park_or_return(self) -> None:
        """What cannot be claimed here for a while is left to other processes, and nothing more is taken until it can."""
        if self._parked:
            if self._station.room() > 0:
                self._base, self._parked = self._consume(2 * self._station.threads), False
        elif self._arrived and time.monotonic() - self._arrived[0].since > PARKED and self._station.room() == 0:
            for tag in filter(None, (self._base, self._more)):
                self._channel.basic_cancel(tag)
            self._base = self._more = None
            self._parked = True
            while self._arrived:
                self._give_back(self._arrived.popleft())

    def _adapt(self) -> None:
        """Slow tasks: a small prefetch, so that no idle process waits for what lies here. Short ones: a large one."""
        if self._parked:
            return
        if time.monotonic() - self._more_changed < 1.0 and self._more is None and not self._station.short_tasks:
            return
        if self._station.short_tasks and self._more is None:
            self._more = self._consume(30 * self._station.threads)
            self._more_changed = time.monotonic()
        elif not self._station.short_tasks and self._more is not None and time.monotonic() - self._more_changed > 1.0:
            self._channel.basic_cancel(self._more)
            self._more, self._more_changed = None, time.monotonic()
            self._return_surplus()

    def _return_surplus(self) -> None:
        while len(self._arrived) > 2 * self._station.threads:
            self._give_back(self._arrived.pop())

    def _give_back(self, message: _Arrived) -> None:
        del self._unanswered[message.tag]
        self._channel.basic_nack(message.tag, requeue=True)

    def _deliver(self, _channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        self._unanswered[method.delivery_tag] = None
        try:
            message = foreign.decode(body)
        except DecodeError as error:
            foreign.set_aside(self._claims(), self._station.ledger, queue=self.queue_name, body=body, error=error)
            self._tags.append(method.delivery_tag)
            self._flush()
            return
        token = foreign.token_of(message)
        if token is None:
            foreign.receive(
                self._claims(), self._station.ledger, message, way=self._others, queue=self.queue_name, body=body
            )
            self._tags.append(method.delivery_tag)
            self._flush()
            return
        self._arrived.append(_Arrived(method.delivery_tag, body, message, *token))

    def _cancelled(self, _frame: Any) -> None:
        self._open = False

    # ------------------------------------------------------------------ claiming

    def _claims(self) -> Conn:
        if self._database is None or self._database.closed:
            self._database = self._station.connect(
                f"claim {self.queue_name}", lock_timeout=LOCKED, by_index=True, within=self._station.within
            )
        return self._database

    def _claim(self) -> None:
        if self._suspects:
            self._claim_suspect()
        room = self._station.reserve(len(self._arrived)) if self._arrived else 0
        if room <= 0:
            return
        try:
            self._take([self._arrived.popleft() for _ in range(room)], alone=False)
        finally:
            self._station.release(room)

    def _claim_suspect(self) -> None:
        if self._station.ask_to_be_alone(self):
            if not self._take([self._suspects.popleft()], alone=True):
                self._station.no_longer_alone(self)
        elif self._station.leaves_to_others(self, self._suspects[0].since):
            while self._suspects:
                self._give_back(self._suspects.popleft())

    def _take(self, batch: list[_Arrived], *, alone: bool) -> int:
        ledger, lease, conn = self._station.ledger, self._station.lease, self._claims()
        asked, worker, beat = sorted(each.asked for each in batch), lease.id, lease.beat
        try:
            found = ledger.claim(conn, asked, worker=worker, beat=beat, alone=alone)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            # a relay that hangs in the middle of its batch, or a claim of the same copies elsewhere: take the others
            found = ledger.claim_unlocked(conn, asked, worker=worker, beat=beat, alone=alone)
        claimed = {each.run_id.hex: each for each in found}
        if left := [each for each in batch if each.run_id not in claimed]:
            claimed |= self._judge(left)
        if lease.id != worker or lease.beat > beat + 1:
            raise ConnectionClosed(RuntimeError("the claim took so long that others may have rescued it"))
        return sum(self._holds(each, claimed[each.run_id], alone=alone) for each in batch if each.run_id in claimed)

    def _holds(self, each: _Arrived, claimed: Claimed, *, alone: bool) -> bool:
        """Whether this claim is to run here: the copy says what the row says."""
        message = foreign.as_written(claimed, each.message, body=each.body)
        if message is None or message.queue_name != self.queue_name:
            foreign.disown(
                self._claims(), self._station.ledger, claimed, each.message, queue=self.queue_name, body=each.body
            )
            self._tags.append(each.tag)
            self.flush()
            return False
        run = self._station.holds(claimed, message, self, each.tag, alone=alone)
        self._ready.append(Delivery(message, run))
        return True

    def _judge(self, left: list[_Arrived]) -> dict[str, Claimed]:
        """What was not claimed: a lost reply, a suspect, or a copy that came too late."""
        ledger, lease, conn = self._station.ledger, self._station.lease, self._claims()
        verdicts = dict(ledger.verdicts(conn, [each.asked for each in left], worker=lease.id))
        mine: list[_Arrived] = []
        for each in left:
            why = verdicts.get(UUID(each.id), "stale")
            if why == "mine":
                mine.append(each)
            elif why == "suspect":
                self._suspects.append(each)
            elif why in ("free", "outlawed"):
                self._arrived.append(each)
            else:
                self._tags.append(each.tag)  # stale, or expired: the relay ends expired ones
                REPEATS_SKIPPED.inc()
        self._flush()
        found = ledger.claims_of(conn, [each.asked for each in mine], worker=lease.id)
        return {each.run_id.hex: each for each in found}

    # ------------------------------------------------------------------ ending

    def ack(self, message: MessageProxy) -> None:
        """The worker thread is done with it: its outcome goes to the settler, the acknowledgement follows that."""
        self._end(message)

    def nack(self, message: MessageProxy) -> None:
        self._end(message)

    def _end(self, message: MessageProxy) -> None:
        assert isinstance(message, Delivery)
        run = message.run
        if run.given_back:
            return
        if run.outcome is None:
            run.outcome = without_outcome(message)
        self._station.ends(run)

    def acknowledge(self, tag: int) -> None:
        self._tags.append(tag)

    def flush(self) -> None:
        """Send the acknowledgements that have gathered, from the consumer's own thread."""
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._call(self._flush)

    def nudge(self) -> None:
        """Something came free: claim again."""
        if self._arrived or self._suspects or self._parked:
            self._call(lambda: None)

    def _call(self, callback: Any) -> None:
        try:
            self._connection.add_callback_threadsafe(callback)
        except AMQPError:
            pass  # closed: RabbitMQ delivers these again, and their fence is stale

    def _flush(self) -> None:
        self._flush_scheduled = False
        channel = self._channel._impl
        if not channel.is_open:
            return
        ended = {self._tags.popleft() for _ in range(len(self._tags))}
        through, alone = acknowledgements(self._unanswered, ended)
        if through is not None:
            channel.basic_ack(through, multiple=True)
        for tag in alone:
            channel.basic_ack(tag)
        for tag in ended:
            self._unanswered.pop(tag, None)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """What has not started is given back in the ledger, by the station; RabbitMQ's copy is then stale."""

    def close(self) -> None:
        """End the connection. Asked by another thread (a worker that stops does), its own leaves it first."""
        self._open = False
        if hasattr(self, "_channel"):
            self._station.closes(self)
        if not self._left_by_its_thread():
            log.warning("consumer left open: its thread does not end", queue=self.queue_name)
            return
        try:
            if hasattr(self, "_connection") and self._connection.is_open:
                if self._channel.is_open:
                    self._flush()
                self._connection.close()
        except (AMQPError, OSError, AttributeError):
            pass
        if self._database is not None:
            self._database.close()

    def _left_by_its_thread(self) -> bool:
        """pika's connections take one thread at a time: what another one does to a connection in use tears it apart."""
        if self._thread is threading.current_thread():
            return True
        self._call(lambda: None)  # wakes it; it finds the consumer closed
        self._thread.join(LEAVING)
        return not self._thread.is_alive()
