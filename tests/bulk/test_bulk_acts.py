"""One act on many tasks: what it would meet, what it meets, and that it meets each task once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from awaiting import await_that
from outbox_rows import failure
from uuid_utils.compat import uuid7

from outbox import bulk, carrier, database
from outbox.bulk import Bulk, BulkNotFound, Bulks
from outbox.carrier import Carrier
from outbox.errors import ArgumentError, WrongState
from outbox.ledger import Conn
from outbox.query import Query, parse
from tests.bulk.conftest import Begin, Carry
from tests.cli.conftest import Scene


@pytest.fixture
def conn(scene: Scene) -> Iterator[Conn]:
    """The carrier's own connection."""
    with database.connect(scene.url, name="test carrier", by_index=True) as conn:
        yield conn


def carried(carrier: Carrier, conn: Conn, id: UUID) -> Bulk:
    """The act after as many batches as it needs."""
    await_that(lambda: carrier.carry(conn) is False and one(conn, id).state != "running")
    return one(conn, id)


def one(conn: Conn, id: UUID) -> Bulk:
    return Bulks().one(conn, id)


def acts(scene: Scene, action: str) -> Counter[str]:
    """How many lines the audit has of this act, by task."""
    return Counter(subject for _, done, subject in scene.audit() if done == action)


def test_a_preview_says_how_many_and_shows_some_and_changes_nothing(scene: Scene) -> None:
    dead = scene.dead(7, actor="send")
    scene.dead(actor="draw")
    scene.pending(actor="send")
    seen = bulk.preview(scene.conn, "retry", parse("actor:send"))
    assert (seen.count.number, seen.count.at_least, seen.states) == (7, False, ("dead",))
    assert [task.id for task in seen.sample] == dead[:1:-1]
    assert seen.query == "state:dead actor:send"
    assert {scene.state(id) for id in dead} == {"dead"}
    assert scene.audit() == []


def test_an_act_and_how_many_it_found_stand_in_the_audit(scene: Scene, begin: Begin) -> None:
    scene.dead(3, actor="send")
    begun = begin("retry", "actor:send", reason="the server is back")
    assert (begun.state, begun.matched.number, begun.seen) == ("running", 3, 0)
    assert scene.audit() == [("ann", "bulk retry", f"bulk/{begun.id}")]
    detail = scene.conn.execute("select detail from outbox.audit").fetchone()
    assert detail == ({"query": begun.query, "count": "3", "reason": "the server is back"},)


def test_dead_tasks_run_again_and_each_has_its_line(scene: Scene, begin: Begin, a_carrier: Carry, conn: Conn) -> None:
    ids = scene.dead(1_203, actor="send")
    other = scene.dead(1, actor="draw")[0]
    done = carried(a_carrier(), conn, begin("retry", "actor:send").id)
    assert (done.state, done.done, done.refused) == ("done", 1_203, 0)
    assert {scene.state(id) for id in ids[::100]} == {"pending"}
    assert scene.state(other) == "dead"
    assert acts(scene, "retry") == Counter(map(str, ids))
    detail = scene.conn.execute("select distinct detail from outbox.audit where action = 'retry'").fetchall()
    assert detail == [({"bulk": str(done.id)},)]


@pytest.mark.parametrize("kind", ["dead", "cancelled", "retrying"])
@pytest.mark.parametrize("named", [None, "unique_key", "lane"])
def test_a_retry_by_many_leaves_a_row_as_a_retry_by_one(
    scene: Scene, begin: Begin, a_carrier: Carry, conn: Conn, kind: str, named: str | None
) -> None:
    made = getattr(scene, kind)
    alone, among = (made(1, **({named: f"order/{n}"} if named else {}), max_attempts=5)[0] for n in range(2))
    with scene.conn.transaction():
        assert scene.ledger.retry(scene.conn, alone)
    carried(a_carrier(), conn, begin("retry", f"id:{among} state:dead state:cancelled state:retrying").id)
    assert _told(scene, among) == _told(scene, alone)


def _told(scene: Scene, id: UUID) -> Any:
    """All of a row but what each has of its own, and times."""
    own = "'{id,args,fence,lane,position,unique_key,created_at,due_at,attempts}'::text[]"
    return scene.conn.execute(f"select to_jsonb(t) - {own} from outbox.task t where id = %s", [id]).fetchone()


def test_what_a_fence_was_is_no_more(scene: Scene, begin: Begin, a_carrier: Carry, conn: Conn) -> None:
    """I3: a copy of the message that is still under way starts nothing."""
    ids = scene.retrying(3, actor="send")
    fences = dict(scene.conn.execute("select id, fence from outbox.task").fetchall())
    carried(a_carrier(), conn, begin("retry", "actor:send state:retrying").id)
    now = dict(scene.conn.execute("select id, fence from outbox.task").fetchall())
    assert set(now) == set(ids)
    assert not set(now.values()) & set(fences.values())


def test_a_held_lane_goes_on_in_the_order_of_its_places(
    scene: Scene, begin: Begin, a_carrier: Carry, conn: Conn
) -> None:
    first = scene.dead(1, lane="order/y", lane_holds=True, actor="send")[0]
    second = _dead_too(scene)
    carried(a_carrier(), conn, begin("retry", "actor:send").id)
    states = {id: scene.state(id) for id in (first, second)}
    assert states == {first: "pending", second: "waiting"}


def _dead_too(scene: Scene) -> UUID:
    """A second dead task of that lane, behind the first."""
    id: UUID = scene.conn.execute(
        """
        insert into outbox.dead
        select %s, state, queue, actor, args, kwargs, options, priority, created_at, due_at, published_at, started_at,
            finished_at, lane, lane_limit, lane_holds, position + 1, unique_key, max_attempts, expires_at, failures, crashes,
            losses, run_id, worker_id, attempts, reason
        from outbox.dead
        returning id
        """,
        [uuid7()],
    ).fetchall()[0][0]
    return id


def test_a_cancel_ends_what_has_not_started_and_asks_what_runs(
    scene: Scene, begin: Begin, a_carrier: Carry, conn: Conn
) -> None:
    waiting, running, dead = scene.pending(3), scene.running(2), scene.dead(1)
    done = carried(a_carrier(), conn, begin("cancel", "queue:default", reason="not wanted").id)
    assert (done.done, done.refused) == (5, 0)
    assert {scene.state(id) for id in waiting} == {"cancelled"}
    assert {scene.state(id) for id in running} == {"running"}
    assert scene.state(dead[0]) == "dead"
    lines = scene.conn.execute(
        "select detail ->> 'outcome', count(*) from outbox.audit where action = 'cancel' group by 1 order by 1"
    ).fetchall()
    assert lines == [("cancelled", 3), ("requested", 2)]


def test_a_place_that_a_cancel_frees_goes_to_the_next(scene: Scene, begin: Begin, a_carrier: Carry, conn: Conn) -> None:
    head, behind = scene.pending(1, lane="order/y", actor="send")[0], scene.pending(1, lane="order/y", actor="draw")[0]
    carried(a_carrier(), conn, begin("cancel", "actor:send").id)
    assert (scene.state(head), scene.state(behind)) == ("cancelled", "pending")


def test_a_reschedule_moves_what_has_not_started(scene: Scene, begin: Begin, a_carrier: Carry, conn: Conn) -> None:
    ids, at = scene.scheduled(3), datetime(2099, 1, 1, tzinfo=UTC)
    done = carried(a_carrier(), conn, begin("reschedule", "queue:default", run_at=at).id)
    assert (done.done, done.due_at) == (3, at)
    assert scene.conn.execute("select distinct due_at from outbox.task").fetchall() == [(at,)]
    assert acts(scene, "reschedule") == Counter(map(str, ids))


def test_what_cannot_be_acted_on_counts_as_refused(scene: Scene, begin: Begin, a_carrier: Carry, conn: Conn) -> None:
    for made, number in ((scene.dead, 2), (scene.succeeded, 3), (scene.pending, 4)):
        made(number)
    done = carried(a_carrier(), conn, begin("retry", "state:dead state:succeeded state:pending").id)
    assert (done.state, done.done, done.refused) == ("done", 2, 7)
    assert sum(acts(scene, "retry").values()) == 2


def test_what_is_made_after_it_began_is_not_touched(scene: Scene, begin: Begin, a_carrier: Carry, conn: Conn) -> None:
    before = scene.dead(2)
    begun = begin("retry", "queue:default")
    after = scene.dead(2)
    done = carried(a_carrier(), conn, begun.id)
    assert done.done == 2
    assert [scene.state(id) for id in before + after] == ["pending", "pending", "dead", "dead"]


def test_one_that_dies_again_while_it_goes_on_is_met_once(
    scene: Scene, begin: Begin, a_carrier: Carry, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carrier, "BATCH", 3)
    ids = scene.dead(10)
    begun, mover = begin("retry", "queue:default"), a_carrier()
    while one(conn, begun.id).state == "running":
        mover.carry(conn)
        _kill_pending(scene)
    assert {scene.state(id) for id in ids} == {"dead"}
    assert acts(scene, "retry") == Counter(map(str, ids))


def _kill_pending(scene: Scene) -> None:
    """Whatever was retried runs at once, and dies."""
    fences = scene.conn.execute("select id, fence from outbox.task where state = 'pending'").fetchall()
    claims = scene.ledger.claim(scene.conn, [(id, fence, uuid7()) for id, fence in fences], worker=scene.worker, beat=0)
    scene.ledger.record_dead(scene.conn, list(map(failure, claims)))


def test_without_a_filter_all_tasks_must_be_said(scene: Scene, begin: Begin) -> None:
    with pytest.raises(ArgumentError, match="everything"):
        begin("retry", "")
    assert begin("retry", "", everything=True).query.startswith("state:dead until:")
    assert begin("retry", "state:dead").state == "running"


@pytest.mark.parametrize(
    ("action", "options", "why"),
    [
        ("remove", {}, "action must be one of"),
        ("retry", {"delay": timedelta(hours=1)}, "Only reschedule"),
        ("reschedule", {}, "run_at or delay"),
        ("retry", {"rate": 0}, "rate must be"),
    ],
)
def test_an_act_that_makes_no_sense_is_not_begun(
    scene: Scene, begin: Begin, action: Any, options: dict[str, Any], why: str
) -> None:
    with pytest.raises(ArgumentError, match=why):
        begin(action, "queue:default", **options)
    assert Bulks().all(scene.conn) == []
    assert scene.audit() == []


def test_an_act_with_an_id_that_there_is_is_that_act(scene: Scene, begin: Begin) -> None:
    id = uuid7()
    first, second = begin("retry", "queue:a", id=id), begin("retry", "queue:a", id=id)
    assert first == second
    assert len(scene.audit()) == 1


def test_an_aborted_act_does_nothing_more(
    scene: Scene, begin: Begin, a_carrier: Carry, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carrier, "BATCH", 4)
    scene.dead(10)
    begun, mover = begin("retry", "queue:default"), a_carrier()
    assert mover.carry(conn)
    with scene.conn.transaction():
        aborted = bulk.abort(scene.conn, scene.ledger, begun.id, who="bob")
    assert (aborted.state, aborted.done) == ("aborted", 4)
    assert mover.carry(conn) is False
    assert sum(acts(scene, "retry").values()) == 4
    assert scene.audit()[-1] == ("bob", "abort bulk", f"bulk/{begun.id}")
    with pytest.raises(WrongState, match="is aborted"):
        bulk.abort(scene.conn, scene.ledger, begun.id, who="bob")
    with pytest.raises(BulkNotFound):
        bulk.abort(scene.conn, scene.ledger, uuid7(), who="bob")


def test_an_abort_between_the_search_and_the_act_is_heard(
    scene: Scene, begin: Begin, a_carrier: Carry, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.dead(3)
    begun, page = begin("retry", "queue:default"), Bulks.page

    def aborted_meanwhile(self: Bulks, *args: Any, **options: Any) -> Any:
        found = page(self, *args, **options)
        bulk.abort(scene.conn, scene.ledger, begun.id, who="bob")
        return found

    monkeypatch.setattr(Bulks, "page", aborted_meanwhile)
    a_carrier().carry(conn)
    assert one(conn, begun.id).state == "aborted"
    assert acts(scene, "retry") == Counter()


def test_a_rate_is_kept(scene: Scene, begin: Begin, a_carrier: Carry, conn: Conn) -> None:
    """The database's clock decides: after a second that it did not move, a second's tasks at most."""
    scene.dead(60)
    begun, mover = begin("retry", "queue:default", rate=20), a_carrier()
    scene.conn.execute("update outbox.bulk set moved_at = clock_timestamp() - interval '1 hour'")
    assert mover.carry(conn)
    assert one(conn, begun.id).done == 20
    done = carried(mover, conn, begun.id)
    assert done.finished_at is not None
    began = begun.created_at
    assert done.finished_at - began >= timedelta(seconds=1.8)


def test_a_task_that_somebody_has_locked_holds_up_only_what_comes_after(
    scene: Scene, begin: Begin, a_carrier: Carry, conn: Conn
) -> None:
    ids = scene.pending(5)
    begun, mover = begin("cancel", "queue:default"), a_carrier()
    with psycopg.connect(scene.url) as other:
        other.execute("select from outbox.task where id = %s for update", [ids[2]])
        assert mover.carry(conn)
        assert one(conn, begun.id).done == 2
        assert mover.carry(conn)  # waits for it, and rests
        assert mover.carry(conn) is False
        other.rollback()
    done = carried(mover, conn, begun.id)
    assert (done.state, done.done, done.refused) == ("done", 5, 0)
    assert acts(scene, "cancel") == Counter(map(str, ids))


def test_a_lane_that_somebody_holds_holds_up_only_what_comes_after(
    scene: Scene, begin: Begin, a_carrier: Carry, conn: Conn
) -> None:
    held = scene.dead(1, lane="order/held", actor="send")
    ids = scene.dead(6, actor="send")
    begun, mover = begin("retry", "actor:send"), a_carrier()
    with psycopg.connect(scene.url) as other:
        other.execute("select pg_advisory_xact_lock(hashtextextended('outbox.order/held', 0))")
        await_that(lambda: mover.carry(conn) is False and one(conn, begun.id).done == len(ids))
        assert one(conn, begun.id).state == "running"
        other.rollback()
    assert carried(mover, conn, begun.id).done == 7
    assert acts(scene, "retry") == Counter(map(str, [*held, *ids]))


def test_an_act_that_fails_again_and_again_has_failed(
    scene: Scene, begin: Begin, a_carrier: Carry, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.dead(3, actor="send")
    broken, whole = begin("retry", "actor:send"), begin("cancel", "actor:other")
    monkeypatch.setattr(carrier, "TRIES", 2)
    scene.conn.execute("update outbox.bulk set query = 'no:key' where id = %s", [broken.id])
    mover = a_carrier()
    failed = carried(mover, conn, broken.id)
    assert (failed.state, failed.done) == ("failed", 0)
    assert failed.error is not None
    assert "no such key" in failed.error
    assert carried(mover, conn, whole.id).state == "done"


def test_all_acts_the_newest_first(scene: Scene, begin: Begin) -> None:
    ids = [begin("retry", f"queue:{n}").id for n in range(3)]
    assert [each.id for each in Bulks().all(scene.conn)] == ids[::-1]
    assert [each.id for each in Bulks().all(scene.conn, before=ids[1])] == ids[:1]


def test_two_carriers_never_do_the_same_act_at_once(scene: Scene, begin: Begin, a_carrier: Carry, conn: Conn) -> None:
    scene.dead(3)
    first = begin("retry", "queue:default")
    with psycopg.connect(scene.url) as other:
        assert Bulks().take(other, most=5) is not None
        assert a_carrier().carry(conn) is False
        second = begin("cancel", "queue:default")
        assert carried(a_carrier(), conn, second.id).state == "done"
    assert carried(a_carrier(), conn, first.id).done == 3


def test_an_empty_query_of_everything_leaves_nothing_out(scene: Scene) -> None:
    ids = scene.dead(2)
    assert bulk.preview(scene.conn, "retry", Query()).count.number == len(ids)
