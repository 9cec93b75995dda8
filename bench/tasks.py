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

FINISHED = """
insert into outbox.history
select
    gen_random_uuid(), 'succeeded', 'bench', 'noop', '[]', '{}', '{}', 0, now(), now(), now(), now(),
    now() - n * interval '1 millisecond', null, null, false, null, null, null, null, 0, 0, 0, gen_random_uuid(),
    gen_random_uuid(), '[]', null
from generate_series(%s::bigint, %s::bigint) as n
"""


def arguments(number: int) -> tuple[list[Any], dict[str, Any]]:
    return [number], {"email": EMAIL.format(number), "name": NAME}


def make_pending(conn: psycopg.Connection[Any], count: int, *, first: int = 1) -> None:
    """`count` due tasks, and statistics and visibility as autovacuum would leave them."""
    conn.execute(PENDING, [first, first + count - 1])
    conn.execute("vacuum (analyze) outbox.task")
    conn.execute("checkpoint")


def make_finished(conn: psycopg.Connection[Any], count: int) -> None:
    """`count` tasks in the history, a thousand to the second, the youngest now."""
    for first in range(1, count + 1, 500_000):
        conn.execute(FINISHED, [first, min(first + 499_999, count)])
    conn.execute("vacuum (analyze) outbox.history")
    conn.execute("checkpoint")


def none_pending(conn: psycopg.Connection[Any]) -> bool:
    return conn.execute("select from outbox.task where state = 'pending' limit 1").fetchone() is None


def finished(conn: psycopg.Connection[Any]) -> int:
    (number,) = conn.execute("select count(*) from outbox.history where state = 'succeeded'").fetchone() or (0,)
    return int(number)
