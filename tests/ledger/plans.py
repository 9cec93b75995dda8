"""Many rows in every state, and what PostgreSQL plans to do with a statement among them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from outbox.ledger import Conn

Node = dict[str, Any]

#: Rows of one state: %(count)s of them, in ten queues, of which `mail` is the busiest.
TASKS = """
insert into outbox.task (
    id, state, queue, actor, args, kwargs, options, priority, due_at, expires_at, lane, lane_limit, position,
    unique_key, epoch, published_at, run_id, worker_id, claimed_at, claimed_beat)
select
    gen_random_uuid(), %(state)s, case when n %% 2 = 0 then 'mail' else 'queue' || n %% 9 end, 'send_mail', '[1]', '{}', '{}',
    n %% 3, now() + (case when %(state)s = 'scheduled' then n - 500 else -n end) * interval '1 second',
    case when n %% 50 = 0 then now() + n * interval '1 minute' end,
    case when %(lanes)s then kind.lane || (n / 5) end,
    case when %(lanes)s and kind.lane = 'limit/' then 2 end,
    case when %(lanes)s then nextval('outbox.position') end,
    case when n %% 20 = 0 then gen_random_uuid()::text end,
    case when %(state)s = 'published' then 0 end,
    case when %(state)s = 'published' then now() - n * interval '1 millisecond' end,
    case when %(state)s = 'running' then gen_random_uuid() end,
    case when %(state)s = 'running' then ('00000000-0000-4000-8000-' || lpad((n %% 20)::text, 12, '0'))::uuid end,
    case when %(state)s = 'running' then now() end,
    case when %(state)s = 'running' then 1 end
from generate_series(1, %(count)s) n
cross join lateral (select case when n %% 10 < 5 then 'order/' else 'limit/' end as lane) kind
"""

#: Finished tasks, spread over the days that have a partition and one that has none.
FINISHED = """
insert into outbox.{table} (
    id, state, queue, actor, args, kwargs, options, priority, created_at, due_at, finished_at, lane, lane_holds,
    position, failures, crashes, losses, attempts)
select
    gen_random_uuid(), %(state)s, 'mail', 'send_mail', '[1]', '{{}}', '{{}}', 0, now(), now(),
    now() + (n %% 10 - 2) * interval '1 day', case when n %% 10 = 0 then 'order/done' || n end, n %% 10 = 0,
    case when n %% 10 = 0 then n end, 0, 0, 0, '[]'
from generate_series(1, %(count)s) n
"""

WORKERS = """
insert into outbox.worker (id, host, pid, beat, queues)
select ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'here', n, 1, '{mail}'
from generate_series(0, 19) n
"""


def add_tasks(conn: Conn, state: str, count: int, *, lanes: bool = False) -> None:
    """So many rows of a state, past the trigger: their places are as asked."""
    conn.execute("alter table outbox.task disable trigger take_place")
    conn.execute(TASKS, {"state": state, "count": count, "lanes": lanes or state == "waiting"})
    conn.execute("alter table outbox.task enable trigger take_place")


def add_finished(conn: Conn, table: str, state: str, count: int) -> None:
    conn.execute(FINISHED.format(table=table), {"state": state, "count": count})


def add_workers(conn: Conn) -> None:
    conn.execute(WORKERS)


@dataclass(frozen=True)
class Scan:
    """How a plan reads a table: by which index, or by none. `alias` is its name in the statement."""

    table: str
    alias: str
    index: str | None


def scans(plan: Node) -> list[Scan]:
    """Each scan of a table in the plan; one that joins several indexes' bitmaps is several."""
    found = []
    for node in _nodes(plan):
        if node["Node Type"] == "Bitmap Heap Scan":
            indexes = [each["Index Name"] for each in _nodes(node) if "Index Name" in each]
        elif "Relation Name" in node and node["Node Type"].endswith("Scan"):
            indexes = [node.get("Index Name")]
        else:
            continue
        found += [Scan(node["Relation Name"], node["Alias"], index) for index in indexes]
    return found


def plan(conn: Conn, sql: str, values: dict[str, Any], *, how: str) -> Node:
    """The plan of a statement: `custom`, for these values, or `generic`, for any, as it is after some repeats."""
    if how == "custom":
        rows = conn.execute("explain (format json) " + sql, values).fetchall()
    else:
        rows = conn.execute(_numbered("explain (format json, generic_plan) " + sql, values).encode()).fetchall()
    found: Node = rows[0][0][0]["Plan"]
    return found


def touched(conn: Conn, sql: str, values: dict[str, Any]) -> int:
    """Pages that the statement reads or finds in memory, and undone again."""
    with conn.transaction(force_rollback=True):
        rows = conn.execute("explain (analyze, buffers, format json) " + sql, values).fetchall()
    node = rows[0][0][0]["Plan"]
    return int(node["Shared Hit Blocks"] + node["Shared Read Blocks"])


def _nodes(plan: Node) -> Iterator[Node]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


def _numbered(sql: str, values: dict[str, Any]) -> str:
    """The statement as the server prepares it: $1, $2 instead of names. A duration's type goes with it, as the driver
    sends it."""
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match[1] not in names:
            names.append(match[1])
        kind = "::interval" if isinstance(values[match[1]], timedelta) else ""
        return f"${names.index(match[1]) + 1}{kind}"

    return re.sub(r"%\((\w+)\)s", number, sql).replace("%%", "%")
