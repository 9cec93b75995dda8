"""`dashboard`: how long each page takes over ten million tasks, read from as many tables as there are."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx2
import psycopg

from bench import tasks
from bench.figures import Report, Series, quantile
from bench.ground import Field, Ground
from bench.waiting import until
from deploy.local.ports import free_ports, is_listening

#: Pages, by what they are called here. `{dead}` and `{finished}` are ids.
PAGES = {
    "overview": "/",
    "overview, 7 days": "/?range=7d",
    "tasks": "/tasks",
    "tasks: one state": "/tasks?q=state:pending",
    "tasks: dead of an actor": "/tasks?q=state:dead+actor:noop",
    "tasks: an id": "/tasks?q=id:{finished}",
    "tasks: a queue, since 1 h": "/tasks?q=queue:bench+since:1h",
    "tasks: page 2": "/tasks?cursor={cursor}",
    "a dead task": "/tasks/{dead}",
    "a finished task": "/tasks/{finished}",
    "failures": "/failures",
    "queues": "/queues",
    "schedules": "/schedules",
    "processes": "/processes",
    "bulk acts": "/bulk",
    "audit": "/audit",
}
TIMES = 40

DEAD = """
insert into outbox.dead (
    id, state, queue, actor, args, kwargs, options, priority, created_at, due_at, published_at, started_at, finished_at,
    lane_holds, failures, crashes, losses, run_id, worker_id, attempts, reason)
select
    (lpad(to_hex((extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0') || '7'
        || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid,
    'dead', 'bench', case when n %% 3 = 0 then 'noop' else 'other' end, json_build_array(n), '{}', '{}', 0, at, at, at, at, at,
    false, 3, 0, 0, gen_random_uuid(), gen_random_uuid(), jsonb_build_array(jsonb_build_object(
        'run', gen_random_uuid(), 'worker', gen_random_uuid(), 'outcome', 'failed', 'error', 'ValueError: ' || n,
        'failure', substr(md5((n %% 20)::text), 1, 12), 'traceback', repeat('File "app.py", line 1, in f\n', 20),
        'started_at', at, 'finished_at', at)), 'ValueError: ' || n
from generate_series(1, %s::bigint) n
cross join lateral (select clock_timestamp() - n * interval '10 seconds') as ended(at)
"""

MINUTES = """
insert into outbox.minute (minute, actor, queue, succeeded, dead, waits, runs)
select m, 'actor_' || a, 'bench', 500, a % 2, '{"12": 300, "20": 150, "30": 50}', '{"8": 500}'
from generate_series(date_trunc('minute', clock_timestamp()) - interval '7 days', clock_timestamp(), interval '1 minute') m
cross join generate_series(1, 10) a
"""

QUARTERS = """
insert into outbox.quarter (quarter, actor, queue, succeeded, dead, waits, runs)
select q, 'actor_' || a, 'bench', 7500, a, '{"12": 4500, "20": 2250, "30": 750}', '{"8": 7500}'
from generate_series(date_bin('15 minutes', clock_timestamp(), 'epoch') - interval '7 days', clock_timestamp(), '15 minutes') q
cross join generate_series(1, 10) a
"""

RETRYING = """
update outbox.task set state = 'scheduled', failures = 1, due_at = due_at + interval '1 hour', reason = 'ValueError'
where id in (select id from outbox.task limit %s)
"""


#: Pages that are open at once, while tasks come; and how many tasks come, one after the other.
OPEN, CHANGES = 50, 20


def measure(ground: Ground, *, rounds: int, quick: bool) -> Report:
    finished, pending, dead = (500_000, 50_000, 10_000) if quick else (9_000_000, 900_000, 100_000)
    series = {name: Series(f"{name}: p95", "ms", at_most=200) for name in PAGES}
    seen = Series(f"a new task is seen in {OPEN} open pages: p95", "ms", at_most=1000)
    with ground.round() as here:
        with here.connect() as conn:
            _fill(conn, finished, pending, dead)
            names = _names(conn)
        port = _serve(here)
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            for _ in range(rounds):
                for name, path in PAGES.items():
                    series[name].values.append(_p95(client, path.format(**names)))
                seen.values.append(quantile(asyncio.run(_seen(here, port)), 0.95) * 1000)
    return Report(
        f"Dashboard: each page over {finished + pending + dead:,} tasks",
        [
            f"{finished:,} succeeded in today's partition, {pending:,} pending and retrying, {dead:,} dead, ten actors' figures of "
            "a week",
            f"one uvicorn process, one client, {TIMES} requests a page in each round, the first ones not counted",
            f"{OPEN} streams of five pages; from the commit of each of {CHANGES} tasks to the frame that shows it",
        ],
        [*series.values(), seen],
    )


def _fill(conn: psycopg.Connection[Any], finished: int, pending: int, dead: int) -> None:
    tasks.make_finished(conn, finished)
    tasks.make_pending(conn, pending)
    conn.execute(RETRYING, [pending // 20])
    conn.execute(DEAD, [dead])
    conn.execute(MINUTES)
    conn.execute(QUARTERS)
    conn.execute("vacuum (analyze) outbox.task, outbox.dead, outbox.minute")


def _names(conn: psycopg.Connection[Any]) -> dict[str, str]:
    import base64

    def one(sql: str) -> Any:
        return (conn.execute(sql).fetchone() or [None])[0]

    newest = one("select id from outbox.task order by id desc offset 50 limit 1")
    return {
        "dead": str(one("select id from outbox.dead limit 1")),
        "finished": str(one("select id from outbox.history limit 1")),
        "cursor": base64.urlsafe_b64encode(newest.bytes).decode().rstrip("="),
    }


def _serve(here: Field) -> int:
    (port,) = free_ports(1)
    words = [
        "-m",
        "uvicorn",
        "bench.apps.dashboard:app",
        "--port",
        str(port),
        "--no-access-log",
        "--log-level",
        "warning",
    ]
    here.python("dashboard", *words)
    until(lambda: is_listening(port), "the dashboard answers", here=here)
    return port


def _p95(client: httpx2.Client, path: str) -> float:
    taken = []
    for number in range(TIMES + 3):
        began = time.perf_counter()
        answer = client.get(path)
        answer.raise_for_status()
        if number >= 3:
            taken.append((time.perf_counter() - began) * 1000)
    return quantile(taken, 0.95)


async def _seen(here: Field, port: int) -> list[float]:
    """Seconds from each commit to each open list of tasks."""
    pages = ["/tasks", "/", "/tasks?q=queue:bench", "/queues", "/processes"]
    heard: dict[int, dict[str, float]] = {number: {} for number in range(OPEN)}
    begun = asyncio.Semaphore(0)

    async def follow(client: httpx2.AsyncClient, number: int) -> None:
        address = f"/live?at={pages[number % len(pages)]}"
        async with client.stream("GET", address) as answer:
            begun.release()
            async for line in answer.aiter_lines():
                if line.startswith("data:"):
                    at = time.perf_counter()
                    for id in wanted:
                        if id in line:
                            heard[number].setdefault(id, at)

    wanted: dict[str, float] = {}
    limits = httpx2.Limits(max_connections=OPEN + 5)
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, limits=limits) as client:
        tabs = [asyncio.create_task(follow(client, number)) for number in range(OPEN)]
        for _ in tabs:
            await begun.acquire()
        await asyncio.sleep(2)
        with here.connect() as conn:
            for number in range(CHANGES):
                conn.execute(tasks.PENDING, [number, number])
                id = (conn.execute("select id from outbox.task order by id desc limit 1").fetchone() or [""])[0]
                wanted[str(id)] = time.perf_counter()
                await asyncio.sleep(1.2 + number % 7 / 10)
        await asyncio.sleep(3)
        for tab in tabs:
            tab.cancel()
    lists = [number for number in range(OPEN) if pages[number % len(pages)] == "/tasks"]
    return [heard[number].get(id, began + 10) - began for number in lists for id, began in wanted.items()]
