"""What a test of the relay looks at and does: the broker's side, wires that fail, statements counted on the wire."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pika
import psycopg
from outbox_rows import Outbox
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, ChannelClosedByBroker
from wire import Wire

from outbox.relay import Relay

__all__ = [
    "MARKS",
    "HeldWire",
    "Launch",
    "MakeRelay",
    "Queues",
    "Tap",
    "count",
    "fence_of",
    "id_of",
    "insert",
    "let_marks_wait",
    "let_promotions_wait",
]

MakeRelay = Callable[..., Relay]
Launch = Callable[..., "subprocess.Popen[str]"]


class Queues:
    """The broker as the tests of one queue prefix see it, on a connection beside the relay."""

    def __init__(self, url: str, prefix: str) -> None:
        self.url = url
        self.prefix = prefix
        self._connection: pika.BlockingConnection | None = None
        #: Of the messages that were taken.
        self.properties: list[pika.BasicProperties] = []

    def name(self, queue: str = "mail") -> str:
        return f"{self.prefix}.{queue}"

    @contextlib.contextmanager
    def channel(self) -> Iterator[BlockingChannel]:
        if self._connection is None or not self._connection.is_open:
            self._connection = pika.BlockingConnection(pika.URLParameters(self.url))
        channel = self._connection.channel()
        yield channel
        if channel.is_open:
            channel.close()

    def depth(self, queue: str = "mail") -> int | None:
        """Messages ready; None when there is no such queue, or nobody who could say."""
        try:
            with self.channel() as channel:
                return int(channel.queue_declare(self.name(queue), passive=True).method.message_count)
        except ChannelClosedByBroker:
            return None
        except (AMQPError, OSError):
            self._connection = None
            return None

    def take(self, queue: str = "mail") -> list[bytes]:
        """All messages that are ready, first to last; they are gone then."""
        with self.channel() as channel:
            waiting = channel.queue_declare(self.name(queue), passive=True).method.message_count
            channel.basic_qos(prefetch_count=waiting)
            bodies: list[bytes] = []
            while len(bodies) < waiting:
                method, properties, body = next(channel.consume(self.name(queue)))
                assert method is not None and properties is not None and body is not None  # noqa: PT018
                last = method.delivery_tag
                self.properties.append(properties)
                bodies.append(body)
            if bodies:
                channel.basic_ack(last, multiple=True)
                channel.cancel()
            return bodies

    def reject(self, queue: str = "mail") -> int:
        """A consumer that rejects all that is ready, for good. How many it rejected."""
        with self.channel() as channel:
            tags = []
            while (taken := channel.basic_get(self.name(queue)))[0] is not None:
                tags.append(taken[0].delivery_tag)
            for tag in tags:  # only now: the relay soon publishes again what was rejected
                channel.basic_reject(tag, requeue=False)
            return len(tags)

    def put(self, body: bytes, queue: str = "mail") -> None:
        """A message of another producer."""
        with self.channel() as channel:
            channel.confirm_delivery()
            channel.basic_publish("", self.name(queue), body, mandatory=True)

    def purge(self, queue: str = "mail") -> None:
        with self.channel() as channel:
            channel.queue_purge(self.name(queue))

    def delete(self, queue: str = "mail") -> None:
        with self.channel() as channel:
            channel.queue_delete(self.name(queue))

    def declare(self, queue: str = "mail", **arguments: object) -> None:
        """The queue as somebody else would declare it."""
        with self.channel() as channel:
            channel.queue_declare(self.name(queue), durable=True, arguments=arguments)

    def close(self) -> None:
        """Leaves no queue of this prefix behind that a test named."""
        with contextlib.suppress(AMQPError, OSError):
            with self.channel() as channel:
                for queue in ("mail", "bulk", "urgent", "other"):
                    channel.queue_delete(self.name(queue))
                    channel.queue_delete(self.name(f"{queue}.dead"))
            if self._connection is not None:
                self._connection.close()


def id_of(body: bytes) -> UUID:
    return UUID(json.loads(body)["message_id"])


def fence_of(body: bytes) -> UUID:
    return UUID(json.loads(body)["options"]["outbox_fence"])


def insert(outbox: Outbox, count: int, *, queue: str = "bulk", size: int = 0) -> None:
    """Many small rows by one statement: a backlog, as fast as the server makes it."""
    outbox.conn.execute(
        """
        insert into outbox.task (id, state, queue, actor, args, kwargs, options, due_at)
        select gen_random_uuid(), 'pending', %(queue)s, 'count', json_build_array(n, repeat('x', %(size)s)),
            '{}', '{}', clock_timestamp()
        from generate_series(1, %(count)s) n
        """,
        {"queue": queue, "count": count, "size": size},
    )


def count(outbox: Outbox, state: str, queue: str = "bulk") -> int:
    """How many of a queue are in this state, counted by the server."""
    counted = outbox.conn.execute(
        "select count(*) from outbox.task where state = %s and queue = %s", [state, queue]
    ).fetchall()
    return int(counted[0][0])


#: The backends of what waits in `let_marks_wait` or `let_promotions_wait`.
MARKS = "select pid from pg_stat_activity where wait_event = 'advisory' and datname = current_database()"


def let_marks_wait(outbox: Outbox) -> psycopg.Connection[object]:
    """Marks wait until the connection that is answered ends: a relay can be caught between confirm and mark."""
    return _let_wait(outbox, "new.state = 'published'")


def let_promotions_wait(outbox: Outbox) -> psycopg.Connection[object]:
    """The same, where a keeper makes what is due pending."""
    return _let_wait(outbox, "old.state = 'scheduled'")


def _let_wait(outbox: Outbox, which: str) -> psycopg.Connection[object]:
    outbox.conn.execute(
        """
        create function mark_waits() returns trigger language plpgsql as $$
        begin
            perform pg_advisory_xact_lock_shared(4711);
            return new;
        end $$
        """
    )
    outbox.conn.execute(
        f"""
        create trigger mark_waits before update on outbox.task
        for each row when ({which}) execute function mark_waits()
        """.encode()
    )
    lock = outbox.connect()
    lock.execute("select pg_advisory_lock(4711)")
    return lock


class HeldWire(Wire):
    """A wire on which bytes can also be held back: a partition that heals, after which they arrive late."""

    def __init__(self, url: str) -> None:
        self._flows = threading.Event()
        self._flows.set()
        super().__init__(url)

    def hold(self) -> None:
        """Nothing arrives any more, in either direction; connections are still accepted, nobody hangs up."""
        self._flows.clear()

    def release(self) -> None:
        self._flows.set()

    def reset(self) -> None:
        """Each client gets an RST, as from a firewall that forgot the connection."""
        for pair in self._pairs:
            pair.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            for side in (pair.client, pair.server):
                with contextlib.suppress(OSError):
                    side.shutdown(socket.SHUT_RD)
            pair.client.close()
        self._pairs.clear()

    def close(self) -> None:
        self.release()
        super().close()

    def sent(self, pair: Any, taken: bytes) -> None:
        """Bytes that a client sent, on their way."""

    def _to_server(self, pair: Any) -> None:
        with contextlib.suppress(OSError):
            while taken := pair.client.recv(65_536):
                self._flows.wait()
                self.sent(pair, taken)
                if not pair.vanished:
                    pair.server.sendall(taken)
        if not pair.vanished:
            with contextlib.suppress(OSError):
                pair.server.shutdown(socket.SHUT_WR)

    def _to_client(self, pair: Any) -> None:
        with contextlib.suppress(OSError):
            while taken := pair.server.recv(65_536):
                self._flows.wait()
                if not pair.vanished:
                    pair.client.sendall(taken)
        if not pair.vanished:
            with contextlib.suppress(OSError):
                pair.client.shutdown(socket.SHUT_WR)


class Tap(HeldWire):
    """A wire to PostgreSQL that counts the statements of all who use it: BEGIN and COMMIT too, as the server gets them."""

    def __init__(self, url: str) -> None:
        self.statements = 0
        self._rest: dict[int, bytes] = {}
        self._counting = threading.Lock()
        super().__init__(url)

    def sent(self, pair: Any, taken: bytes) -> None:
        with self._counting:
            self._rest[id(pair)] = self._count(self._rest.get(id(pair), b"") + taken)

    def _count(self, stream: bytes) -> bytes:
        """Counts the Query and Execute messages at the head of the stream; answers what is not yet whole."""
        while len(stream) >= 5:
            typed = stream[0] != 0  # before the session begins, messages start with their length
            size = 1 + struct.unpack_from(">I", stream, 1)[0] if typed else struct.unpack_from(">I", stream)[0]
            if len(stream) < size:
                break
            self.statements += typed and stream[:1] in b"QE"
            stream = stream[size:]
        return stream
