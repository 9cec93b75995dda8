"""Tasks made for a measurement: the same arguments for every compared system, about 100 bytes of them."""

from __future__ import annotations

from typing import Any

import psycopg

EMAIL, NAME = "someone{}@example.com", "Someone Very Nice"

# Ids as enqueue makes them (UUIDv7: they grow with time), so that the indexes are as dense as in production.
PENDING = """
insert into outbox.task (id, state, queue, actor, args, kwargs, options, due_at)
select
    (lpad(to_hex((extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0') || '7'
        || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid,
    'pending', 'bench', 'noop', json_build_array(n),
    json_build_object('email', 'someone' || n || '@example.com', 'name', 'Someone Very Nice'),
    '{}', clock_timestamp()
from generate_series(%s::bigint, %s::bigint) as n
"""

# All of them in the partition of today, wherever in it: there the outcomes are recorded.
FINISHED = """
insert into outbox.history (
    id, state, queue, actor, args, kwargs, options, priority, created_at, due_at, published_at, started_at, finished_at,
    lane_holds, failures, crashes, losses, run_id, worker_id, attempts)
select
    ('0193' || lpad(to_hex(n), 8, '0') || '7' || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid,
    'succeeded', 'bench', 'finished', json_build_array(n),
    json_build_object('email', 'someone' || n || '@example.com', 'name', 'Someone Very Nice'), '{}', 0, at, at, at, at, at,
    false, 0, 0, 0, gen_random_uuid(), gen_random_uuid(), '[]'
from generate_series(%s::bigint, %s::bigint) as n
cross join lateral (
    select date_trunc('day', now() at time zone 'UTC') at time zone 'UTC' + n %% 86000 * interval '1 second'
) as today(at)
"""


def arguments(number: int) -> tuple[list[Any], dict[str, Any]]:
    return [number], {"email": EMAIL.format(number), "name": NAME}


def make_pending(conn: psycopg.Connection[Any], count: int, *, first: int = 1) -> None:
    """`count` due tasks, and statistics and visibility as autovacuum would leave them."""
    conn.execute(PENDING, [first, first + count - 1])
    conn.execute("vacuum (analyze) outbox.task")


def make_finished(conn: psycopg.Connection[Any], count: int) -> None:
    """`count` tasks in today's partition of the history."""
    conn.execute("select outbox.keep_partitions(1)")
    for first in range(1, count + 1, 500_000):
        conn.execute(FINISHED, [first, min(first + 499_999, count)])
    conn.execute("vacuum (analyze) outbox.history")
    conn.execute("checkpoint")


def none_pending(conn: psycopg.Connection[Any]) -> bool:
    return conn.execute("select from outbox.task where state = 'pending' limit 1").fetchone() is None


def none_left(conn: psycopg.Connection[Any]) -> bool:
    """Every outcome is recorded: nothing is unfinished."""
    return conn.execute("select from outbox.task limit 1").fetchone() is None


def finished(conn: psycopg.Connection[Any]) -> int:
    (number,) = conn.execute("select count(*) from outbox.history where state = 'succeeded'").fetchone() or (0,)
    return int(number)
