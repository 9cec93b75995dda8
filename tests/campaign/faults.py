"""What strikes a system: each fault begins, lasts its time and is over when its function returns. Answers the pids that it froze."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from datetime import timedelta
from random import Random

import psycopg
from pika.exceptions import AMQPError

from tests.broker_side import admin
from tests.campaign.checker import Fault
from tests.campaign.system import LEASE, System

__all__ = ["CLOCKS", "FAULTS", "strike"]

Strike = Callable[[System, Random], frozenset[int]]
NOBODY: frozenset[int] = frozenset()
PATIENCE = timedelta(minutes=2)
HOUR = timedelta(hours=1)
CLOCKS = "clocks stepped by an hour"


def strike(system: System, name: str, fate: Random) -> None:
    """Let this fault happen, and note when. Two in three have time to be recovered from before the next one."""
    began = time.monotonic()
    pids = FAULTS[name](system, fate)
    ended = time.monotonic()
    recovered = system.await_recovery(PATIENCE) if fate.random() < 2 / 3 else None
    system.faults.append(Fault(name, began, ended, pids, recovered))


def _last(seconds: float) -> None:
    """A fault's own length: whatever happens meanwhile, there is nothing to await."""
    time.sleep(seconds)


# ---------------------------------------------------------------------- processes


def _killed(kind: str) -> Strike:
    def killed(system: System, fate: Random) -> frozenset[int]:
        if names := system.names(kind):
            system.kill(fate.choice(names))
        return NOBODY

    return killed


def _all_killed(system: System, fate: Random) -> frozenset[int]:
    for name in system.names(""):
        system.kill(name)
    return NOBODY


def _frozen(kind: str) -> Strike:
    """Longer than its lease: what it held is somebody else's when it wakes."""

    def frozen(system: System, fate: Random) -> frozenset[int]:
        names = system.names(kind)
        if not names:
            return NOBODY
        pid = system.freeze(fate.choice(names))
        _last(2 * LEASE.total_seconds() + fate.random())
        system.thaw(pid)
        return frozenset({pid})

    return frozen


# ---------------------------------------------------------------------- RabbitMQ


def _broker_killed(system: System, fate: Random) -> frozenset[int]:
    system.rabbitmq.kill()
    _last(fate.random())
    system.rabbitmq.start()
    return NOBODY


def _broker_restarted(system: System, fate: Random) -> frozenset[int]:
    system.rabbitmq.restart()
    return NOBODY


def _broker_wiped(system: System, fate: Random) -> frozenset[int]:
    system.rabbitmq.kill()
    system.rabbitmq.wipe()
    system.rabbitmq.start()
    return NOBODY


def _memory_alarm(system: System, fate: Random) -> frozenset[int]:
    system.rabbitmq.ctl("set_vm_memory_high_watermark", "0.0000001")
    _last(2 + fate.random())
    system.rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")
    return NOBODY


def _disk_alarm(system: System, fate: Random) -> frozenset[int]:
    """The broker takes its disk for full."""
    system.rabbitmq.ctl("set_disk_free_limit", "100000GB")
    _last(2 + fate.random())
    system.rabbitmq.ctl("set_disk_free_limit", "50MB")
    return NOBODY


def _connections_closed(system: System, fate: Random) -> frozenset[int]:
    system.rabbitmq.ctl("close_all_connections", "campaign")
    return NOBODY


def _queue_deleted(system: System, fate: Random) -> frozenset[int]:
    with contextlib.suppress(AMQPError), admin(system.rabbitmq.url) as channel:
        channel.queue_delete(f"{system.prefix}.{fate.choice(['default', 'heavy'])}")
    return NOBODY


def _queue_purged(system: System, fate: Random) -> frozenset[int]:
    with contextlib.suppress(AMQPError), admin(system.rabbitmq.url) as channel:
        channel.queue_purge(f"{system.prefix}.{fate.choice(['default', 'heavy'])}")
    return NOBODY


# ---------------------------------------------------------------------- PostgreSQL


def _database_killed(system: System, fate: Random) -> frozenset[int]:
    system.postgres.kill()
    _last(fate.random())
    system.postgres.start()
    return NOBODY


def _database_restarted(system: System, fate: Random) -> frozenset[int]:
    system.postgres.restart()
    return NOBODY


def _sessions_ended(system: System, fate: Random) -> frozenset[int]:
    with psycopg.connect(system.database_url, autocommit=True) as conn:
        conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
    return NOBODY


# ---------------------------------------------------------------------- the network


def _cut(which: str) -> Strike:
    def cut(system: System, fate: Random) -> frozenset[int]:
        wire = getattr(system, which)
        wire.cut()
        _last(0.5 + 2 * fate.random())
        wire.mend()
        return NOBODY

    return cut


def _half_open(which: str) -> Strike:
    """The connections of now go nowhere, without a word; new ones work."""

    def half_open(system: System, fate: Random) -> frozenset[int]:
        getattr(system, which).vanish()
        return NOBODY

    return half_open


def _slow(which: str) -> Strike:
    def slow(system: System, fate: Random) -> frozenset[int]:
        wire = getattr(system, which)
        wire.delay = 0.05 + 0.2 * fate.random()
        _last(2 + fate.random())
        wire.delay = 0.0
        return NOBODY

    return slow


# ---------------------------------------------------------------------- clocks


def _clocks_stepped(system: System, fate: Random) -> frozenset[int]:
    """The wall clock of every process of ours, by an hour and back; the servers' clocks stay."""
    system.clock.step_to(fate.choice([HOUR, -HOUR]))
    _last(2 * LEASE.total_seconds() + fate.random())
    system.clock.step_to(timedelta(0))
    return NOBODY


FAULTS: dict[str, Strike] = {
    "a client killed": _killed("client"),
    "a relay killed": _killed("relay"),
    "a worker killed": _killed("worker"),
    "a scheduler killed": _killed("scheduler"),
    "every process killed": _all_killed,
    "a client frozen": _frozen("client"),
    "a relay frozen": _frozen("relay"),
    "a worker frozen": _frozen("worker"),
    "a scheduler frozen": _frozen("scheduler"),
    "RabbitMQ killed": _broker_killed,
    "RabbitMQ restarted": _broker_restarted,
    "RabbitMQ's disk wiped": _broker_wiped,
    "RabbitMQ short of memory": _memory_alarm,
    "RabbitMQ short of disk": _disk_alarm,
    "RabbitMQ closes all connections": _connections_closed,
    "a queue deleted": _queue_deleted,
    "a queue purged": _queue_purged,
    "PostgreSQL killed": _database_killed,
    "PostgreSQL restarted": _database_restarted,
    "PostgreSQL ends all sessions": _sessions_ended,
    "PostgreSQL cut off": _cut("database"),
    "RabbitMQ cut off": _cut("broker"),
    "PostgreSQL half-open": _half_open("database"),
    "RabbitMQ half-open": _half_open("broker"),
    "PostgreSQL slow": _slow("database"),
    "RabbitMQ slow": _slow("broker"),
    CLOCKS: _clocks_stepped,
}
