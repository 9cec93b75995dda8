"""The queues in RabbitMQ: their names, their arguments, and the epoch that begins when one is found missing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker

from outbox.ledger import Conn, Ledger
from outbox.logs import get_logger

__all__ = ["DEAD_LETTER_LIMIT", "DELIVERY_LIMIT", "PromptConnection", "Topology", "connect", "depth"]

log = get_logger("outbox.topology")

#: Deliveries of one message copy after which RabbitMQ moves it aside; the relay reads it back from there.
DELIVERY_LIMIT = 20
#: Dead letters kept in the broker. They are copies: the row is the task.
DEAD_LETTER_LIMIT = 10_000

NOT_FOUND = 404


class Topology:
    """Names of our own: the stock broker's queues of the same name have other arguments, which RabbitMQ refuses."""

    def __init__(self, *, prefix: str, ledger: Ledger) -> None:
        self.prefix = prefix
        self.ledger = ledger

    def queue(self, name: str) -> str:
        return f"{self.prefix}.{name}"

    def dead_letters(self, name: str) -> str:
        return f"{self.prefix}.{name}.dead"

    def ensure(self, connection: pika.BlockingConnection, database: Callable[[], Conn], name: str) -> None:
        """The queue exists when this returns. If it was missing, its next epoch was committed before it was declared.

        So whatever was published in the epoch before is known to be lost, however the loss came about. One at a time:
        an epoch begun between another's and its declaration would make everything due that was published in between.
        """
        with database() as turn, turn.transaction():
            turn.execute("select pg_advisory_xact_lock(hashtextextended('outbox.queue.' || %s, 0))", [self.queue(name)])
            while not _exists(connection, self.queue(name)):
                with database() as conn:
                    begun = self.ledger.begin_epoch(conn, name, seen=self.ledger.queue_epoch(conn, name))
                if begun is not None:
                    self._declare(connection, name)
                    log.info("queue declared", queue=self.queue(name), epoch=begun)

    def declare_dead_letters(self, connection: pika.BlockingConnection, name: str) -> None:
        channel = connection.channel()
        channel.queue_declare(
            self.dead_letters(name),
            durable=True,
            arguments={"x-queue-type": "quorum", "x-max-length": DEAD_LETTER_LIMIT, "x-overflow": "drop-head"},
        )
        channel.close()

    def delete(self, connection: pika.BlockingConnection, queue: str) -> None:
        """By its name in RabbitMQ. What was in it is published again in the next epoch."""
        channel = connection.channel()
        channel.queue_delete(queue)
        channel.close()

    def _declare(self, connection: pika.BlockingConnection, name: str) -> None:
        self.declare_dead_letters(connection, name)
        channel = connection.channel()
        channel.queue_declare(
            self.queue(name),
            durable=True,
            arguments={
                "x-queue-type": "quorum",
                "x-delivery-limit": DELIVERY_LIMIT,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": self.dead_letters(name),
            },
        )
        channel.close()


def connect(url: str, *, name: str) -> pika.BlockingConnection:
    """A connection that notices a silent peer in seconds, with a name that operators see."""
    return pika.BlockingConnection(parameters(url, name=name))


class PromptConnection(pika.BlockingConnection):
    """A connection for requests alone: one that is not answered in time ends it, long before its heartbeats would."""

    def __init__(self, url: str, *, name: str, within: timedelta) -> None:
        super().__init__(parameters(url, name=name))
        self._within = within.total_seconds()

    def _flush_output(self, *waiters: Callable[[], bool]) -> None:
        silent = ConnectionError(f"no answer within {self._within:g} s")
        timer = self._impl._adapter_call_later(self._within, lambda: self._impl._terminate_stream(silent))
        try:
            super()._flush_output(*waiters)
        finally:
            self._impl._adapter_remove_timeout(timer)


def parameters(url: str, *, name: str) -> pika.URLParameters:
    given = pika.URLParameters(url)
    if "heartbeat" not in url:
        given.heartbeat = 20
    if "blocked_connection_timeout" not in url:
        given.blocked_connection_timeout = 300
    given.socket_timeout = 10
    given.stack_timeout = 15
    given.client_properties = {"connection_name": name}
    given.tcp_options = {"TCP_USER_TIMEOUT": 15_000, "TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3}
    return given


def depth(connection: pika.BlockingConnection, queue: str) -> int | None:
    """Messages ready in the queue; None when it does not exist."""
    channel = connection.channel()
    try:
        return int(channel.queue_declare(queue, passive=True).method.message_count)
    except ChannelClosedByBroker as error:
        if error.reply_code != NOT_FOUND:
            raise
        return None
    finally:
        _close(channel)


def _exists(connection: pika.BlockingConnection, queue: str) -> bool:
    return depth(connection, queue) is not None


def _close(channel: BlockingChannel | Any) -> None:
    if channel.is_open:
        channel.close()
