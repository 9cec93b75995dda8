"""`soak`: minutes at a steady rate beside a transaction that is held open all the time, and bursts that tell the rate.

Two systems side by side on the same servers. In the database of one a snapshot is held: nothing that was once a row there
may be removed by any vacuum. PostgreSQL keeps that horizon for each database, so the other one is clean.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import psycopg

from bench import processes, tasks
from bench.apps import stamp
from bench.cores import resident
from bench.figures import Report, Series, rate, ratio
from bench.ground import Field, Ground
from bench.waiting import until
from deploy.local.child import Child

#: Tasks a second, a second at a time; and tasks of a burst, one in each system and minute.
STEADY, BURST = 100, 5_000

#: Entries that the scans of the claim's index have read, and how often it was scanned.
INDEX = """
select idx_tup_read, idx_scan
from pg_stat_user_indexes
where schemaname = 'outbox' and indexrelname = 'task_pending'
"""
CONNECTIONS = (
    "select count(*) from pg_stat_activity where datname = current_database() and application_name like 'outbox%'"
)


@dataclass
class System:
    """One of the two: its processes, and what was seen of it at the end of each minute."""

    name: str
    here: Field
    conn: psycopg.Connection[Any]
    relay: Child
    worker: Child
    enqueued: int = 0
    seen: tuple[int, int, int] = (0, 0, 0)
    rates: list[float] = field(default_factory=list)
    entries: list[float] = field(default_factory=list)
    scans: list[float] = field(default_factory=list)
    relay_size: list[float] = field(default_factory=list)
    worker_size: list[float] = field(default_factory=list)
    connections: list[float] = field(default_factory=list)

    def enqueue(self, count: int) -> None:
        self.conn.execute(tasks.PENDING, [self.enqueued + 1, self.enqueued + count])
        self.enqueued += count

    def burst(self) -> None:
        """So many tasks at once: their starts a second between 5 % and 95 %."""
        self.drain()
        first = self.enqueued + 1
        self.enqueue(BURST)
        self.drain()
        self.rates.append(rate(at for number, at in stamp.read(self.here.stamps) if number >= first))

    def drain(self) -> None:
        """Not by a look at the tables: that would pass all that is dead, and be felt."""
        until(lambda: stamp.count(self.here.stamps) >= self.enqueued, f"{self.enqueued} tasks have run", here=self.here)

    def end(self) -> None:
        wanted = self.enqueued
        until(lambda: tasks.finished(self.conn) >= wanted, f"{wanted} outcomes are recorded", here=self.here, every=1)

    def look(self) -> None:
        read, scans = self.conn.execute(INDEX).fetchall()[0]
        did = self.enqueued - self.seen[2]
        self.entries.append((read - self.seen[0]) / did)
        self.scans.append((scans - self.seen[1]) / did)
        self.seen = (read, scans, self.enqueued)
        self.relay_size.append(resident(self.relay.pid or 0))
        self.worker_size.append(resident(self.worker.pid or 0))
        self.connections.append(float(self.conn.execute(CONNECTIONS).fetchall()[0][0]))


def measure(ground: Ground, *, rounds: int, quick: bool, minutes: int = 30) -> Report:
    """`rounds` is not asked for: every minute is one."""
    minutes = min(minutes, 2) if quick else minutes
    with (
        ground.round() as there,
        ground.round() as here,
        _system("clean", there) as clean,
        _system("held", here) as held,
        here.connect() as elsewhere,
    ):
        elsewhere.execute("begin isolation level repeatable read")
        elsewhere.execute("select from outbox.task")
        for minute in range(minutes):
            _minute((clean, held) if minute % 2 else (held, clean))
        clean.end()
        held.end()
    return _report(clean, held, minutes)


@contextmanager
def _system(name: str, here: Field) -> Iterator[System]:
    with here.connect() as conn:
        (worker,) = processes.workers(here, 1)
        system = System(name, here, conn, processes.relay(here), worker)
        system.enqueue(STEADY)
        system.drain()
        yield system


def _minute(systems: tuple[System, System]) -> None:
    """Both at the steady rate, then a burst of each while the other rests."""
    began = time.monotonic()
    for second in range(50):
        for system in systems:
            system.enqueue(STEADY)
        time.sleep(max(0.0, began + second + 1 - time.monotonic()))
    for system in systems:
        system.burst()
    for system in systems:
        system.look()


def _report(clean: System, held: System, minutes: int) -> Report:
    rates = [Series(f"{each.name}: bursts", "/s", each.rates) for each in (clean, held)]
    late = -max(1, minutes // 3)
    last = ratio("held / clean, the last third", *(Series("", "", each.values[late:]) for each in (rates[1], rates[0])))
    last.at_least = 0.9
    entries = [Series(f"{each.name}: index entries read by claims", "a task", each.entries) for each in (clean, held)]
    scans = [Series(f"{each.name}: scans of the claim's index", "a task", each.scans) for each in (clean, held)]
    flat = [
        Series(f"{each.name}: {what}, last third / first", "×", [median(of[late:]) / median(of[:-late])], at_most=1.1)
        for each in (clean, held)
        for what, of in (
            ("relay's memory", each.relay_size),
            ("worker's memory", each.worker_size),
            ("connections", each.connections),
        )
    ]
    return Report(
        "Soak: a transaction held open all the time",
        [
            f"{minutes} minutes; in each {50 * STEADY} tasks at {STEADY}/s in either system, then {BURST} at once in each, in turn",
            "one relay and one worker × 8 threads each, default settings; a row of figures for each minute",
            f"{held.enqueued} tasks ran beside the held snapshot: so many rows, with all their versions, stay dead",
        ],
        [*rates, ratio("held / clean", rates[1], rates[0]), last, *entries, *scans, *flat],
    )
