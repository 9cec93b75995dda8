"""`outbox workers` and `outbox stats`: who lives, and what was done."""

from __future__ import annotations

from typing import Annotated

import typer

from outbox.cli import show
from outbox.cli.door import now, opened
from outbox.cli.exits import Exit, Trouble
from outbox.cli.options import Json
from outbox.cli.show import Column
from outbox.cli.times import ago

__all__ = ["WORKERS", "join"]


def join(root: typer.Typer) -> None:
    root.command("workers", rich_help_panel="Operators")(workers)
    root.command("stats", rich_help_panel="Operators")(stats)


def workers(json: Json = False) -> None:
    """List the living processes: workers, relays, schedulers.

    Columns: id, kind, host, pid, alive, seconds since its last heartbeat, threads, held tasks, running tasks,
    started, queues.
    """
    with opened() as door:
        found = door.reader.workers(door.conn)
    if json:
        show.document({"items": [{**show.fields(each), "alive": each.alive} for each in found]})
        return
    show.table(found, WORKERS, empty="No process lives: start outbox relay, outbox worker, outbox scheduler.")


def stats(
    since: Annotated[str, typer.Option("--since", help="Ended since: 2h, 1d12h, yesterday 09:00, ISO 8601.")] = "1h",
    json: Json = False,
) -> None:
    """Count what ended, by actor: succeeded, dead, cancelled, failed attempts, and how long a run takes.

    Columns: actor (the first row is the total, named `*`), succeeded, dead, cancelled, failures, seconds p50, p95.
    """
    try:
        begin = ago(since, now())
    except ValueError as error:
        raise Trouble(Exit.USAGE, f"--since: {error}.") from None
    with opened() as door:
        found = door.reader.stats(door.conn, begin)
    if json:
        show.document(
            {"since": found.since, "until": found.until, "per_minute": round(found.per_minute, 3),
             "total": found.total, "actors": found.actors}
        )  # fmt: skip
        return
    show.table([found.total, *found.actors], STATS, empty="")
    show.note(f"{found.per_minute:.1f} tasks a minute since {found.since:%Y-%m-%d %H:%M:%S %Z}")


WORKERS = (
    Column("id", lambda w: w.id),
    Column("kind", lambda w: w.kind),
    Column("host", lambda w: w.host, width=100),
    Column("pid", lambda w: w.pid, right=True),
    Column("alive", lambda w: w.alive, lambda alive: "[green]yes[/]" if alive else "[red]no[/]"),
    Column("silent", lambda w: w.silent, show.age, right=True),
    Column("threads", lambda w: w.threads, right=True),
    Column("held", lambda w: w.held, right=True, width=100),
    Column("running", lambda w: len(w.running), right=True),
    Column("started", lambda w: w.started_at, width=140),
    Column("queues", lambda w: ",".join(w.queues)),
)

STATS = (
    Column("actor", lambda a: a.actor or "*"),
    Column("succeeded", lambda a: a.succeeded, right=True),
    Column("dead", lambda a: a.dead, right=True),
    Column("cancelled", lambda a: a.cancelled, right=True),
    Column("failures", lambda a: a.failures, right=True),
    Column("p50", lambda a: a.p50, show.age, right=True),
    Column("p95", lambda a: a.p95, show.age, right=True),
)
