"""The same scenario on two sides: a stock Dramatiq on RabbitMQ, and ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

import dramatiq
from awaiting import await_that
from broker_side import admin, cancel, catch_up, depth, drop_connection, shut
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.middleware import Middleware
from wire import Wire
from workshop import Declare, Workshop

from outbox.relay import Relay

__all__ = ["MakeStock", "Ours", "Side", "Stock", "publish_by_way_of", "raising"]


class Side(Protocol):
    """What the scenarios need of either."""

    @property
    def loses(self) -> bool: ...

    @property
    def broker(self) -> Any: ...

    def actor(self, **options: Any) -> Declare: ...

    def work(self, threads: int = 1) -> dramatiq.Worker: ...

    def queue(self) -> str:
        """The queue's name in RabbitMQ."""

    def drop_connection(self) -> None:
        """The consumer's connection breaks."""

    def cancel_consumer(self) -> None:
        """The broker cancels the consumer: its leader is gone, or a consumer timeout of RabbitMQ 4.3."""

    def catch_up(self) -> None:
        """Returns once the consumer's thread has done what was asked of it so far: acknowledgements are sent."""


class Stock:
    """RabbitmqBroker as it comes."""

    loses = True

    def __init__(self, url: str, prefix: str, **options: Any) -> None:
        self.url = url
        self._name = f"{prefix}_stock"
        self.broker = RabbitmqBroker(url=url, **{"confirm_delivery": True, **options})
        self.worker: dramatiq.Worker | None = None

    def actor(self, **options: Any) -> Declare:
        return cast(Declare, dramatiq.actor(broker=self.broker, queue_name=self._name, **options))

    def work(self, threads: int = 1) -> dramatiq.Worker:
        self.worker = dramatiq.Worker(self.broker, worker_threads=threads, worker_timeout=100)
        self.worker.start()
        return self.worker

    def queue(self) -> str:
        return self._name

    def drop_connection(self) -> None:
        shut(self._consumer().connection)

    def cancel_consumer(self, suffix: str = "") -> None:
        consumer = self._consumer(suffix)
        cancel(consumer.connection, consumer.channel)

    def catch_up(self) -> None:
        catch_up(self._consumer().connection)

    def abandon(self, end: Callable[[Any], None] = shut) -> None:
        """The producer's process dies: its connections end without a word of it."""
        for connection in self.broker.connections:
            end(connection)
        self.broker.channels.clear()
        self.broker.connections.clear()

    def messages(self) -> int:
        """Ready messages of the task, wherever: the queue, its delays, its dead letters."""
        with admin(self.url) as channel:
            return sum(depth(channel, self._name + suffix) or 0 for suffix in ("", ".DQ", ".XQ"))

    def close(self) -> None:
        if self.worker is not None:
            self.worker.stop(timeout=1000)
        self.broker.close()
        with admin(self.url) as channel:
            for suffix in ("", ".DQ", ".XQ"):
                channel.queue_delete(self._name + suffix)

    def _consumer(self, suffix: str = "") -> Any:
        worker = self.worker
        assert worker is not None
        return await_that(lambda: worker.consumers[self._name + suffix].consumer)


MakeStock = Callable[..., Stock]


class Ours:
    """An OutboxBroker, with a relay that publishes for it."""

    loses = False

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop
        self.broker = workshop.broker

    def actor(self, **options: Any) -> Declare:
        return self.workshop.actor(**options)

    def work(self, threads: int = 1) -> dramatiq.Worker:
        self.workshop.open(threads)
        assert self.workshop.worker is not None
        return self.workshop.worker

    def queue(self) -> str:
        return self.workshop.queue()

    def drop_connection(self) -> None:
        drop_connection(self._consumer())

    def cancel_consumer(self) -> None:
        consumer = self._consumer()
        cancel(consumer._connection, consumer._channel)

    def catch_up(self) -> None:
        catch_up(self._consumer()._connection)

    def _consumer(self) -> Any:
        worker = self.workshop.worker
        assert worker is not None
        return await_that(lambda: worker.consumers["default"].consumer)


def raising(hook: str, error: BaseException, *, times: int = 1) -> Middleware:
    """A middleware whose hook breaks that often."""
    left = [error] * times

    def broken(*_args: Any, **_kwargs: Any) -> None:
        if left:
            raise left.pop()

    middleware: Middleware = type("Raising", (Middleware,), {hook: broken})()
    return middleware


def publish_by_way_of(workshop: Workshop, wire: Wire) -> None:
    """A relay starts whose publisher uses the wire; it counts messages beside it, so that only the publisher's breaks."""
    relay = workshop.relay = Relay(workshop.settings.model_copy(update={"rabbitmq_url": wire.url}))
    relay.registry._settings = workshop.settings
    relay.start()
