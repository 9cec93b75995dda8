"""What a test does beside the system, on RabbitMQ's side."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker

__all__ = ["admin", "cancel", "catch_up", "consumers", "depth", "depth_of", "drop_connection", "shut"]


@contextmanager
def admin(url: str) -> Iterator[BlockingChannel]:
    """A channel beside the system."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        yield connection.channel()
    finally:
        with contextlib.suppress(pika.exceptions.AMQPError):
            connection.close()


def depth(channel: BlockingChannel, queue: str) -> int | None:
    """Ready messages; None when there is no such queue (the channel is closed then)."""
    try:
        return int(channel.queue_declare(queue, passive=True).method.message_count)
    except ChannelClosedByBroker:
        return None


def depth_of(url: str, queue: str) -> int | None:
    """The same, for a queue that may be missing now and there later."""
    with admin(url) as channel:
        return depth(channel, queue)


def consumers(channel: BlockingChannel, queue: str) -> int:
    """Who consumes this queue, as RabbitMQ knows it."""
    return int(channel.queue_declare(queue, passive=True).method.consumer_count)


def drop_connection(consumer: Any) -> None:
    """The connection of one of our consumers breaks."""
    shut(consumer._connection)


def shut(connection: Any) -> None:
    connection._impl._transport._sock.shutdown(socket.SHUT_RDWR)


def reset(connection: Any) -> None:
    """RST instead of FIN: what the other side has not read yet is gone."""
    sock = connection._impl._transport._sock
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def cancel(connection: Any, channel: Any) -> None:
    """What pika does when Basic.Cancel arrives."""
    tag = next(iter(channel._consumer_infos))
    frame = pika.frame.Method(channel.channel_number, pika.spec.Basic.Cancel(tag))
    connection.add_callback_threadsafe(lambda: channel._on_consumer_cancelled_by_broker(frame))


def catch_up(connection: Any) -> None:
    """Returns once the connection's thread has done what was asked of it so far."""
    done = threading.Event()
    connection.add_callback_threadsafe(done.set)
    assert done.wait(5)
