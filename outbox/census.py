"""The census: what only the database knows, counted by the relay at a bounded pace, for its /metrics.

Every relay counts, and all come to the same: take `max by (…)` of these figures, not their sum.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from outbox.ledger import Conn
from outbox.logs import get_logger
from outbox.reads import CAP, QueueView, Reader

__all__ = ["Census", "Count", "count"]

log = get_logger("outbox.census")

#: Seconds between two counts; a dear one is repeated after so many times the time that it took, and this at the latest.
PACE, COUNTS, AT_LATEST = 5.0, 49, 30.0
#: Seconds after which a count is told no more: an old figure looks as if all were well.
STALE = 60.0
KINDS = ("relay", "worker", "scheduler")


class Count(NamedTuple):
    """What stood in the tables at one moment. `ahead`: seconds by which the database's clock is ahead of this machine's."""

    queues: Sequence[QueueView]
    processes: dict[str, int]
    dead: int
    schedules: int
    ahead: float


class Census(Collector):
    """One thread, one connection; who asks gets the last count and waits for nothing.

    Nobody depends on it. While the database is away its figures are absent, and `outbox_database_up` is 0.
    """

    def __init__(self, schema: str, connect: Callable[[], Conn]) -> None:
        self._schema = schema
        self._connect = connect
        self._counted: tuple[float, Count] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._count_on, name="outbox-census", daemon=True)
        #: Seconds, of the last count that there was.
        self.ahead = 0.0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=1)

    def _count_on(self) -> None:
        conn: Conn | None = None
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                conn = conn or self._connect()
                counted = count(conn, schema=self._schema)
                self._counted, self.ahead = (time.monotonic(), counted), counted.ahead
            except Exception as error:
                log.warning("the backlog was not counted", error=str(error).strip() or repr(error))
                _close(conn)
                self._counted = conn = None
            self._stopping.wait(min(max(PACE, COUNTS * (time.monotonic() - began)), AT_LATEST))
        _close(conn)

    # ------------------------------------------------------------------ told to Prometheus

    def describe(self) -> list[Metric]:
        return list(_families().values())

    def collect(self) -> Iterator[Metric]:
        counted, families = self._counted, _families()
        fresh = counted is not None and time.monotonic() - counted[0] < STALE
        families["up"].add_metric([], float(fresh))
        if counted is None or not fresh:
            yield families["up"]
            return
        _fill(families, counted[1])
        yield from families.values()


def count(conn: Conn, *, schema: str = "outbox") -> Count:
    """Count now. Costs what `Reader.queues` costs, and the statement below."""
    queues = Reader(schema).queues(conn)
    sql = STANDING if schema == "outbox" else STANDING.replace("outbox.", f"{schema}.")
    asked = time.time()
    kinds, alive, dead, schedules, there = conn.execute(sql, {"more": CAP + 1}, prepare=False).fetchall()[0]
    ahead = there - (asked + time.time()) / 2
    return Count(
        queues, dict.fromkeys(KINDS, 0) | dict(zip(kinds, alive, strict=True)), min(dead, CAP), schedules, ahead
    )


def _families() -> dict[str, GaugeMetricFamily]:
    capped = f"; {CAP} means so many or more."
    told: dict[str, tuple[str, str, list[str]]] = {
        "up": ("outbox_database_up", "1 while the relay can count what is in the database.", []),
        "tasks": ("outbox_backlog_tasks", "Unfinished tasks" + capped, ["queue", "state"]),
        "oldest": (
            "outbox_oldest_due_seconds", "For how long the oldest due task has waited for the relay.", ["queue"]
        ),
        "paused": ("outbox_queue_paused", "1 while the queue is paused.", ["queue"]),
        "listeners": ("outbox_queue_workers", "Worker processes that listen to the queue.", ["queue"]),
        "processes": ("outbox_processes", "Processes whose heartbeats arrive.", ["kind"]),
        "dead": ("outbox_dead_tasks", "Dead tasks that are kept" + capped, []),
        "schedules": ("outbox_schedules", "Cron schedules that are declared and not paused.", []),
        "ahead": (
            "outbox_clock_offset_seconds", "By how much the database's clock is ahead of this machine's.", []
        ),
    }  # fmt: skip
    return {key: GaugeMetricFamily(name, text, labels=labels) for key, (name, text, labels) in told.items()}


def _fill(families: dict[str, GaugeMetricFamily], counted: Count) -> None:
    for queue in counted.queues:
        for state, tasks in queue.counts.items():
            families["tasks"].add_metric([queue.name, state], tasks.number)
        families["oldest"].add_metric([queue.name], queue.oldest_due.total_seconds() if queue.oldest_due else 0)
        families["paused"].add_metric([queue.name], queue.paused)
        families["listeners"].add_metric([queue.name], queue.workers)
    for kind, number in counted.processes.items():
        families["processes"].add_metric([kind], number)
    families["dead"].add_metric([], counted.dead)
    families["schedules"].add_metric([], counted.schedules)
    families["ahead"].add_metric([], counted.ahead)


def _close(conn: Conn | None) -> None:
    if conn is not None:
        conn.close()


# Cost: the tables of processes and of schedules, and up to `more` entries of the index of dead tasks by time.
# Alive as `WorkerView.alive` has it.
STANDING = """
with alive as (
    select w.kind, count(*) as number
    from outbox.worker w
    where clock_timestamp() - w.beat_at < 2 * w.lease * interval '1 second'
    group by w.kind
)
select coalesce((select array_agg(kind order by kind) from alive), '{}'),
    coalesce((select array_agg(number order by kind) from alive), '{}'),
    (select count(*) from (select from outbox.dead d order by d.finished_at limit %(more)s) kept),
    (select count(*) from outbox.schedule s where not s.retired and not s.paused),
    extract(epoch from clock_timestamp())::float
"""
