"""Tasks brought into each state by the ledger's own transitions, and everything that stands in the tables."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from outbox_rows import Outbox

HOUR = timedelta(hours=1)
UNFINISHED = ("scheduled", "waiting", "pending", "published", "running")
FINISHED = ("succeeded", "dead", "cancelled")


def publish(outbox: Outbox) -> list[UUID]:
    """As a relay does whose messages were all confirmed."""
    with outbox.conn.transaction():
        queues = outbox.ledger.register_queues(outbox.conn)
        due = outbox.ledger.claim_due(outbox.conn, room=dict.fromkeys(queues, 1000), batch=1000)
        ids = [each.id for each in due]
        outbox.ledger.mark_published(outbox.conn, ids, epochs={name: epoch for name, (epoch, _) in queues.items()})
    return [UUID(id) for id in ids]


def cancel(outbox: Outbox, id: UUID, reason: str = "changed my mind") -> str | None:
    with outbox.conn.transaction():
        return outbox.ledger.cancel(outbox.conn, id, reason=reason)


def retry(outbox: Outbox, id: UUID) -> bool:
    with outbox.conn.transaction():
        return outbox.ledger.retry(outbox.conn, id)


def rescue(outbox: Outbox, worker: UUID, *, beat: int = 0, max_crashes: int = 3) -> list[tuple[UUID, str]] | None:
    with outbox.conn.transaction():
        return outbox.ledger.rescue(outbox.conn, worker=worker, beat=beat, max_crashes=max_crashes)


def beat(
    outbox: Outbox, worker: UUID, runs: list[UUID] | None = None, tasks: Sequence[UUID] = ()
) -> tuple[int, list[UUID]] | None:
    return outbox.ledger.beat(
        outbox.conn,
        worker=worker,
        runs=runs or [],
        running=runs or [],
        queues=["mail"],
        unclaimed=[],
        claimed_through={},
        tasks=tasks,
    )


def a_task(outbox: Outbox, state: str) -> UUID:
    """A task in this state, wherever such tasks lie."""
    if state == "scheduled":
        return outbox.add(delay=HOUR)
    if state == "waiting":
        outbox.add(ordering_key="k")
        return outbox.add(ordering_key="k")
    id = outbox.add()
    if state == "published":
        publish(outbox)
    elif state == "cancelled":
        cancel(outbox, id)
    elif state != "pending":
        claimed = outbox.must_claim(id, outbox.a_worker())
        if state == "succeeded":
            outbox.succeed(claimed)
        elif state == "dead":
            outbox.end_dead(claimed)
    assert outbox.state(id) == state
    return id


def everything(outbox: Outbox) -> dict[str, list[str]]:
    """All that a transition could change; two of these are equal when nothing has happened in between."""
    tables = ("task", "history", "dead", "queue", "worker", "audit")
    return {name: [row for (row,) in outbox.conn.execute(ROWS.format(name).encode())] for name in tables}


ROWS = "select t::text from outbox.{} t order by 1"
