"""The processes of a round, as they run in production: `outbox relay`, `outbox worker`, `dramatiq`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import psycopg

from bench.ground import Field
from bench.waiting import until
from deploy.local.child import Child

THREADS = 8


def relay(here: Field, *, window: int | None = None, app: Mapping[str, str] | None = None) -> Child:
    more = {} if window is None else {"OUTBOX_RELAY_WINDOW": str(window)}
    return here.python("relay", "-m", "outbox.cli", "relay", **more, **app or {})


def workers(
    here: Field, count: int = 2, *, threads: int = THREADS, queues: str = "bench", app: Mapping[str, str] | None = None
) -> list[Child]:
    """Workers that consume: they have joined the ledger and opened their queues. `app`: the environment of another
    application than the bench's own."""
    words = ["-m", "outbox.cli", "worker", "--threads", str(threads), "--queues", queues]
    started = [here.python(f"worker-{number}", *words, **app or {}) for number in range(1, count + 1)]
    with here.connect() as conn:
        until(lambda: _consuming(conn, queues.split(",")) >= count, f"{count} workers consume", here=here)
    return started


def _consuming(conn: psycopg.Connection[tuple[int]], queues: list[str]) -> int:
    asked = "select count(*) from outbox.worker where kind = 'worker' and queues @> %s::text[]"
    (number,) = conn.execute(asked, [queues]).fetchone() or (0,)
    return int(number)


def plain_dramatiq(here: Field, module: str = "bench.apps.plain") -> Child:
    """Dramatiq's own command: two processes of eight threads."""
    words = [str(Path(sys.executable).with_name("dramatiq")), module, "-p", "2", "-t", str(THREADS)]
    return here.spawn("dramatiq", words, here.environment())
