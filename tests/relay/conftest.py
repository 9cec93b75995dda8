"""A relay in this process, on a database and queues of the test's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import dramatiq.broker
import pytest
from outbox_rows import Outbox
from relay_eyes import HeldWire, Launch, MakeRelay, Queues

from deploy.local.servers import GivenServer, RabbitMQ
from outbox.relay import Relay
from outbox.settings import Settings

__all__ = ["Launch", "MakeRelay"]


@pytest.fixture(scope="session")
def vhost_url(rabbitmq: RabbitMQ | GivenServer) -> str:
    """The vhost `/`, which a node has again whatever happened to its disk. Each test has a queue prefix of its own."""
    return rabbitmq.url


@pytest.fixture
def outbox(database_url: str) -> Iterator[Outbox]:
    outbox = Outbox(database_url)
    yield outbox
    outbox.close()


@pytest.fixture
def queues(vhost_url: str, queue_prefix: str) -> Iterator[Queues]:
    queues = Queues(vhost_url, queue_prefix)
    yield queues
    queues.close()


@pytest.fixture
def make_relay(outbox: Outbox, queues: Queues) -> Iterator[MakeRelay]:
    """Starts relays, stopped at the end of the test; settings by name."""
    made: list[Relay] = []

    def make(**settings: Any) -> Relay:
        paced = {"relay_poll": timedelta(milliseconds=50), "confirm_timeout": timedelta(seconds=5)}
        named = {"database_url": outbox.url, "rabbitmq_url": queues.url, "queue_prefix": queues.prefix}
        relay = Relay(Settings(**{**named, **paced, **settings}))
        made.append(relay)
        relay.start()
        return relay

    yield make
    with ThreadPoolExecutor() as beside:
        list(beside.map(Relay.stop, made))


@pytest.fixture
def launch(outbox: Outbox, queues: Queues) -> Iterator[Launch]:
    """Starts `outbox relay` as a process of its own; variables by name."""
    launched: list[subprocess.Popen[str]] = []

    def start(**variables: str) -> subprocess.Popen[str]:
        named = {"DATABASE_URL": outbox.url, "RABBITMQ_URL": queues.url, "OUTBOX_QUEUE_PREFIX": queues.prefix}
        process = subprocess.Popen(
            [sys.executable, "-m", "outbox.cli", "relay"],
            env={**os.environ, **named, **variables},
            stderr=subprocess.DEVNULL,
            text=True,
        )
        launched.append(process)
        return process

    yield start
    for process in launched:
        process.kill()
        process.wait()


@pytest.fixture
def wire(queues: Queues) -> Iterator[HeldWire]:
    """A wire to RabbitMQ that the test can hold, cut and reset. Name it before `make_relay`: it must end after."""
    wire = HeldWire(queues.url)
    yield wire
    wire.close()


@pytest.fixture(autouse=True)
def no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages here are for actors that nobody declares, whatever other tests have imported."""
    monkeypatch.setattr(dramatiq.broker, "global_broker", None)
