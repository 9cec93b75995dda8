"""The processes of a round, as they run in production: `outbox relay`, `outbox worker`, `dramatiq`."""

from __future__ import annotations

import sys
from pathlib import Path

import psycopg

from bench.ground import Field
from bench.waiting import until
from deploy.local.child import Child

THREADS = 8


def relay(here: Field, *, window: int | None = None) -> Child:
    more = {} if window is None else {"OUTBOX_RELAY_WINDOW": str(window)}
    return here.python("relay", "-m", "outbox.cli", "relay", **more)


def workers(here: Field, count: int = 2) -> list[Child]:
    """Workers that consume: they have joined the ledger and opened their queue."""
    started = [
        here.python(f"worker-{number}", "-m", "outbox.cli", "worker", "--threads", str(THREADS))
        for number in range(1, count + 1)
    ]
    with here.connect() as conn:
        until(lambda: _consuming(conn) >= count, f"{count} workers consume", here=here)
    return started


def _consuming(conn: psycopg.Connection[tuple[int]]) -> int:
    asked = "select count(*) from outbox.worker where kind = 'worker' and 'bench' = any(queues)"
    (number,) = conn.execute(asked).fetchone() or (0,)
    return int(number)


def plain_dramatiq(here: Field, module: str = "bench.apps.plain") -> Child:
    """Dramatiq's own command: two processes of eight threads."""
    words = [str(Path(sys.executable).with_name("dramatiq")), module, "-p", "2", "-t", str(THREADS)]
    return here.spawn("dramatiq", words, here.environment())
