"""The ledger: every statement that changes a task, whole, each under the transition that it is.

Every change of a task's state is guarded by its state and its token: the fence for what has not started, the
run id for what has (I3). A late relay, worker or message copy therefore changes nothing; it is told so by an
empty answer. All functions take a psycopg connection and leave the transaction to their caller.

A row that a statement picks with a LIMIT is named by `= any(array(…))`, which is computed once: inside `in (…)` the
planner may run the pick again for each row, and so change more rows than it was to.

The guard of a row that is named by its id says `state = (select 'running')`, which no partial index answers. With the
bare constant the planner, believing that a state is rare, would look for the row among all that are in that state, and
all that were since the last vacuum.

The statements name the schema `outbox`; `Ledger(schema=...)` puts another name in its place once, at the start.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import Connection

from outbox.fingerprint import fingerprint_of

Conn = Connection[Any]
#: What a worker claims by: (id, fence, run id).
Asked = tuple[UUID | str, UUID | str, UUID | str]

__all__ = ["Asked", "Claimed", "Conn", "Due", "Failure", "Finished", "Ledger", "Stretch", "Verdict", "cleaned"]


class Due(NamedTuple):
    """A row claimed for publishing: its message body is fixed by the row alone. Id and time stay the text that they came as."""

    id: str
    queue: str
    priority: int
    due_at: str
    body: bytes


class Stretch(NamedTuple):
    """A part of a queue, in the order of claims: from (low, since) on, up to before (high, until)."""

    queue: str
    low: int
    since: str
    high: int
    until: str


class Claimed(NamedTuple):
    """What the worker learns from its claim."""

    id: UUID
    run_id: UUID
    failures: int
    attempt: int
    max_attempts: int | None
    lane: str | None
    suspect: bool
    published_at: datetime | None
    #: The message as the row has it: what is run, whatever came.
    body: str


class Verdict(NamedTuple):
    """Why a message could not be claimed: `absent` and `stale` ones are dropped, the others have a next step."""

    id: UUID
    why: str


class Finished(NamedTuple):
    """A run that ended, as its worker saw it. `ran` and `ago` are seconds of the worker's monotonic clock."""

    id: UUID
    run_id: UUID
    ran: float
    ago: float


class Failure(NamedTuple):
    """A run that ended without success: again after `wait` seconds, or dead when `wait` is None."""

    run: Finished
    outcome: str
    error: str
    traceback: str | None
    wait: float | None
    counts: bool
    logs: str | None = None


class Ledger:
    """The statements, bound to a schema."""

    def __init__(self, schema: str = "outbox") -> None:
        self.schema = schema
        self._named: dict[str, str] = {}
        self.enqueue_sql = self._of(ENQUEUE)
        self.enqueue_unique_sql = self._of(ENQUEUE_UNIQUE)
        self.enqueue_rest_sql = self._of(ENQUEUE_REST)

    def _of(self, sql: str) -> str:
        if self.schema == "outbox":
            return sql
        named = self._named.get(sql)
        if named is None:
            named = self._named[sql] = sql.replace("outbox.", f"{self.schema}.")
        return named

    def _run(self, conn: Conn, sql: str, **params: Any) -> list[Any]:
        cursor = conn.execute(self._of(sql), params)
        return cursor.fetchall() if cursor.description else []

    # ------------------------------------------------------------------ enqueue

    def enqueue(self, conn: Conn, rows: str) -> None:
        """Insert tasks without a unique key from a JSON array of rows, in the caller's transaction, by one statement."""
        conn.execute(self.enqueue_sql, {"rows": rows})

    def is_finished(self, conn: Conn, id: UUID) -> bool:
        """Whether a task of this id has ended, and is still remembered."""
        return bool(self._run(conn, IS_FINISHED, id=id)[0][0])

    # ------------------------------------------------------------------ relay

    def register_queues(self, conn: Conn) -> dict[str, tuple[int, bool]]:
        """All known queues: name to (epoch, paused). New names among the pending rows join the registry."""
        return {name: (epoch, paused) for name, epoch, paused in self._run(conn, REGISTER_QUEUES)}

    def queues(self, conn: Conn) -> dict[str, tuple[int, bool]]:
        """The queues that are known already, as `register_queues` answers them; without a look at any task."""
        return {name: (epoch, paused) for name, epoch, paused in self._run(conn, QUEUES)}

    def claim_due(
        self, conn: Conn, *, room: Mapping[str, int], batch: int, stretches: Sequence[Stretch] | None = None
    ) -> list[Due]:
        """Lock up to `room` pending rows of each queue, `batch` in all, and answer their message bodies.

        Of each queue those in these stretches of it, one after the other; by default the whole of each.
        Queues are served in the order of `room`: rotate it, or the first one's backlog starves the others.
        The locks live as long as the caller's transaction, which must outlive the confirms.
        """
        wanted = {
            "queues": list(room),
            "rooms": [min(n, batch) for n in room.values()],
            "batch": batch,
            "bytes": BATCH_BYTES,
            **_stretches([Stretch(name, *WHOLE) for name in room] if stretches is None else stretches),
        }
        return list(map(Due._make, conn.execute(self._of(CLAIM_DUE), wanted, binary=True).fetchall()))

    def mark_published(self, conn: Conn, ids: Iterable[UUID | str], *, epochs: Mapping[str, int]) -> int:
        """Rows that are still pending become published, each in its queue's epoch. For confirmed rows only (I4).

        Where the queue was paused meanwhile they stay pending, and what was published goes stale.
        """
        wanted = {"ids": _array(ids), "queues": list(epochs), "epochs": list(epochs.values())}
        return conn.execute(self._of(MARK_PUBLISHED), wanted).rowcount

    def push_back(self, conn: Conn, refused: Sequence[tuple[UUID | str, str]]) -> None:
        """Rows that the broker refused wait, ever longer, with the reason: no attempt, and nobody is held up."""
        self._run(conn, PUSH_BACK, ids=[i for i, _ in refused], reasons=[cleaned(reason) for _, reason in refused])

    def promote_due(self, conn: Conn, *, limit: int = 2000) -> tuple[int, list[str]]:
        """Scheduled rows whose time has come become pending; those of a limited lane wait for their turn.

        Answers how many, and the lanes to grant.
        """
        rows = self._run(conn, PROMOTE_DUE, limit=limit)
        return len(rows), sorted({lane for (lane,) in rows if lane is not None})

    def grant(self, conn: Conn, lanes: Sequence[str]) -> int:
        """Let the next of these lanes go, up to each lane's limit. Needs a transaction, in READ COMMITTED.

        One granter at a time, until its commit: so no two of them take the same place. While another one grants, the
        answer is 0, and the next sweep sees to it.
        """
        if (
            not lanes
            or not self._run(conn, "select pg_try_advisory_xact_lock(hashtextextended('outbox.grant', 0))")[0][0]
        ):
            return 0
        return self._grant(conn, dict.fromkeys(lanes, 1_000_000))

    def sweep_lanes(self, conn: Conn, *, after: str = "") -> tuple[int, str]:
        """Grant what waits although there is room, a page of lanes at a time, in the caller's transaction.

        Answers how many, and the lane after which the next page begins; "" when all have been seen.
        """
        page = self._run(conn, WAITING_LANES, after=after, limit=LANES)
        return self.grant(conn, [lane for lane, free in page if free]), page[-1][0] if len(page) == LANES else ""

    def hold_lane(
        self, conn: Conn, lane: str, *, until: datetime | None, wait: timedelta | None, places: int | None
    ) -> None:
        """Nothing that waits in this lane is let go until then, and afterwards at most `places` are under way at once."""
        self._run(conn, HOLD_LANE, lane=lane, until=until, wait=wait, places=places)

    def free_lane(self, conn: Conn, lane: str) -> bool:
        """The lane has its tasks' own limit again. Whether it was held."""
        return conn.execute(self._of(FREE_LANE), {"lane": lane}).rowcount > 0

    def expire(self, conn: Conn, *, limit: int = 1000) -> list[str]:
        """Unstarted tasks past their `expires_at` end cancelled. Answers the lanes to grant."""
        rows = self._run(conn, EXPIRE, limit=limit)
        return [lane for (lane,) in rows if lane is not None]

    # ------------------------------------------------------------------ the broker lost it

    def queue_epoch(self, conn: Conn, name: str) -> int:
        """The queue's epoch now; an unknown queue is registered with epoch 0."""
        return int(self._run(conn, QUEUE_EPOCH, name=name)[0][0])

    def begin_epoch(self, conn: Conn, name: str, *, seen: int) -> int | None:
        """The queue was found missing: start its next epoch, unless someone has since `seen`. Commit before declaring."""
        rows = self._run(conn, BEGIN_EPOCH, name=name, seen=seen)
        return int(rows[0][0]) if rows else None

    def republish_older_epochs(self, conn: Conn) -> int:
        """Published rows of an older epoch are due again, with the same fence: the first copy wins."""
        return len(self._run(conn, REPUBLISH_OLDER_EPOCHS))

    def republish_overtaken(self, conn: Conn, *, margin: timedelta) -> int:
        """Published rows are due again when a message of their queue, published `margin` later, was claimed."""
        return len(self._run(conn, REPUBLISH_OVERTAKEN, margin=margin, limit=PAGE))

    def republish_from_empty(self, conn: Conn, name: str, *, before: datetime) -> int:
        """The queue was empty at `before`, and each of its workers said later that it holds no unclaimed message:

        what was published before and is still not claimed is lost.
        """
        return len(self._run(conn, REPUBLISH_FROM_EMPTY, name=name, before=before))

    def return_dead_letter(self, conn: Conn, *, id: UUID | str, fence: UUID | str) -> bool:
        """A dead letter came back: its row is due again, no attempt counted. False when the copy is stale."""
        return bool(self._run(conn, RETURN_DEAD_LETTER, id=id, fence=fence))

    # ------------------------------------------------------------------ worker

    def join(
        self,
        conn: Conn,
        *,
        worker: UUID,
        kind: str,
        host: str,
        pid: int,
        queues: Sequence[str],
        threads: int,
        lease: timedelta,
    ) -> None:
        """A process begins to live: it is watched from now on."""
        self._run(
            conn, JOIN, worker=worker, kind=kind, host=host, pid=pid, queues=list(queues), threads=threads,
            lease=lease.total_seconds(),
        )  # fmt: skip

    def beat(
        self,
        conn: Conn,
        *,
        worker: UUID,
        runs: Sequence[UUID],
        running: Sequence[UUID],
        queues: Sequence[str],
        unclaimed: Sequence[str],
        claimed_through: Mapping[str, str],
        tasks: Sequence[UUID] = (),
        step: int = 1,
    ) -> tuple[int, list[UUID]] | None:
        """One heartbeat: (beat, its runs of `tasks` whose cancellation is asked for), or None when it was declared dead.

        The tasks are named, not looked for: each row that ever ran is an entry in the index of what runs (I12).
        With `step=0` it only reports: beats are counted at the lease's pace, so that they measure time.
        """
        rows = self._run(
            conn, BEAT, worker=worker, runs=_array(runs), running=_array(running), queues=list(queues),
            unclaimed=list(unclaimed), tasks=_array(tasks), step=step, through=json.dumps(claimed_through),
        )  # fmt: skip
        return (int(rows[0][0]), list(rows[0][1] or ())) if rows else None

    def leave(self, conn: Conn, worker: UUID) -> None:
        """A process ends in order. What it still holds is rescued at once, as given back."""
        self._run(conn, LEAVE, worker=worker)

    def claim(
        self, conn: Conn, asked: Sequence[Asked], *, worker: UUID, beat: int, alone: bool = False
    ) -> list[Claimed]:
        """Claim (id, fence, run id) triples for this worker. What is missing in the answer was not claimed.

        Nothing is claimed for a worker that was declared dead (I7), nothing suspect unless it will run alone (I6).
        """
        rows = self._run(
            conn, CLAIM, ids=_array(a[0] for a in asked), fences=_array(a[1] for a in asked),
            runs=_array(a[2] for a in asked),
            worker=worker, beat=beat, alone=alone,
        )  # fmt: skip
        return list(map(Claimed._make, rows))

    def claim_unlocked(
        self, conn: Conn, asked: Sequence[Asked], *, worker: UUID, beat: int, alone: bool = False
    ) -> list[Claimed]:
        """As `claim`, for those rows that nobody has locked."""
        rows = self._run(
            conn, CLAIM_UNLOCKED, ids=_array(a[0] for a in asked), fences=_array(a[1] for a in asked),
            runs=_array(a[2] for a in asked),
            worker=worker, beat=beat, alone=alone,
        )  # fmt: skip
        return list(map(Claimed._make, rows))

    def verdicts(self, conn: Conn, asked: Sequence[Asked], *, worker: UUID) -> list[Verdict]:
        """Why these were not claimed: mine (a lost reply), suspect, expired, held up, outlawed, or stale."""
        rows = self._run(
            conn, VERDICTS, ids=_array(a[0] for a in asked), fences=_array(a[1] for a in asked),
            runs=_array(a[2] for a in asked),
            worker=worker,
        )  # fmt: skip
        return [Verdict(*row) for row in rows]

    def claims_of(self, conn: Conn, asked: Sequence[Asked], *, worker: UUID) -> list[Claimed]:
        """Claims that were made although their reply was lost: same run id, same worker."""
        rows = self._run(
            conn, CLAIMS_OF, ids=_array(a[0] for a in asked), runs=_array(a[2] for a in asked), worker=worker
        )
        return list(map(Claimed._make, rows))

    def give_back(self, conn: Conn, held: Sequence[tuple[UUID, UUID]]) -> int:
        """Claimed (id, run id), not started: due now, nothing counted.

        One whose cancellation is asked for expires instead, here as wherever a run comes back unfinished.
        """
        return len(self._run(conn, GIVE_BACK, ids=[i for i, _ in held], runs=[r for _, r in held]))

    def record_successes(self, conn: Conn, runs: Sequence[Finished]) -> list[UUID]:
        """These runs succeeded: their tasks move to the history. Answers the ids that were still theirs."""
        rows = self._run(
            conn, RECORD_SUCCESSES, ids=_array(r.id for r in runs), runs=_array(r.run_id for r in runs),
            ran=_array(r.ran for r in runs), ago=_array(r.ago for r in runs),
        )  # fmt: skip
        self._grant_after(conn, rows)
        return [row[0] for row in rows]

    def record_again(self, conn: Conn, failures: Sequence[Failure]) -> list[UUID]:
        """These runs ended without success and are due again after their wait: new fence, attempt recorded."""
        rows = self._run(conn, RECORD_AGAIN, **_columns(failures), waits=[f.wait for f in failures])
        self._grant_after(conn, rows)
        return [row[0] for row in rows]

    def record_dead(self, conn: Conn, failures: Sequence[Failure]) -> list[UUID]:
        """These runs ended their tasks dead."""
        rows = self._run(conn, RECORD_DEAD, **_columns(failures))
        self._grant_after(conn, rows)
        return [row[0] for row in rows]

    def record_cancelled(self, conn: Conn, failures: Sequence[Failure]) -> list[UUID]:
        """These runs stopped because their tasks are to be cancelled, or were skipped."""
        rows = self._run(conn, RECORD_CANCELLED, **_columns(failures))
        self._grant_after(conn, rows)
        return [row[0] for row in rows]

    def _grant_after(self, conn: Conn, rows: Sequence[Any]) -> None:
        """As many go as came free: that needs no granter's lock, for nothing is added to what is under way."""
        freed: dict[str, int] = {}
        for _, lane in rows:
            if lane is not None:
                freed[lane] = freed.get(lane, 0) + 1
        self._grant(conn, freed)

    def _grant(self, conn: Conn, places: Mapping[str, int]) -> int:
        if not places:
            return 0
        return len(self._run(conn, GRANT, lanes=list(places), places=list(places.values())))

    # ------------------------------------------------------------------ rescue

    def beats(self, conn: Conn) -> list[tuple[UUID, int, float]]:
        """All living processes: (id, beat, lease in seconds)."""
        return self._run(conn, "select id, beat, lease from outbox.worker")

    def rescue(self, conn: Conn, *, worker: UUID, beat: int, max_crashes: int) -> list[tuple[UUID, str]] | None:
        """Declare the worker dead, if its beat still stands at `beat`, and make its tasks due at once.

        What somebody has locked (a settle that died in the middle) is left to `rescue_unlisted`.
        They become suspects and run alone next; one that already ran alone has crashed, and is dead after
        `max_crashes` of these. Answers (id, what became of it), or None when the worker lives or is gone.
        """
        if not self._run(
            conn,
            "delete from outbox.worker where id = %(worker)s and beat = %(beat)s returning id",
            worker=worker,
            beat=beat,
        ):
            return None
        crashed = fingerprint_of("its worker died", None)
        rows = self._run(conn, RESCUE_CANCELLED, worker=worker)
        rows += self._run(conn, RESCUE_DEAD, worker=worker, max_crashes=max_crashes, failure=crashed)
        rows += self._run(conn, RESCUE, worker=worker, failure=crashed)
        self._grant_after(conn, [(i, lane) for i, _, lane in rows])
        return [(i, what) for i, what, _ in rows]

    def rescue_unlisted(self, conn: Conn) -> list[UUID]:
        """Running rows whose worker is gone, or lives and does not list them after three beats, are due at once."""
        return [i for (i,) in self._run(conn, RESCUE_UNLISTED)]

    # ------------------------------------------------------------------ operators

    def cancel(self, conn: Conn, id: UUID, *, reason: str) -> str | None:
        """`cancelled` when it had not started; `requested` when it runs; None when it is not unfinished."""
        rows = self._run(conn, CANCEL, id=id, reason=cleaned(reason))
        if rows:
            self._grant_after(conn, rows)
            return "cancelled"
        return "requested" if self._run(conn, REQUEST_CANCEL, id=id) else None

    def reschedule(self, conn: Conn, id: UUID, *, run_at: datetime | None, delay: timedelta | None) -> datetime | None:
        """An unstarted task is due at another time: new fence. Answers the new time, or None if it cannot be moved."""
        rows = self._run(conn, RESCHEDULE, id=id, run_at=run_at, delay=delay)
        self.grant(conn, [lane for _, lane in rows if lane is not None])
        return rows[0][0] if rows else None

    def retry(self, conn: Conn, id: UUID) -> bool:
        """A dead or cancelled task is due again: same id, new fence, its attempts kept; it joins its lane's tail.

        A scheduled one (between two attempts) is due now.
        """
        return bool(
            self._run(conn, RETRY_DEAD, id=id)
            or self._run(conn, RETRY_CANCELLED, id=id)
            or self._run(conn, RETRY_NOW, id=id)
        )

    # ------------------------------------------------------------------ operators, on many tasks

    def lock_free(
        self, conn: Conn, *, hot: Sequence[UUID] = (), dead: Sequence[UUID] = (), cancelled: Sequence[UUID] = ()
    ) -> set[UUID]:
        """Lock those of these unfinished, dead and cancelled tasks that nobody has locked, and wait for none."""
        values = {"hot": _array(hot), "dead": _array(dead), "cancelled": _array(cancelled)}
        return {id for (id,) in self._run(conn, LOCK_FREE, **values)}

    def retry_all(
        self, conn: Conn, *, hot: Sequence[UUID] = (), dead: Sequence[UUID] = (), cancelled: Sequence[UUID] = ()
    ) -> set[UUID]:
        """As `retry`, each where it was found. Answers which were retried."""
        rows = (
            self._run(conn, RETRY_ALL_ENDED, dead=_array(dead), cancelled=_array(cancelled))
            if dead or cancelled
            else []
        )
        rows += self._run(conn, RETRY_ALL_NOW, ids=_array(hot)) if hot else []
        return {id for (id,) in rows}

    def cancel_all(self, conn: Conn, ids: Sequence[UUID], *, reason: str) -> dict[UUID, str]:
        """As `cancel`: `cancelled` or `requested` of each that was unfinished."""
        rows = self._run(conn, CANCEL_ALL, ids=_array(ids), reason=cleaned(reason))
        self._grant_after(conn, rows)
        outcomes = {id: "cancelled" for id, _ in rows}
        running = [id for id in ids if id not in outcomes]
        if running:
            outcomes |= {id: "requested" for (id,) in self._run(conn, REQUEST_CANCEL_ALL, ids=_array(running))}
        return outcomes

    def reschedule_all(self, conn: Conn, ids: Sequence[UUID], *, run_at: datetime) -> set[UUID]:
        """As `reschedule`. Answers which were moved."""
        rows = self._run(conn, RESCHEDULE_ALL, ids=_array(ids), run_at=run_at)
        self.grant(conn, sorted({lane for _, lane in rows if lane is not None}))
        return {id for id, _ in rows}

    def again_with(self, conn: Conn, id: UUID, *, new: UUID, args: str, kwargs: str, options: str) -> bool:
        """A new task, due now, that is a dead or cancelled one but for what it carries. False when there is none, or when
        its unique key is taken. The old one stays, and holds up nobody any more: the new one is at its lane's tail."""
        held = self._run(conn, HOLD_NO_MORE, id=id)
        values = {"new": new, "args": args, "kwargs": kwargs, "options": options, "holds": bool(held)}
        rows = self._run(conn, AGAIN_WITH, id=id, **values)
        self.grant(conn, [lane for _, lane in rows if lane is not None])
        return bool(rows)

    def pause_queue(self, conn: Conn, name: str, *, who: str) -> int:
        """Nothing of this queue starts any more: unclaimed messages go stale, their rows wait as pending."""
        self._run(conn, PAUSE_QUEUE, name=name, who=cleaned(who))
        return self.unpublish_paused(conn, name)

    def unpublish_paused(self, conn: Conn, name: str) -> int:
        """What is published of a paused queue goes stale, also what a relay had in flight when it was paused."""
        count = page = len(self._run(conn, UNPUBLISH_PAUSED, name=name, limit=PAGE))
        while page == PAGE:
            count += (page := len(self._run(conn, UNPUBLISH_PAUSED, name=name, limit=PAGE)))
        return count

    def resume_queue(self, conn: Conn, name: str) -> bool:
        return bool(self._run(conn, RESUME_QUEUE, name=name))

    def audit(self, conn: Conn, *, who: str, action: str, subject: str, **detail: Any) -> None:
        """Write down what an operator did, in the transaction that does it."""
        self._run(conn, AUDIT, who=cleaned(who), action=action, subject=subject, detail=json.dumps(detail, default=str))

    def audit_all(
        self, conn: Conn, *, who: str, action: str, subjects: Sequence[str], details: Sequence[Mapping[str, Any]]
    ) -> None:
        """As `audit`, a line for each subject, in their order."""
        told = [json.dumps(detail, default=str) for detail in details]
        self._run(conn, AUDIT_ALL, who=cleaned(who), action=action, subjects=list(subjects), details=told)

    # ------------------------------------------------------------------ retention

    def keep_partitions(self, conn: Conn, *, days_ahead: int = 7) -> int:
        return int(self._run(conn, "select outbox.keep_partitions(%(days)s)", days=days_ahead)[0][0])

    def old_partitions(self, conn: Conn, *, before: datetime) -> list[str]:
        """Partitions of the history that hold nothing younger than `before`."""
        return [name for (name,) in self._run(conn, OLD_PARTITIONS, schema=self.schema, day=f"{before:%Y%m%d}")]

    def purge_dead(self, conn: Conn, *, before: datetime, limit: int = 5000) -> int:
        return len(self._run(conn, PURGE_DEAD, before=before, limit=limit))

    def purge_default(self, conn: Conn, *, before: datetime, limit: int = 5000) -> int:
        return len(self._run(conn, PURGE_DEFAULT, before=before, limit=limit))


def _columns(failures: Sequence[Failure]) -> dict[str, list[Any]]:
    return {
        "ids": [f.run.id for f in failures],
        "runs": [f.run.run_id for f in failures],
        "ran": [f.run.ran for f in failures],
        "ago": [f.run.ago for f in failures],
        "outcomes": [f.outcome for f in failures],
        "errors": [cleaned(f.error) for f in failures],
        "tracebacks": [cleaned(f.traceback) if f.traceback else None for f in failures],
        "counts": [int(f.counts) for f in failures],
        "kinds": [None if f.outcome == "cancelled" else fingerprint_of(f.error, f.traceback) for f in failures],
        "logs": [cleaned(f.logs) if f.logs else None for f in failures],
    }


def _stretches(stretches: Sequence[Stretch]) -> dict[str, list[Any]]:
    return {
        "of": [each.queue for each in stretches],
        "lows": [each.low for each in stretches],
        "sinces": [each.since for each in stretches],
        "highs": [each.high for each in stretches],
        "untils": [each.until for each in stretches],
    }


def _array(values: Iterable[UUID | float | str]) -> str:
    """A PostgreSQL array literal of plain values: a fifth of the cost of having the driver adapt each element."""
    return "{" + ",".join([value.hex if isinstance(value, UUID) else str(value) for value in values]) + "}"


def cleaned(text: str, *, limit: int = 16_384) -> str:
    """Text that PostgreSQL takes: no NUL, no lone surrogate, at most `limit` characters (head and tail kept)."""
    text = text.replace("\x00", "\\0").encode("utf-8", "backslashreplace").decode("utf-8")
    if len(text) <= limit:
        return text
    half = limit // 2 - 8
    return f"{text[:half]}\n[…]\n{text[-half:]}"


#: Arguments that one claim of the relay fetches, beyond which the batch ends.
BATCH_BYTES = 8_388_608

#: Every priority, and every time.
WHOLE = (-32768, "-infinity", 32767, "infinity")

#: Published rows that one statement looks through for those that are lost, or paused.
PAGE = 5000

#: Lanes that one transaction locks, and one sweep looks at.
LANES = 500

ENQUEUE = """
insert into outbox.task (
    id, state, queue, actor, args, kwargs, options, priority, due_at, expires_at,
    lane, lane_limit, lane_holds, max_attempts)
select
    a.id,
    case when coalesce(a.run_at, clock_timestamp()) > clock_timestamp() or a.delay > 0 then 'scheduled' else 'pending' end,
    a.queue, a.actor, a.args, a.kwargs, a.options, coalesce(a.priority, 0),
    coalesce(a.run_at, clock_timestamp()) + coalesce(a.delay, 0) * interval '1 second',
    a.expires_at, a.lane, a.lane_limit, coalesce(a.lane_holds, false), a.max_attempts
from rows from (json_to_recordset(%(rows)s::json) as (
    id uuid, queue text, actor text, args json, kwargs json, options json, priority smallint,
    run_at timestamptz, delay float, expires_at timestamptz, lane text, lane_limit integer, lane_holds boolean,
    max_attempts integer)) with ordinality as a
order by a.lane nulls first, a.ordinality
"""

ENQUEUE_UNIQUE = """
with asked as (
    select r.*
    from rows from (json_to_recordset(%(rows)s::json) as (
        id uuid, queue text, actor text, args json, kwargs json, options json, priority smallint,
        run_at timestamptz, delay float, expires_at timestamptz, lane text, lane_limit integer, lane_holds boolean,
        unique_key text, max_attempts integer)) with ordinality as r
),
enqueued as (
    insert into outbox.task (
        id, state, queue, actor, args, kwargs, options, priority, due_at, expires_at,
        lane, lane_limit, lane_holds, unique_key, max_attempts)
    select
        a.id,
        case when coalesce(a.run_at, clock_timestamp()) > clock_timestamp() or a.delay > 0 then 'scheduled' else 'pending' end,
        a.queue, a.actor, a.args, a.kwargs, a.options, coalesce(a.priority, 0),
        coalesce(a.run_at, clock_timestamp()) + coalesce(a.delay, 0) * interval '1 second',
        a.expires_at, a.lane, a.lane_limit, coalesce(a.lane_holds, false), a.unique_key, a.max_attempts
    from asked a
    order by a.lane nulls first, case when a.lane is null then a.unique_key end nulls first, a.ordinality
    on conflict (unique_key) where unique_key is not null and not started do nothing
    returning id
)
select a.id, coalesce(e.id, (
    select held.id
    from outbox.task held
    where a.unique_key is not null and held.unique_key = a.unique_key and not held.started))
from asked a
left join enqueued e on e.id = a.id
"""

ENQUEUE_REST = """
with asked as (
    select r.*
    from rows from (json_to_recordset(%(rows)s::json) as (
        id uuid, queue text, actor text, args json, kwargs json, options json, priority smallint,
        run_at timestamptz, delay float, expires_at timestamptz, lane text, lane_limit integer, lane_holds boolean,
        unique_key text, max_attempts integer)) with ordinality as r
),
enqueued as (
    insert into outbox.task (
        id, state, queue, actor, args, kwargs, options, priority, due_at, expires_at,
        lane, lane_limit, lane_holds, unique_key, max_attempts)
    select
        a.id,
        case when coalesce(a.run_at, clock_timestamp()) > clock_timestamp() or a.delay > 0 then 'scheduled' else 'pending' end,
        a.queue, a.actor, a.args, a.kwargs, a.options, coalesce(a.priority, 0),
        coalesce(a.run_at, clock_timestamp()) + coalesce(a.delay, 0) * interval '1 second',
        a.expires_at, a.lane, a.lane_limit, coalesce(a.lane_holds, false), a.unique_key, a.max_attempts
    from asked a
    where not exists (select from outbox.task own where own.id = a.id)
    order by a.lane nulls first, case when a.lane is null then a.unique_key end nulls first, a.ordinality
    on conflict (unique_key) where unique_key is not null and not started do nothing
    returning id
)
select a.id, coalesce(
    (select own.id from outbox.task own where own.id = a.id), e.id, (
    select held.id
    from outbox.task held
    where a.unique_key is not null and held.unique_key = a.unique_key and not held.started))
from asked a
left join enqueued e on e.id = a.id
"""

IS_FINISHED = """
select exists (select from outbox.history h where h.id = %(id)s) or exists (select from outbox.dead d where d.id = %(id)s)
"""

REGISTER_QUEUES = """
with recursive pending as (
    (select t.queue from outbox.task t where t.state = 'pending' order by t.queue limit 1)
    union all
    select (select t.queue from outbox.task t where t.state = 'pending' and t.queue > p.queue order by t.queue limit 1)
    from pending p
    where p.queue is not null
),
new as (
    insert into outbox.queue (name)
    select p.queue from pending p
    where p.queue is not null and not exists (select from outbox.queue q where q.name = p.queue)
    on conflict do nothing
    returning name, epoch, paused
)
select name, epoch, paused from outbox.queue
union all
select name, epoch, paused from new
"""

QUEUES = "select name, epoch, paused from outbox.queue"

CLAIM_DUE = """
select t.id::text, t.queue, t.priority, t.due_at::text, convert_to(concat(
    '{"queue_name":', to_json(t.queue), ',"actor_name":', to_json(t.actor), ',"args":', t.args, ',"kwargs":', t.kwargs,
    ',"options":', case
        when position('"' in t.options::text) = 0 then '{'
        else left(rtrim(t.options::text, e' \\t\\n\\r'), -1) || ',' end,
    '"outbox_fence":"', t.fence, '"},"message_id":"', t.id,
    '","message_timestamp":', (extract(epoch from t.created_at) * 1000)::bigint, '}'), 'UTF8')
from (
    select due.*, sum(octet_length(due.args::text) + octet_length(due.kwargs::text))
        over (rows between unbounded preceding and 1 preceding) as before
    from unnest(%(queues)s::text[], %(rooms)s::int[]) as q(name, room)
    cross join lateral (
        select found.*
        from unnest(%(of)s::text[], %(lows)s::smallint[], %(sinces)s::timestamptz[], %(highs)s::smallint[],
            %(untils)s::timestamptz[]) as s(queue, low, since, high, until)
        cross join lateral (
            select *
            from outbox.task
            where state = 'pending' and queue = q.name
            and (priority, due_at) >= (s.low, s.since) and (priority, due_at) < (s.high, s.until)
            and not exists (select from outbox.queue p where p.name = q.name and p.paused)
            order by priority, due_at
            limit q.room
            for update of task skip locked
        ) found
        where s.queue = q.name
        limit q.room
    ) due
    limit %(batch)s
) t
where t.before is null or t.before < %(bytes)s
"""

MARK_PUBLISHED = """
update outbox.task t
set state = case when q.paused then 'pending' else 'published' end,
    fence = case when q.paused then gen_random_uuid() else t.fence end,
    published_at = clock_timestamp(), epoch = q.epoch, reason = null
from (
    select a.name, a.epoch, exists (select from outbox.queue p where p.name = a.name and p.paused) as paused
    from unnest(%(queues)s::text[], %(epochs)s::int[]) as a(name, epoch)
) q
where t.id = any(%(ids)s::uuid[])
and t.state = (select 'pending')
and q.name = t.queue
"""

PUSH_BACK = """
update outbox.task t
set state = 'scheduled', refusals = t.refusals + 1, reason = r.reason,
    due_at = clock_timestamp() + least(5 * 2 ^ least(t.refusals, 10), 600) * interval '1 second'
from unnest(%(ids)s::uuid[], %(reasons)s::text[]) as r(id, reason)
where t.id = r.id
and t.state = (select 'pending')
"""

PROMOTE_DUE = """
update outbox.task t
set state = case when t.lane like 'limit/%%' then 'waiting' else 'pending' end
where t.id = any(array(
    select id
    from outbox.task
    where state = 'scheduled' and due_at <= clock_timestamp()
    order by due_at
    limit %(limit)s
    for update skip locked))
and t.state = (select 'scheduled')
returning case when t.lane like 'limit/%%' then t.lane end
"""

GRANT = """
update outbox.task t
set state = case when t.due_at > clock_timestamp() then 'scheduled' else 'pending' end
where t.id = any(array(
    select next.id
    from unnest(%(lanes)s::text[], %(places)s::int[]) as l(lane, places)
    cross join lateral (
        select case when h.held_until > clock_timestamp() then 0 else least(coalesce(w.lane_limit, 1), h.places) end as room,
            w.position as first
        from outbox.task w
        left join outbox.lane h on h.name = w.lane
        where w.lane = l.lane and w.state = 'waiting'
        order by w.position
        limit 1
    ) head
    cross join lateral (
        select count(*) as taken
        from outbox.task a
        where a.lane = l.lane
        and a.state <> 'waiting'
        and a.state = any(case when l.lane like 'order/%%' then '{scheduled,pending,published,running}'::text[]
            else '{pending,published,running}' end)
    ) now
    cross join lateral (
        select w.id
        from outbox.task w
        where w.lane = l.lane and w.state = 'waiting'
        and (w.position = head.first or l.lane like 'limit/%%')
        order by w.position
        limit greatest(0, least(head.room - now.taken, l.places))
        for update skip locked
    ) next
    where not exists (select from outbox.dead d where d.lane = l.lane and d.lane_holds)))
and t.state = (select 'waiting')
returning t.id
"""

WAITING_LANES = """
with recursive lanes as (
    (select t.lane from outbox.task t where t.state = 'waiting' and t.lane > %(after)s order by t.lane limit 1)
    union all
    select (select t.lane from outbox.task t where t.state = 'waiting' and t.lane > l.lane order by t.lane limit 1)
    from lanes l
    where l.lane is not null
)
select l.lane, head.room > now.taken and not exists (select from outbox.dead d where d.lane = l.lane and d.lane_holds)
from (select lane from lanes where lane is not null limit %(limit)s) l
cross join lateral (
    select case when h.held_until > clock_timestamp() then 0 else least(coalesce(w.lane_limit, 1), h.places) end as room
    from outbox.task w
    left join outbox.lane h on h.name = w.lane
    where w.lane = l.lane and w.state = 'waiting'
    order by w.position
    limit 1
) head
cross join lateral (
    select count(*) as taken
    from outbox.task a
    where a.lane = l.lane
    and a.state <> 'waiting'
    and a.state = any(case when l.lane like 'order/%%' then '{scheduled,pending,published,running}'::text[]
        else '{pending,published,running}' end)
) now
order by l.lane
"""

HOLD_LANE = """
insert into outbox.lane (name, held_until, places)
values (%(lane)s, coalesce(%(until)s, clock_timestamp() + %(wait)s), %(places)s)
on conflict (name) do update set held_until = excluded.held_until, places = excluded.places
"""

FREE_LANE = "delete from outbox.lane where name = %(lane)s"

EXPIRE = """
with gone as (
    delete from outbox.task t
    where t.id = any(array(
        select id
        from outbox.task
        where expires_at <= clock_timestamp() and state <> 'running'
        order by expires_at
        limit %(limit)s
        for update skip locked))
    and t.state <> 'running'
    returning t.*
),
moved as (
    insert into outbox.history
    select id, 'cancelled', queue, actor, args, kwargs, options, priority, created_at, due_at, published_at, null,
        clock_timestamp(), lane, lane_limit, lane_holds, position, unique_key, max_attempts, expires_at,
        failures, crashes, losses, null, null, attempts,
        case when cancel_requested then 'cancelled; its worker gave it back' else 'expired before it could run' end
    from gone
)
select lane from gone
"""

QUEUE_EPOCH = """
with new as (
    insert into outbox.queue (name)
    values (%(name)s)
    on conflict do nothing
    returning epoch
)
select epoch from new
union all
select epoch from outbox.queue where name = %(name)s
limit 1
"""

BEGIN_EPOCH = """
update outbox.queue
set epoch = epoch + 1
where name = %(name)s and epoch = %(seen)s
returning epoch
"""

REPUBLISH_OLDER_EPOCHS = """
update outbox.task t
set state = 'pending', published_at = null, epoch = null, losses = t.losses + 1
from outbox.queue q
where t.state = 'published'
and t.queue = q.name
and t.epoch < q.epoch
returning t.id
"""

REPUBLISH_OVERTAKEN = """
update outbox.task t
set state = 'pending', published_at = null, epoch = null, losses = t.losses + 1
where t.id = any(array(
    select overtaken.id
    from (
        select through.key as queue, max(through.value::timestamptz) as claimed_through
        from outbox.worker w
        cross join lateral jsonb_each_text(w.claimed_through) as through
        group by through.key
    ) c
    cross join lateral (
        select o.id
        from outbox.task o
        where o.state = 'published' and o.queue = c.queue and o.published_at < c.claimed_through - %(margin)s
        order by o.published_at
        limit %(limit)s
        for update skip locked
    ) overtaken))
and t.state = (select 'published')
returning t.id
"""

REPUBLISH_FROM_EMPTY = """
update outbox.task t
set state = 'pending', published_at = null, epoch = null, losses = t.losses + 1
where t.state = 'published'
and t.queue = %(name)s
and t.published_at < %(before)s
and not exists (
    select from outbox.worker w
    where %(name)s = any(w.queues) and (%(name)s = any(w.unclaimed) or w.beat_at < %(before)s))
returning t.id
"""

RETURN_DEAD_LETTER = """
update outbox.task t
set state = 'pending', published_at = null, epoch = null, losses = t.losses + 1
where t.id = %(id)s and t.fence = %(fence)s and t.state = (select 'published')
returning t.id
"""

JOIN = """
insert into outbox.worker (id, kind, host, pid, queues, threads, lease)
values (%(worker)s, %(kind)s, %(host)s, %(pid)s, %(queues)s, %(threads)s, %(lease)s)
on conflict (id) do nothing
"""

BEAT = """
update outbox.worker w
set beat = w.beat + %(step)s, beat_at = clock_timestamp(), runs = %(runs)s::uuid[], running = %(running)s::uuid[],
    queues = %(queues)s, unclaimed = %(unclaimed)s::text[], claimed_through = %(through)s
where w.id = %(worker)s
returning w.beat, (
    select array_agg(t.run_id)
    from outbox.task t
    where t.id = any(%(tasks)s::uuid[]) and t.worker_id = w.id and t.state = (select 'running') and t.cancel_requested)
"""

LEAVE = """
with gone as (
    delete from outbox.worker where id = %(worker)s returning id
)
update outbox.task t
set state = 'pending', run_id = null, worker_id = null, claimed_at = null, claimed_beat = null, alone = false,
    published_at = null, epoch = null, fence = gen_random_uuid(),
    expires_at = case when t.cancel_requested then clock_timestamp() else t.expires_at end
from gone
where t.worker_id = gone.id and t.state = 'running'
"""

CLAIM = """
update outbox.task t
set state = 'running', run_id = a.run_id, worker_id = %(worker)s, claimed_at = clock_timestamp(),
    claimed_beat = %(beat)s, alone = %(alone)s, started = true
from unnest(%(ids)s::uuid[], %(fences)s::uuid[], %(runs)s::uuid[]) as a(id, fence, run_id)
where t.id = a.id
and t.fence = a.fence
and t.state in ('pending', 'published')
and (not t.suspect or %(alone)s)
and (t.expires_at is null or t.expires_at > clock_timestamp())
and t.queue <> all(array(select name from outbox.queue where paused))
and exists (select from outbox.worker w where w.id = %(worker)s)
returning t.id, t.run_id, t.failures, jsonb_array_length(t.attempts) + 1, t.max_attempts, t.lane, t.suspect, t.published_at, concat(
    '{"queue_name":', to_json(t.queue), ',"actor_name":', to_json(t.actor), ',"args":', t.args, ',"kwargs":', t.kwargs,
    ',"options":', case
        when position('"' in t.options::text) = 0 then '{'
        else left(rtrim(t.options::text, e' \\t\\n\\r'), -1) || ',' end,
    '"outbox_fence":"', t.fence, '"},"message_id":"', t.id,
    '","message_timestamp":', (extract(epoch from t.created_at) * 1000)::bigint, '}')
"""

CLAIM_UNLOCKED = """
update outbox.task t
set state = 'running', run_id = a.run_id, worker_id = %(worker)s, claimed_at = clock_timestamp(),
    claimed_beat = %(beat)s, alone = %(alone)s, started = true
from unnest(%(ids)s::uuid[], %(fences)s::uuid[], %(runs)s::uuid[]) as a(id, fence, run_id)
where t.id = a.id
and t.id in (select id from outbox.task where id = any(%(ids)s::uuid[]) for update skip locked)
and t.fence = a.fence
and t.state in ('pending', 'published')
and (not t.suspect or %(alone)s)
and (t.expires_at is null or t.expires_at > clock_timestamp())
and t.queue <> all(array(select name from outbox.queue where paused))
and exists (select from outbox.worker w where w.id = %(worker)s)
returning t.id, t.run_id, t.failures, jsonb_array_length(t.attempts) + 1, t.max_attempts, t.lane, t.suspect, t.published_at, concat(
    '{"queue_name":', to_json(t.queue), ',"actor_name":', to_json(t.actor), ',"args":', t.args, ',"kwargs":', t.kwargs,
    ',"options":', case
        when position('"' in t.options::text) = 0 then '{'
        else left(rtrim(t.options::text, e' \\t\\n\\r'), -1) || ',' end,
    '"outbox_fence":"', t.fence, '"},"message_id":"', t.id,
    '","message_timestamp":', (extract(epoch from t.created_at) * 1000)::bigint, '}')
"""

VERDICTS = """
select a.id, case
    when t.id is null or t.fence <> a.fence then 'stale'
    when t.run_id = a.run_id then 'mine'
    when t.state = 'running' then 'stale'
    when not exists (select from outbox.worker w where w.id = %(worker)s) then 'outlawed'
    when t.expires_at <= clock_timestamp() then 'expired'
    when t.state not in ('pending', 'published') then 'stale'
    when t.queue = any(array(select name from outbox.queue where paused)) then 'stale'
    when t.suspect then 'suspect'
    else 'free' end
from unnest(%(ids)s::uuid[], %(fences)s::uuid[], %(runs)s::uuid[]) as a(id, fence, run_id)
left join outbox.task t on t.id = a.id
"""

CLAIMS_OF = """
select t.id, t.run_id, t.failures, jsonb_array_length(t.attempts) + 1, t.max_attempts, t.lane, t.suspect, t.published_at, concat(
    '{"queue_name":', to_json(t.queue), ',"actor_name":', to_json(t.actor), ',"args":', t.args, ',"kwargs":', t.kwargs,
    ',"options":', case
        when position('"' in t.options::text) = 0 then '{'
        else left(rtrim(t.options::text, e' \\t\\n\\r'), -1) || ',' end,
    '"outbox_fence":"', t.fence, '"},"message_id":"', t.id,
    '","message_timestamp":', (extract(epoch from t.created_at) * 1000)::bigint, '}')
from unnest(%(ids)s::uuid[], %(runs)s::uuid[]) as a(id, run_id)
join outbox.task t on t.id = a.id and t.run_id = a.run_id and t.state = (select 'running') and t.worker_id = %(worker)s
"""

GIVE_BACK = """
update outbox.task t
set state = 'pending', run_id = null, worker_id = null, claimed_at = null, claimed_beat = null, alone = false,
    published_at = null, epoch = null, fence = gen_random_uuid(),
    expires_at = case when t.cancel_requested then clock_timestamp() else t.expires_at end,
    started = t.attempts <> '[]' or t.crashes > 0 or t.unique_key is not null and (
        exists (select from outbox.task other where other.unique_key = t.unique_key and not other.started)
        or exists (
            select from outbox.task twin
            where twin.id = any(%(ids)s::uuid[]) and twin.unique_key = t.unique_key and twin.id < t.id))
from unnest(%(ids)s::uuid[], %(runs)s::uuid[]) as a(id, run_id)
where t.id = a.id and t.run_id = a.run_id and t.state = (select 'running')
returning t.id
"""

RECORD_SUCCESSES = """
with done as (
    delete from outbox.task t
    using unnest(%(ids)s::uuid[], %(runs)s::uuid[], %(ran)s::float[], %(ago)s::float[]) as a(id, run_id, ran, ago)
    where t.id = a.id and t.run_id = a.run_id and t.state = (select 'running')
    returning t.*, a.ran, a.ago
),
moved as (
    insert into outbox.history
    select id, 'succeeded', queue, actor, args, kwargs, options, priority, created_at, due_at, published_at,
        clock_timestamp() - (ago + ran) * interval '1 second', clock_timestamp() - ago * interval '1 second',
        lane, lane_limit, lane_holds, position, unique_key, max_attempts, expires_at,
        failures, crashes, losses, run_id, worker_id, attempts, null
    from done
)
select id, lane from done
"""

RECORD_AGAIN = """
with failed as (
    select *
    from unnest(%(ids)s::uuid[], %(runs)s::uuid[], %(ran)s::float[], %(ago)s::float[], %(outcomes)s::text[],
        %(errors)s::text[], %(tracebacks)s::text[], %(counts)s::int[], %(kinds)s::text[], %(logs)s::text[],
        %(waits)s::float[])
        as a(id, run_id, ran, ago, outcome, error, traceback, counts, failure, logs, wait)
)
update outbox.task t
set state = 'scheduled', fence = gen_random_uuid(), due_at = clock_timestamp() + a.wait * interval '1 second',
    failures = t.failures + a.counts, reason = a.error, suspect = false, alone = false,
    run_id = null, worker_id = null, claimed_at = null, claimed_beat = null, published_at = null, epoch = null,
    attempts = (case when jsonb_array_length(t.attempts) >= 100 then t.attempts - 0 else t.attempts end)
        || jsonb_build_object(
        'run', a.run_id, 'worker', t.worker_id, 'outcome', a.outcome, 'error', a.error, 'traceback', a.traceback,
        'failure', a.failure, 'logs', a.logs,
        'started_at', clock_timestamp() - (a.ago + a.ran) * interval '1 second',
        'finished_at', clock_timestamp() - a.ago * interval '1 second')
from failed a
where t.id = a.id and t.run_id = a.run_id and t.state = (select 'running') and not t.cancel_requested
returning t.id, case when t.lane like 'limit/%%' then t.lane end
"""

RECORD_DEAD = """
with failed as (
    select *
    from unnest(%(ids)s::uuid[], %(runs)s::uuid[], %(ran)s::float[], %(ago)s::float[], %(outcomes)s::text[],
        %(errors)s::text[], %(tracebacks)s::text[], %(counts)s::int[], %(kinds)s::text[], %(logs)s::text[])
        as a(id, run_id, ran, ago, outcome, error, traceback, counts, failure, logs)
),
done as (
    delete from outbox.task t
    using failed a
    where t.id = a.id and t.run_id = a.run_id and t.state = (select 'running')
    returning t.*, a.ran, a.ago, a.outcome, a.error, a.traceback, a.counts, a.failure, a.logs
),
moved as (
    insert into outbox.dead
    select id, 'dead', queue, actor, args, kwargs, options, priority, created_at, due_at, published_at,
        clock_timestamp() - (ago + ran) * interval '1 second', clock_timestamp() - ago * interval '1 second',
        lane, lane_limit, lane_holds, position, unique_key, max_attempts, expires_at,
        failures + counts, crashes, losses, run_id, worker_id,
        attempts || jsonb_build_object(
            'run', run_id, 'worker', worker_id, 'outcome', outcome, 'error', error, 'traceback', traceback,
            'failure', failure, 'logs', logs,
            'started_at', clock_timestamp() - (ago + ran) * interval '1 second',
            'finished_at', clock_timestamp() - ago * interval '1 second'),
        error
    from done
)
select id, lane from done
"""

RECORD_CANCELLED = """
with failed as (
    select *
    from unnest(%(ids)s::uuid[], %(runs)s::uuid[], %(ran)s::float[], %(ago)s::float[], %(outcomes)s::text[],
        %(errors)s::text[], %(tracebacks)s::text[], %(counts)s::int[], %(kinds)s::text[], %(logs)s::text[])
        as a(id, run_id, ran, ago, outcome, error, traceback, counts, failure, logs)
),
done as (
    delete from outbox.task t
    using failed a
    where t.id = a.id and t.run_id = a.run_id and t.state = (select 'running')
    returning t.*, a.ran, a.ago, a.outcome, a.error, a.traceback, a.counts, a.failure, a.logs
),
moved as (
    insert into outbox.history
    select id, 'cancelled', queue, actor, args, kwargs, options, priority, created_at, due_at, published_at,
        clock_timestamp() - (ago + ran) * interval '1 second', clock_timestamp() - ago * interval '1 second',
        lane, lane_limit, lane_holds, position, unique_key, max_attempts, expires_at,
        failures + counts, crashes, losses, run_id, worker_id,
        attempts || jsonb_build_object(
            'run', run_id, 'worker', worker_id, 'outcome', outcome, 'error', error, 'traceback', traceback,
            'failure', failure, 'logs', logs,
            'started_at', clock_timestamp() - (ago + ran) * interval '1 second',
            'finished_at', clock_timestamp() - ago * interval '1 second'),
        error
    from done
)
select id, lane from done
"""

RESCUE_DEAD = """
with done as (
    delete from outbox.task t
    where t.id = any(array(
        select id from outbox.task where worker_id = %(worker)s and state = 'running' for update skip locked))
    and t.worker_id = %(worker)s and t.state = 'running' and t.alone and t.crashes + 1 >= %(max_crashes)s
    returning t.*
),
moved as (
    insert into outbox.dead
    select id, 'dead', queue, actor, args, kwargs, options, priority, created_at, due_at, published_at,
        claimed_at, clock_timestamp(), lane, lane_limit, lane_holds, position, unique_key, max_attempts, expires_at,
        failures, crashes + 1, losses, run_id, worker_id,
        attempts || jsonb_build_object(
            'run', run_id, 'worker', worker_id, 'outcome', 'crashed', 'error', 'its worker died while it ran alone',
            'traceback', null, 'failure', %(failure)s::text, 'started_at', claimed_at, 'finished_at', clock_timestamp()),
        'its worker died ' || (crashes + 1) || ' times while it ran alone'
    from done
)
select id, 'dead', lane from done
"""

RESCUE_CANCELLED = """
with done as (
    delete from outbox.task t
    where t.id = any(array(
        select id from outbox.task where worker_id = %(worker)s and state = 'running' for update skip locked))
    and t.worker_id = %(worker)s and t.state = 'running' and t.cancel_requested
    returning t.*
),
moved as (
    insert into outbox.history
    select id, 'cancelled', queue, actor, args, kwargs, options, priority, created_at, due_at, published_at,
        claimed_at, clock_timestamp(), lane, lane_limit, lane_holds, position, unique_key, max_attempts, expires_at,
        failures, crashes, losses, run_id, worker_id,
        attempts || jsonb_build_object(
            'run', run_id, 'worker', worker_id, 'outcome', 'crashed', 'error', 'its worker died', 'traceback', null,
            'started_at', claimed_at, 'finished_at', clock_timestamp()),
        'cancelled; its worker died'
    from done
)
select id, 'cancelled', lane from done
"""

RESCUE = """
update outbox.task t
set state = 'pending', fence = gen_random_uuid(), suspect = true, alone = false, due_at = clock_timestamp(),
    crashes = t.crashes + case when t.alone then 1 else 0 end, reason = 'its worker died',
    run_id = null, worker_id = null, claimed_at = null, claimed_beat = null, published_at = null, epoch = null,
    attempts = t.attempts || jsonb_build_object(
        'run', t.run_id, 'worker', t.worker_id, 'outcome', case when t.alone then 'crashed' else 'interrupted' end,
        'error', 'its worker died', 'traceback', null, 'failure', %(failure)s::text,
        'started_at', t.claimed_at, 'finished_at', clock_timestamp())
where t.id = any(array(
    select id from outbox.task where worker_id = %(worker)s and state = 'running' for update skip locked))
and t.worker_id = %(worker)s and t.state = 'running'
returning t.id, 'rescued', null
"""

RESCUE_UNLISTED = """
update outbox.task t
set state = 'pending', fence = gen_random_uuid(), alone = false, due_at = clock_timestamp(),
    suspect = t.suspect or not exists (select from outbox.worker w where w.id = t.worker_id),
    reason = 'its worker does not know it',
    run_id = null, worker_id = null, claimed_at = null, claimed_beat = null, published_at = null, epoch = null,
    expires_at = case when t.cancel_requested then clock_timestamp() else t.expires_at end
where t.state = (select 'running')
and t.id = any(array(
    select r.id
    from outbox.task r
    left join outbox.worker w on w.id = r.worker_id
    where r.state = 'running'
    and r.claimed_at < statement_timestamp()
    and (w.id is null or (w.beat >= r.claimed_beat + 3 and r.run_id <> all(w.runs)))
    for update of r skip locked))
returning t.id
"""

CANCEL = """
with gone as (
    delete from outbox.task t
    where t.id = %(id)s and t.state <> 'running'
    returning t.*
),
moved as (
    insert into outbox.history
    select id, 'cancelled', queue, actor, args, kwargs, options, priority, created_at, due_at, published_at, null,
        clock_timestamp(), lane, lane_limit, lane_holds, position, unique_key, max_attempts, expires_at,
        failures, crashes, losses, null, null, attempts, %(reason)s
    from gone
)
select id, case when state in ('pending', 'published') or (state = 'scheduled' and lane like 'order/%%') then lane end
from gone
"""

REQUEST_CANCEL = """
update outbox.task t
set cancel_requested = true
where t.id = %(id)s and t.state = (select 'running')
returning t.id
"""

RESCHEDULE = """
update outbox.task t
set state = case when t.state = 'waiting' then 'waiting' else 'scheduled' end, fence = gen_random_uuid(),
    due_at = coalesce(%(run_at)s, clock_timestamp() + %(delay)s), published_at = null, epoch = null
where t.id = %(id)s and t.state <> 'running'
returning t.due_at, case when t.lane like 'limit/%%' then t.lane end
"""

RETRY_DEAD = """
with back as (
    delete from outbox.dead d
    where d.id = %(id)s and not exists (select from outbox.task t where t.id = d.id)
    returning d.*
)
insert into outbox.task (
    id, state, queue, actor, args, kwargs, options, priority, created_at, due_at, expires_at, lane, lane_limit,
    lane_holds, position, unique_key, max_attempts, started, crashes, losses, attempts, reason)
select id, 'pending', queue, actor, args, kwargs, options, priority, created_at, clock_timestamp(),
    null, lane, lane_limit, lane_holds, case when lane_holds then position end, unique_key, max_attempts, true,
    0, losses, attempts, 'retried by an operator'
from back
order by finished_at desc
limit 1
returning id
"""

RETRY_CANCELLED = """
with back as (
    delete from outbox.history h
    where h.id = %(id)s and h.state = 'cancelled' and not exists (select from outbox.task t where t.id = h.id)
    returning h.*
)
insert into outbox.task (
    id, state, queue, actor, args, kwargs, options, priority, created_at, due_at, expires_at, lane, lane_limit,
    lane_holds, unique_key, max_attempts, started, crashes, losses, attempts, reason)
select id, 'pending', queue, actor, args, kwargs, options, priority, created_at, clock_timestamp(),
    null, lane, lane_limit, lane_holds, unique_key, max_attempts, true,
    0, losses, attempts, 'retried by an operator'
from back
order by finished_at desc
limit 1
returning id
"""

RETRY_NOW = """
update outbox.task t
set due_at = clock_timestamp(), fence = gen_random_uuid()
where t.id = %(id)s and t.state = (select 'scheduled')
returning t.id
"""

LOCK_FREE = """
with hot as (
    select id from outbox.task where id = any(%(hot)s::uuid[]) for update skip locked
),
dead as (
    select id from outbox.dead where id = any(%(dead)s::uuid[]) for update skip locked
),
cancelled as (
    select id from outbox.history where id = any(%(cancelled)s::uuid[]) and state = 'cancelled' for update skip locked
)
select id from hot
union all
select id from dead
union all
select id from cancelled
"""

# The lanes' locks are taken in their order, as when they were enqueued. Of a lane that its dead hold, the first place comes
# first: nothing of it is let go before what stood before it.
RETRY_ALL_ENDED = """
with dead as (
    delete from outbox.dead d
    where d.id = any(%(dead)s::uuid[]) and not exists (select from outbox.task t where t.id = d.id)
    returning d.*
),
cancelled as (
    delete from outbox.history h
    where h.id = any(%(cancelled)s::uuid[]) and h.state = 'cancelled'
    and not exists (select from outbox.task t where t.id = h.id)
    returning h.*
),
back as (
    select distinct on (e.id) e.*
    from (
        select d.*, case when d.lane_holds then d.position end as place from dead d
        union all
        select c.*, null from cancelled c
    ) e
    order by e.id, e.finished_at desc
)
insert into outbox.task (
    id, state, queue, actor, args, kwargs, options, priority, created_at, due_at, expires_at, lane, lane_limit,
    lane_holds, position, unique_key, max_attempts, started, crashes, losses, attempts, reason)
select id, 'pending', queue, actor, args, kwargs, options, priority, created_at, clock_timestamp(),
    null, lane, lane_limit, lane_holds, place, unique_key, max_attempts, true,
    0, losses, attempts, 'retried by an operator'
from back
order by lane nulls first, place nulls last, id
returning id
"""

RETRY_ALL_NOW = """
update outbox.task t
set due_at = clock_timestamp(), fence = gen_random_uuid()
where t.id = any(%(ids)s::uuid[]) and t.state = (select 'scheduled')
returning t.id
"""

CANCEL_ALL = """
with gone as (
    delete from outbox.task t
    where t.id = any(%(ids)s::uuid[]) and t.state <> 'running'
    returning t.*
),
moved as (
    insert into outbox.history
    select id, 'cancelled', queue, actor, args, kwargs, options, priority, created_at, due_at, published_at, null,
        clock_timestamp(), lane, lane_limit, lane_holds, position, unique_key, max_attempts, expires_at,
        failures, crashes, losses, null, null, attempts, %(reason)s
    from gone
)
select id, case when state in ('pending', 'published') or (state = 'scheduled' and lane like 'order/%%') then lane end
from gone
"""

REQUEST_CANCEL_ALL = """
update outbox.task t
set cancel_requested = true
where t.id = any(%(ids)s::uuid[]) and t.state = (select 'running')
returning t.id
"""

RESCHEDULE_ALL = """
update outbox.task t
set state = case when t.state = 'waiting' then 'waiting' else 'scheduled' end, fence = gen_random_uuid(),
    due_at = %(run_at)s, published_at = null, epoch = null
where t.id = any(%(ids)s::uuid[]) and t.state <> 'running'
returning t.id, case when t.lane like 'limit/%%' then t.lane end
"""

PAUSE_QUEUE = """
insert into outbox.queue (name, paused, paused_by, paused_at)
values (%(name)s, true, %(who)s, clock_timestamp())
on conflict (name) do update
set paused = true, paused_by = excluded.paused_by, paused_at = excluded.paused_at
"""

UNPUBLISH_PAUSED = """
update outbox.task t
set state = 'pending', fence = gen_random_uuid(), published_at = null, epoch = null
where t.id = any(array(
    select published.id
    from outbox.queue q
    cross join lateral (
        select o.id
        from outbox.task o
        where o.state = 'published' and o.queue = q.name
        order by o.published_at
        limit %(limit)s
        for update skip locked
    ) published
    where q.name = %(name)s and q.paused))
and t.state = (select 'published')
returning t.id
"""

RESUME_QUEUE = """
update outbox.queue
set paused = false, paused_by = null, paused_at = null
where name = %(name)s and paused
returning name
"""

HOLD_NO_MORE = """
update outbox.dead d
set lane_holds = false
where d.id = %(id)s
and d.lane_holds
returning d.id
"""

AGAIN_WITH = """
insert into outbox.task (id, state, queue, actor, args, kwargs, options, priority, due_at, lane, lane_limit, lane_holds,
    unique_key, max_attempts)
select %(new)s, 'pending', o.queue, o.actor, %(args)s, %(kwargs)s, %(options)s, o.priority, clock_timestamp(), o.lane,
    o.lane_limit, o.lane_holds or %(holds)s, o.unique_key, o.max_attempts
from (
    select d.* from outbox.dead d where d.id = %(id)s
    union all
    select h.* from outbox.history h where h.id = %(id)s and h.state = 'cancelled'
    order by finished_at desc
    limit 1
) o
on conflict do nothing
returning id, lane
"""

AUDIT = """
insert into outbox.audit (who, action, subject, detail)
values (%(who)s, %(action)s, %(subject)s, %(detail)s)
"""

AUDIT_ALL = """
insert into outbox.audit (who, action, subject, detail)
select %(who)s, %(action)s, a.subject, a.detail
from unnest(%(subjects)s::text[], %(details)s::jsonb[]) with ordinality as a(subject, detail, place)
order by a.place
"""

OLD_PARTITIONS = """
select c.relname
from pg_inherits i
join pg_class c on c.oid = i.inhrelid
join pg_class p on p.oid = i.inhparent
join pg_namespace n on n.oid = p.relnamespace
where p.relname = 'history' and n.nspname = %(schema)s
and c.relname ~ '^history_[0-9]{8}$'
and substr(c.relname, 9) < %(day)s
order by c.relname
"""

PURGE_DEAD = """
delete from outbox.dead d
where d.id = any(array(
    select old.id
    from outbox.dead old
    where old.finished_at < %(before)s
    and not (old.lane_holds and exists (select from outbox.task t where t.lane = old.lane and t.state = 'waiting'))
    order by old.finished_at
    limit %(limit)s))
returning d.id
"""

PURGE_DEFAULT = """
delete from outbox.history_default h
where h.ctid = any(array(select ctid from outbox.history_default where finished_at < %(before)s limit %(limit)s))
returning h.id
"""
