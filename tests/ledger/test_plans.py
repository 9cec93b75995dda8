"""I12: no statement of the hot path reads all tasks or all history, whatever the statistics say and whatever lies there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from outbox_rows import Outbox
from plans import add_finished, add_tasks, add_workers, plan, scans, touched

from outbox import database, ledger, reads
from outbox.front import Front
from outbox.ledger import Conn, Finished, Stretch

A_WORKER = UUID("00000000-0000-4000-8000-000000000007")
IDS = [uuid4() for _ in range(200)]
SETTLES: dict[str, Any] = {
    "ids": IDS,
    "runs": IDS,
    "ran": [0.1] * 200,
    "ago": [0.1] * 200,
    "outcomes": ["failed"] * 200,
    "errors": ["x"] * 200,
    "tracebacks": ["x"] * 200,
    "counts": [1] * 200,
    "kinds": ["x"] * 200,
    "logs": ["x"] * 200,
    "waits": [1.0] * 200,
}
CLAIMS: dict[str, Any] = {
    "ids": IDS[:32],
    "fences": IDS[:32],
    "runs": IDS[:32],
    "worker": A_WORKER,
    "beat": 1,
    "alone": False,
}
A_TASK: dict[str, Any] = {"id": IDS[0], "fence": IDS[1], "reason": "x", "run_at": None, "delay": "1 second"}
A_ROW: dict[str, Any] = {
    "rows": f'[{{"id":"{IDS[0]}","queue":"mail","actor":"a","args":[],"kwargs":{{}},"options":{{}},"unique_key":"once"}}]'
}
LANES: dict[str, Any] = {"lanes": [f"order/{n}" for n in range(50)], "places": [1] * 50}
OF_A_WORKER: dict[str, Any] = {"worker": A_WORKER, "max_crashes": 3, "failure": "x"}
A_BEAT: dict[str, Any] = {
    "worker": A_WORKER,
    "runs": IDS[:8],
    "running": IDS[:8],
    "tasks": IDS[:8],
    "queues": ["mail"],
    "unclaimed": [],
    "through": "{}",
    "step": 1,
}

#: Each hot statement with the values of a full batch.
HOT: dict[str, tuple[str, dict[str, Any]]] = {
    "enqueue": (ledger.ENQUEUE, A_ROW),
    "enqueue with a unique key": (ledger.ENQUEUE_UNIQUE, A_ROW),
    "enqueue the rest": (ledger.ENQUEUE_REST, A_ROW),
    "register queues": (ledger.REGISTER_QUEUES, {}),
    "claim due": (
        ledger.CLAIM_DUE,
        {"queues": ["mail", "queue1"], "rooms": [500, 500], "batch": 500, "bytes": 10_000_000}
        | ledger._stretches([Stretch("mail", 0, "2026-01-01", 0, "infinity"), Stretch("queue1", *ledger.WHOLE)]),
    ),
    "mark published": (ledger.MARK_PUBLISHED, {"ids": IDS, "queues": ["mail"], "epochs": [0]}),
    "push back": (ledger.PUSH_BACK, {"ids": IDS[:20], "reasons": ["x"] * 20}),
    "return dead letter": (ledger.RETURN_DEAD_LETTER, A_TASK),
    "republish older epochs": (ledger.REPUBLISH_OLDER_EPOCHS, {}),
    "republish overtaken": (ledger.REPUBLISH_OVERTAKEN, {"margin": timedelta(seconds=30), "limit": 5000}),
    "republish from empty": (ledger.REPUBLISH_FROM_EMPTY, {"name": "mail", "before": datetime(2026, 1, 1, tzinfo=UTC)}),
    "claim": (ledger.CLAIM, CLAIMS),
    "claim unlocked": (ledger.CLAIM_UNLOCKED, CLAIMS),
    "verdicts": (ledger.VERDICTS, CLAIMS),
    "claims of": (ledger.CLAIMS_OF, CLAIMS),
    "give back": (ledger.GIVE_BACK, SETTLES),
    "record successes": (ledger.RECORD_SUCCESSES, SETTLES),
    "record again": (ledger.RECORD_AGAIN, SETTLES),
    "record dead": (ledger.RECORD_DEAD, SETTLES),
    "record cancelled": (ledger.RECORD_CANCELLED, SETTLES),
    "beat": (ledger.BEAT, A_BEAT),
    "leave": (ledger.LEAVE, OF_A_WORKER),
    "rescue dead": (ledger.RESCUE_DEAD, OF_A_WORKER),
    "rescue cancelled": (ledger.RESCUE_CANCELLED, OF_A_WORKER),
    "rescue": (ledger.RESCUE, OF_A_WORKER),
    "rescue unlisted": (ledger.RESCUE_UNLISTED, {}),
    "promote due": (ledger.PROMOTE_DUE, {"limit": 2000}),
    "grant": (ledger.GRANT, LANES),
    "waiting lanes": (ledger.WAITING_LANES, {"after": "", "limit": 500}),
    "expire": (ledger.EXPIRE, {"limit": 1000}),
    "cancel": (ledger.CANCEL, A_TASK),
    "request cancel": (ledger.REQUEST_CANCEL, A_TASK),
    "reschedule": (ledger.RESCHEDULE, A_TASK),
    "retry dead": (ledger.RETRY_DEAD, A_TASK),
    "retry cancelled": (ledger.RETRY_CANCELLED, A_TASK),
    "retry now": (ledger.RETRY_NOW, A_TASK),
    "lock free": (ledger.LOCK_FREE, {"hot": IDS, "dead": IDS, "cancelled": IDS}),
    "retry all ended": (ledger.RETRY_ALL_ENDED, {"dead": IDS, "cancelled": IDS}),
    "retry all now": (ledger.RETRY_ALL_NOW, {"ids": IDS}),
    "cancel all": (ledger.CANCEL_ALL, {"ids": IDS, "reason": "x"}),
    "request cancel all": (ledger.REQUEST_CANCEL_ALL, {"ids": IDS}),
    "reschedule all": (ledger.RESCHEDULE_ALL, {"ids": IDS, "run_at": datetime(2099, 1, 1, tzinfo=UTC)}),
    "hold no more": (ledger.HOLD_NO_MORE, A_TASK),
    "again with": (
        ledger.AGAIN_WITH,
        {**A_TASK, "new": uuid4(), "args": "[]", "kwargs": "{}", "options": "{}", "holds": False},
    ),
    "unpublish paused": (ledger.UNPUBLISH_PAUSED, {"name": "mail", "limit": 5000}),
    "purge dead": (ledger.PURGE_DEAD, {"before": datetime(2026, 1, 1, tzinfo=UTC), "limit": 5000}),
    "standing": (reads.STANDING, {"ids": IDS}),
}

#: Those that no backlog and no history can make dear, and why.
NOT_HOT = {
    "QUEUES": "one row for each queue",
    "QUEUE_EPOCH": "one row of the queues, by its key",
    "BEGIN_EPOCH": "one row of the queues, by its key",
    "PAUSE_QUEUE": "one row of the queues, by its key",
    "RESUME_QUEUE": "one row of the queues, by its key",
    "HOLD_LANE": "one row of the lanes that are held, by its key",
    "FREE_LANE": "one row of the lanes that are held, by its key",
    "IS_FINISHED": "for a foreign message alone; by the id in every partition",
    "JOIN": "inserts one row",
    "AUDIT": "inserts one row",
    "AUDIT_ALL": "inserts a row for each task that was acted on",
    "OLD_PARTITIONS": "reads the catalogue",
    "PURGE_DEFAULT": "reads the DEFAULT partition, which holds only what had no day of its own",
}

#: Those that name their tasks by id: any other index would lead them past rows that are none of theirs.
BY_ID = [
    "mark published", "push back", "return dead letter", "claim", "claim unlocked", "verdicts", "claims of", "give back",
    "record successes", "record again", "record dead", "record cancelled", "rescue unlisted", "promote due", "grant",
    "expire", "cancel", "request cancel", "reschedule", "retry now", "standing", "beat",
    "retry all now", "cancel all", "request cancel all", "reschedule all",
]  # fmt: skip


@pytest.fixture(scope="module")
def crowded(new_database: Callable[[str], str], migrated_template: str) -> Iterator[Outbox]:
    """50,000 tasks in all states and 100,000 finished ones, well analysed."""
    outbox = Outbox(new_database(migrated_template))
    add_workers(outbox.conn)
    add_tasks(outbox.conn, "pending", 20_000)
    add_tasks(outbox.conn, "published", 10_000)
    add_tasks(outbox.conn, "scheduled", 10_000, lanes=True)
    add_tasks(outbox.conn, "waiting", 9_000)
    add_tasks(outbox.conn, "running", 1_000)
    add_finished(outbox.conn, "history", "succeeded", 100_000)
    add_finished(outbox.conn, "dead", "dead", 2_000)
    outbox.conn.execute("analyze")
    yield outbox
    outbox.close()


@pytest.fixture(scope="module")
def changed(new_database: Callable[[str], str], migrated_template: str) -> Iterator[Outbox]:
    """Statistics of an hour when all tasks were published: what is pending, due, waiting or running came after it."""
    outbox = Outbox(new_database(migrated_template))
    outbox.conn.execute("alter table outbox.task set (autovacuum_enabled = false)")
    add_workers(outbox.conn)
    add_tasks(outbox.conn, "published", 20_000)
    outbox.conn.execute("analyze")
    for state in ("pending", "scheduled", "waiting", "running"):
        add_tasks(outbox.conn, state, 5_000)
    yield outbox
    outbox.close()


def test_every_statement_of_the_ledger_is_watched_here_or_has_its_reason_not_to_be() -> None:
    written = {name: sql for name, sql in vars(ledger).items() if name.isupper() and isinstance(sql, str)}
    watched = {sql for sql, _ in HOT.values()}
    assert {name for name, sql in written.items() if sql not in watched} == set(NOT_HOT)


@pytest.mark.parametrize("how", ["custom", "generic"])
@pytest.mark.parametrize("name", HOT)
def test_no_hot_statement_reads_all_tasks_or_all_history(crowded: Outbox, name: str, how: str) -> None:
    sql, values = HOT[name]
    found = scans(plan(crowded.conn, sql, values, how=how))
    whole = [scan.table for scan in found if scan.index is None and scan.table.startswith(("task", "history", "dead"))]
    assert whole == []


@pytest.mark.parametrize("how", ["custom", "generic"])
@pytest.mark.parametrize("name", HOT)
def test_nor_does_it_when_the_statistics_are_of_another_hour(changed: Outbox, name: str, how: str) -> None:
    sql, values = HOT[name]
    found = scans(plan(changed.conn, sql, values, how=how))
    assert "task" not in [scan.table for scan in found if scan.index is None]


@pytest.mark.parametrize("how", ["custom", "generic"])
@pytest.mark.parametrize("name", BY_ID)
@pytest.mark.parametrize("statistics", ["of now", "of another hour"])
def test_what_names_its_tasks_by_id_finds_them_by_id(
    crowded: Outbox, changed: Outbox, name: str, how: str, statistics: str
) -> None:
    """A partial index on a state that seems rare looks cheap, and holds an entry of every task that ever was in it."""
    sql, values = HOT[name]
    outbox = crowded if statistics == "of now" else changed
    used = {scan.index for scan in scans(plan(outbox.conn, sql, values, how=how)) if scan.alias == "t"}
    assert used == {"task_pkey"}


# ---------------------------------------------------------------------- prepared while there was no task

WHOLE = "select seq_tup_read from pg_stat_xact_all_tables where relid = 'outbox.task'::regclass"
#: Without a change to the table, which would have every plan made anew.
MANY_MORE = """
insert into outbox.task (id, state, queue, actor, args, kwargs, options, due_at)
select gen_random_uuid(), 'pending', 'mail', 'send_mail', '[]', '{}', '{}', clock_timestamp()
from generate_series(1, 20000)
"""
Act = Callable[[Outbox, Conn], object]

#: What a worker does on connections that live as long as it does, for tasks that it names.
PREPARED: dict[str, Act] = {
    "claim": lambda outbox, conn: outbox.ledger.claim(
        conn, [(uuid4(), uuid4(), uuid4())], worker=A_WORKER, beat=1, alone=False
    ),
    "settle": lambda outbox, conn: outbox.ledger.record_successes(conn, [Finished(uuid4(), uuid4(), 0.1, 0.0)]),
    "give back": lambda outbox, conn: outbox.ledger.give_back(conn, [(uuid4(), uuid4())]),
}


@pytest.mark.parametrize("name", PREPARED)
def test_what_was_prepared_while_there_was_no_task_does_not_read_all_that_came(
    new_database: Callable[[str], str], migrated_template: str, name: str
) -> None:
    """The server keeps a plan that it made for an empty table until somebody analyses that again."""
    outbox = Outbox(new_database(migrated_template))
    outbox.conn.execute("alter table outbox.task set (autovacuum_enabled = false)")
    outbox.conn.execute("vacuum analyze outbox.task")
    add_workers(outbox.conn)
    with database.connect(outbox.url, name="test", by_index=True) as conn:
        for _ in range(16):  # psycopg prepares after five, PostgreSQL makes its plan after five more
            PREPARED[name](outbox, conn)
        outbox.conn.execute(MANY_MORE)
        with conn.transaction():
            before = conn.execute(WHOLE).fetchall()[0][0]
            PREPARED[name](outbox, conn)
            assert conn.execute(WHOLE).fetchall()[0][0] - before == 0
    outbox.close()


# ---------------------------------------------------------------------- pages touched

Pages = dict[str, int]


@pytest.fixture(scope="module")
def pages(new_database: Callable[[str], str], migrated_template: str) -> Iterator[tuple[Pages, Pages]]:
    """Pages that each station of the road touches: among 1,000 pending tasks and none finished; among 100,000 of each."""
    outbox = Outbox(new_database(migrated_template))
    outbox.conn.execute("alter table outbox.task set (autovacuum_enabled = false)")
    add_workers(outbox.conn)
    add_tasks(outbox.conn, "pending", 1_000)
    few = _pages(outbox)
    add_tasks(outbox.conn, "pending", 99_000)
    add_finished(outbox.conn, "history", "succeeded", 100_000)
    many = _pages(outbox)
    yield few, many
    outbox.close()


def _pages(outbox: Outbox) -> Pages:
    """A hundred tasks on their way, each station measured and undone, then gone, so that the next finds its rows."""
    conn, batch = outbox.conn, {"queues": ["mail"], "rooms": [100], "batch": 100, "bytes": 10_000_000}
    batch |= ledger._stretches([Stretch("mail", *ledger.WHOLE)])
    conn.execute("vacuum analyze outbox.task")
    found = {"claim due": touched(conn, ledger.CLAIM_DUE, batch), "register": touched(conn, ledger.REGISTER_QUEUES, {})}
    with conn.transaction(force_rollback=True):
        ids = [UUID(due.id) for due in outbox.ledger.claim_due(conn, room={"mail": 100}, batch=100)]
        marks = {"ids": ids, "queues": ["mail"], "epochs": [0]}
        found["mark published"] = touched(conn, ledger.MARK_PUBLISHED, marks)
        fences = [conn.execute("select fence from outbox.task where id = %s", [id]).fetchall()[0][0] for id in ids]
        claims = {**CLAIMS, "ids": ids, "fences": fences, "runs": ids}
        found["claim"] = touched(conn, ledger.CLAIM, claims)
        assert len(outbox.ledger.claim(conn, list(zip(ids, fences, ids, strict=True)), worker=A_WORKER, beat=1)) == len(
            ids
        )
        times = {"ran": [0.1] * 100, "ago": [0.0] * 100}
        found["record successes"] = touched(conn, ledger.RECORD_SUCCESSES, {"ids": ids, "runs": ids, **times})
    return found


@pytest.mark.parametrize("name", ["register", "claim due", "mark published", "claim", "record successes"])
def test_a_hundred_times_the_backlog_and_a_history_touch_hardly_more_pages(
    pages: tuple[Pages, Pages], name: str
) -> None:
    few, many = pages[0][name], pages[1][name]
    assert many <= few * 4 + 20


# ---------------------------------------------------------------------- dead rows that nothing may remove

DEAD = 20_000


@pytest.fixture(scope="module")
def held(new_database: Callable[[str], str], migrated_template: str) -> Iterator[tuple[Outbox, Front]]:
    """So many tasks of two priorities came and went beside a snapshot that is still held; five hundred came after them."""
    outbox = Outbox(new_database(migrated_template))
    front, conn = Front(), outbox.conn
    add_workers(conn)
    with outbox.connect() as elsewhere:
        elsewhere.execute("begin isolation level repeatable read")
        elsewhere.execute("select from outbox.task")
        conn.execute(PASSED, {"count": DEAD, "spread": timedelta(hours=1)})
        with conn.transaction():
            rows = outbox.ledger.claim_due(conn, room={"mail": DEAD}, batch=DEAD)
            outbox.ledger.mark_published(conn, [row.id for row in rows], epochs={"mail": 0})
        front.claimed(rows)
        conn.execute(ALL_RUN, [A_WORKER])
        conn.execute("delete from outbox.task")
        conn.execute(PASSED, {"count": 500, "spread": timedelta()})
        conn.execute("vacuum analyze outbox.task")
        yield outbox, front
    outbox.close()


PASSED = """
insert into outbox.task (id, state, queue, actor, args, kwargs, options, priority, due_at)
select gen_random_uuid(), 'pending', 'mail', 'send_mail', '[]', '{}', '{}', n %% 2, clock_timestamp() - random() * %(spread)s
from generate_series(1, %(count)s) n
"""


ALL_RUN = """
update outbox.task
set state = 'running', run_id = gen_random_uuid(), worker_id = %s, claimed_at = clock_timestamp(), claimed_beat = 0
"""


def _claim(stretches: list[Stretch]) -> dict[str, Any]:
    values = {"queues": ["mail"], "rooms": [100], "batch": 100, "bytes": 10_000_000}
    return values | ledger._stretches(stretches)


def test_a_claim_ahead_of_the_front_does_not_pass_the_dead_rows_of_a_held_snapshot(held: tuple[Outbox, Front]) -> None:
    """I12. From the beginning it passes every one of them, or this would prove nothing."""
    outbox, front = held
    from_the_beginning = touched(outbox.conn, ledger.CLAIM_DUE, _claim([Stretch("mail", *ledger.WHOLE)]))
    from_the_front = touched(outbox.conn, ledger.CLAIM_DUE, _claim(front.ahead(["mail"])))
    print(f"pages of a claim: {from_the_front} from the front, {from_the_beginning} from the beginning")
    assert from_the_beginning > DEAD / 2  # those of the first priority
    assert from_the_front < 1000


def test_a_heartbeat_does_not_pass_what_its_worker_has_run_beside_a_held_snapshot(held: tuple[Outbox, Front]) -> None:
    """I12: it must not take longer, the longer somebody reads."""
    pages = touched(held[0].conn, ledger.BEAT, A_BEAT)
    print(f"pages of a heartbeat: {pages}")
    assert pages < 200


def test_ahead_of_the_front_is_what_is_due_at_it_or_later_in_its_priority(held: tuple[Outbox, Front]) -> None:
    outbox, front = held
    ahead = front.ahead(["mail"])
    with outbox.conn.transaction(force_rollback=True):
        outbox.conn.execute("delete from outbox.task")
        outbox.conn.execute(ANYWHERE, {"fronts": [each.since for each in ahead]})
        expected = outbox.conn.execute(AHEAD, {"lows": [s.low for s in ahead], "sinces": [s.since for s in ahead]})
        rows = outbox.ledger.claim_due(outbox.conn, room={"mail": 1000}, batch=1000, stretches=ahead)
        ids = [id for (id,) in expected.fetchall()]
    assert sorted(row.id for row in rows) == sorted(ids)
    assert len(ids) > 10


#: At, just before and just after each front, long ago and far ahead, in every kind of priority.
ANYWHERE = """
insert into outbox.task (id, state, queue, actor, args, kwargs, options, priority, due_at)
select gen_random_uuid(), 'pending', 'mail', 'send_mail', '[]', '{}', '{}', priority, front + apart
from unnest(%(fronts)s::timestamptz[]) as front
cross join unnest('{-32768,-1,0,1,2,32767}'::smallint[]) as priority
cross join unnest('{0,1 microsecond,-1 microsecond,-1 year,1 year}'::interval[]) as apart
"""

AHEAD = """
select t.id::text
from outbox.task t
join unnest(%(lows)s::smallint[], %(sinces)s::timestamptz[]) as front(priority, since) on front.priority = t.priority
where t.due_at >= front.since
"""
