"""`backlog`: a million pending tasks are published at the rate of ten thousand, and the relay grows no larger."""

from __future__ import annotations

from statistics import median
from typing import Any, NamedTuple

import psycopg

from bench import processes, tasks
from bench.cores import resident
from bench.figures import Report, Series, rate, ratio
from bench.ground import Field, Ground
from bench.waiting import until

CHUNK, CHUNKS = 10_000, 3
#: Of a chunk: the relay's window counts what it has sent, and a copy that was sent twice counts twice.
ENOUGH = 9_000
#: Published since the last look, oldest first.
PUBLISHED_AT = """
select extract(epoch from published_at)::float8
from outbox.task
where state = 'published'
order by published_at
limit %s offset %s
"""


def measure(ground: Ground, *, rounds: int, quick: bool) -> Report:
    large = 200_000 if quick else 1_000_000
    small_rate, large_rate = Series("backlog of 10,000", "/s"), Series(f"backlog of {large:,}", "/s")
    small_size, large_size = (
        Series(f"relay's memory, {each.name}", "MiB", at_most=100) for each in (small_rate, large_rate)
    )
    with ground.round() as shallow, ground.round() as deep:
        with deep.connect() as conn:
            tasks.make_pending(conn, large)
            conn.execute("checkpoint")  # what it wrote is not to be written during the measurement
        for here in (shallow, deep):
            _drain(here)  # declares the queue
        for _ in range(rounds):
            small, large_ = zip(*((_drain(shallow), _drain(deep)) for _ in range(CHUNKS)), strict=True)
            for rates, sizes, drains in ((small_rate, small_size, small), (large_rate, large_size, large_)):
                rates.values.append(median(drain.rate for drain in drains))
                sizes.values.append(max(drain.resident for drain in drains))
    return Report(
        "Backlog: pending → published and marked",
        [
            f"{CHUNK * CHUNKS} tasks in each round, {CHUNK} at a time, in turn: once all that there is, once out of {large}",
            f"one relay, started anew for each {CHUNK}; no workers; rate between 5 % and 95 %, median of the {CHUNKS}",
        ],
        [small_rate, large_rate, ratio("large / small", large_rate, small_rate, at_least=0.95), small_size, large_size],
    )


class Drain(NamedTuple):
    rate: float
    resident: float


def _drain(here: Field) -> Drain:
    """Publish ten thousand tasks; where fewer are pending, make up the number first."""
    with here.connect() as conn:
        if (missing := CHUNK - _in_state(conn, "pending")) > 0:
            tasks.make_pending(conn, missing)
        before = _in_state(conn, "published")
        relay = processes.relay(here, window=before + CHUNK)  # nothing consumes: it stops there by itself
        until(lambda: _in_state(conn, "published") >= before + ENOUGH, f"{CHUNK} tasks are published", here=here)
        size = resident(relay.pid or 0)
        here.end()
        return Drain(rate(at for (at,) in conn.execute(PUBLISHED_AT, [ENOUGH, before])), size)


def _in_state(conn: psycopg.Connection[Any], state: str) -> int:
    (number,) = conn.execute("select count(*) from outbox.task where state = %s", [state]).fetchone() or (0,)
    return int(number)
