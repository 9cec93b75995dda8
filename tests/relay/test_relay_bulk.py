"""Acts on many tasks through real relays: whichever of them dies, each task is met once; an abort and a rate are heard."""

from __future__ import annotations

import time
from collections import Counter
from datetime import timedelta
from uuid import UUID

from awaiting import await_that
from outbox_rows import Outbox
from relay_eyes import Launch, MakeRelay

from outbox import bulk
from outbox.bulk import Action, Bulk, Bulks
from outbox.query import parse

DIE = """
with gone as (
    delete from outbox.task where queue = %s returning *
)
insert into outbox.dead
select id, 'dead', queue, actor, args, kwargs, options, priority, created_at, due_at, published_at, clock_timestamp(),
    clock_timestamp(), lane, lane_limit, lane_holds, position, unique_key, max_attempts, expires_at, 1, 0, 0, null, null,
    attempts, 'it broke'
from gone
"""

SLOW_AUDIT = """
create function slow_audit() returns trigger language plpgsql as $$ begin perform pg_sleep(0.15); return null; end $$;
create trigger slow_audit after insert on outbox.audit for each statement execute function slow_audit();
"""

CARRIERS = """
select count(*)
from pg_stat_activity
where application_name = 'outbox relay carrier' and datname = current_database()
"""

IN_THE_MIDDLE = """
select count(*)
from pg_stat_activity
where application_name = 'outbox relay carrier' and datname = current_database() and wait_event = 'PgSleep'
"""


def dead(outbox: Outbox, number: int, *, queue: str = "mail") -> list[UUID]:
    """So many tasks that died."""
    ids = outbox.add_many(number, queue=queue)
    outbox.conn.execute(DIE, [queue])
    return ids


def begun(outbox: Outbox, action: Action, query: str, *, rate: int | None = None) -> UUID:
    with outbox.conn.transaction():
        return bulk.begin(outbox.conn, outbox.ledger, action=action, query=parse(query), who="ann", rate=rate).id


def one(outbox: Outbox, id: UUID) -> Bulk:
    return Bulks().one(outbox.conn, id)


def retried(outbox: Outbox) -> Counter[str]:
    """How many lines the audit has of a retry, by task."""
    rows = outbox.conn.execute(
        "select subject, count(*) from outbox.audit where action = 'retry' group by 1"
    ).fetchall()
    return Counter(dict(rows))


def test_a_relay_killed_in_the_middle_of_a_batch_repeats_nothing_and_skips_nothing(
    outbox: Outbox, launch: Launch
) -> None:
    """Two relays, two acts, one SIGKILL while both are between the act and the commit; a third relay comes."""
    ids = dead(outbox, 1_800) + dead(outbox, 1_800, queue="news")
    outbox.conn.execute(SLOW_AUDIT)
    relays = [launch(), launch()]
    await_that(lambda: outbox.conn.execute(CARRIERS).fetchall() == [(2,)])
    acts = [begun(outbox, "retry", "queue:mail"), begun(outbox, "retry", "queue:news")]
    await_that(lambda: outbox.conn.execute(IN_THE_MIDDLE).fetchall() == [(2,)], pace=timedelta(milliseconds=2))
    relays[0].kill()
    launch()
    await_that(lambda: {one(outbox, id).state for id in acts} == {"done"})
    assert [(one(outbox, id).done, one(outbox, id).refused) for id in acts] == [(1_800, 0), (1_800, 0)]
    assert retried(outbox) == Counter(map(str, ids))
    assert outbox.conn.execute("select count(*) from outbox.dead").fetchall() == [(0,)]


def test_what_was_retried_is_published(outbox: Outbox, make_relay: MakeRelay) -> None:
    ids = dead(outbox, 700)
    make_relay()
    begun(outbox, "retry", "queue:mail")
    await_that(lambda: outbox.count("published") == len(ids))


def test_an_abort_is_heard_within_a_second(outbox: Outbox, make_relay: MakeRelay) -> None:
    dead(outbox, 3_000)
    make_relay()
    id = begun(outbox, "retry", "queue:mail", rate=400)
    await_that(lambda: one(outbox, id).done)
    began = time.monotonic()
    with outbox.conn.transaction():
        aborted = bulk.abort(outbox.conn, outbox.ledger, id, who="bob")
    assert time.monotonic() - began < 1
    assert 0 < aborted.done < 3_000
    assert sum(retried(outbox).values()) == aborted.done == one(outbox, id).done


def test_two_relays_keep_the_rate_of_one_act_together(outbox: Outbox, make_relay: MakeRelay) -> None:
    dead(outbox, 300)
    for _ in range(2):
        make_relay()
    id = begun(outbox, "retry", "queue:mail", rate=100)
    await_that(lambda: one(outbox, id).state == "done")
    ended = one(outbox, id)
    assert ended.finished_at is not None
    assert timedelta(seconds=2.5) < ended.finished_at - ended.created_at < timedelta(seconds=10)
    assert set(retried(outbox).values()) == {1}
