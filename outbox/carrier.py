"""The carrier: the thread of a relay that carries on acts on many tasks (`outbox/bulk.py`), a batch a transaction.

Any number of relays carry at once, each another act. A batch is the act on its tasks, their lines in the audit and how far the
act is now, together or not at all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import takewhile
from typing import Any
from uuid import UUID

import psycopg
from psycopg.errors import DeadlockDetected, LockNotAvailable

from outbox.bulk import ABLE, Bulk, Bulks, Found
from outbox.ledger import Conn, Ledger, cleaned
from outbox.logs import get_logger

__all__ = ["BATCH", "Carrier"]

log = get_logger("outbox.carrier")

#: Tasks of one transaction: the act goes on at thousands a second, and an abort waits for one batch.
BATCH = 500
#: Seconds between two looks while there is nothing to carry.
PACE = 0.25
#: A batch that fails is tried again so often, ever later; then the act has failed.
TRIES = 5
#: Seconds until an act whose next task somebody has locked goes on.
HELD = 0.5
#: A search may take so long, and one task that is locked be waited for.
WITHIN, LOCKED_WITHIN = timedelta(seconds=30), timedelta(milliseconds=500)


class Carrier:
    """`connect` makes its own connection, in autocommit. `on_moved` is called after each batch: there may be work."""

    def __init__(self, ledger: Ledger, connect: Callable[[], Conn], *, on_moved: Callable[[], None]) -> None:
        self._ledger = ledger
        self._bulks = Bulks(ledger.schema)
        self._connect = connect
        self._on_moved = on_moved
        self._failures: dict[UUID, int] = {}
        self._rests: dict[UUID, float] = {}
        self._rooms: dict[UUID, int] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._carry_on, name="outbox-carrier", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def carry(self, conn: Conn) -> bool:
        """One batch of one act, committed. False when no act can go on now."""
        now = time.monotonic()
        resting = [id for id, until in self._rests.items() if until > now]
        with conn.transaction():
            conn.execute(LIMITS, {"statement": _milliseconds(WITHIN), "lock": _milliseconds(LOCKED_WITHIN)})
            taken = self._bulks.take(conn, most=BATCH, but=resting)
            if taken is None:
                return False
            bulk, room = taken
            self._try(conn, bulk, min(room, self._rooms.get(bulk.id, BATCH)))
        self._on_moved()
        return True

    def _try(self, conn: Conn, bulk: Bulk, room: int) -> None:
        """What fails leaves nothing behind, and is tried again."""
        try:
            with conn.transaction():
                self._meet(conn, bulk, room)
        except (LockNotAvailable, DeadlockDetected):  # of a lane, say: what is before it need not wait with it
            self._rests[bulk.id] = time.monotonic() + HELD
            self._rooms[bulk.id] = 1
        except Exception as error:  # whatever it is, it must not hold up the acts behind
            if conn.closed:
                raise
            self._failed(conn, bulk, error)
        else:
            self._failures.pop(bulk.id, None)
            self._rests.pop(bulk.id, None)
            if (few := self._rooms.pop(bulk.id, BATCH)) < BATCH:
                self._rooms[bulk.id] = 2 * few

    def _meet(self, conn: Conn, bulk: Bulk, room: int) -> None:
        page = self._bulks.page(conn, bulk, limit=room)
        if not self._bulks.hold(conn, bulk.id):
            return
        batch = self._unlocked(conn, bulk, page) or page[:1]
        done = self._act(conn, bulk, batch)
        self._bulks.moved(
            conn,
            bulk.id,
            after=batch[-1].id if batch else None,
            done=done,
            refused=len(batch) - done,
            last=len(batch) == len(page) < room,
        )

    def _unlocked(self, conn: Conn, bulk: Bulk, page: Sequence[Found]) -> list[Found]:
        """What comes before the first task that somebody has locked: that one is waited for alone, holding no other."""
        able = ABLE[bulk.action]
        with conn.transaction() as probe:
            free = self._ledger.lock_free(conn, **_places([each for each in page if each.state in able]))
            met = list(takewhile(lambda each: each.id in free or each.state not in able, page))
            if not met:
                raise psycopg.Rollback(probe)
        return met

    def _act(self, conn: Conn, bulk: Bulk, batch: Sequence[Found]) -> int:
        """Do it to all, with a line for each in the audit. Answers to how many it could be done."""
        able = [each for each in batch if each.state in ABLE[bulk.action]]
        details = self._do(conn, bulk, able) if able else {}
        done = [each.id for each in able if each.id in details]
        if done:
            self._ledger.audit_all(
                conn,
                who=bulk.who,
                action=bulk.action,
                subjects=[str(id) for id in done],
                details=[{**details[id], "bulk": bulk.id} for id in done],
            )
        return len(done)

    def _do(self, conn: Conn, bulk: Bulk, able: Sequence[Found]) -> dict[UUID, dict[str, Any]]:
        """What the audit says of each to which it was done, beside the act's id."""
        ids = [each.id for each in able]
        if bulk.action == "retry":
            return {id: {} for id in self._ledger.retry_all(conn, **_places(able))}
        if bulk.action == "cancel":
            reason = bulk.reason or f"cancelled by {bulk.who}"
            outcomes = self._ledger.cancel_all(conn, ids, reason=reason)
            return {id: {"outcome": outcome, "reason": bulk.reason} for id, outcome in outcomes.items()}
        assert bulk.due_at is not None
        return {id: {"due_at": bulk.due_at} for id in self._ledger.reschedule_all(conn, ids, run_at=bulk.due_at)}

    def _failed(self, conn: Conn, bulk: Bulk, error: Exception) -> None:
        tries = self._failures[bulk.id] = self._failures.get(bulk.id, 0) + 1
        self._rests[bulk.id] = time.monotonic() + 2 ** (tries - 1)
        told = str(error).strip() or type(error).__name__
        log.warning("a batch failed", bulk=str(bulk.id), tries=tries, error=told)
        if tries >= TRIES:
            self._bulks.end(conn, bulk.id, state="failed", error=cleaned(told))
            del self._failures[bulk.id], self._rests[bulk.id]

    def _carry_on(self) -> None:
        conn: Conn | None = None
        while not self._stopping.is_set():
            try:
                conn = conn or self._connect()
                if not self.carry(conn):
                    self._stopping.wait(PACE)
            except Exception as error:
                log.warning("acts on many tasks wait", error=str(error).strip() or repr(error))
                if conn is not None:
                    conn.close()
                conn = None
                self._stopping.wait(1)
        if conn is not None:
            conn.close()


def _places(found: Sequence[Found]) -> dict[str, list[UUID]]:
    """Where each was found."""
    ended = ("dead", "cancelled")
    return {
        "hot": [each.id for each in found if each.state not in ended],
        "dead": [each.id for each in found if each.state == "dead"],
        "cancelled": [each.id for each in found if each.state == "cancelled"],
    }


def _milliseconds(span: timedelta) -> str:
    return f"{span / timedelta(milliseconds=1):.0f}"


LIMITS = "select set_config('statement_timeout', %(statement)s, true), set_config('lock_timeout', %(lock)s, true)"
