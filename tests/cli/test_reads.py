"""What people see: every state where it is, pages that miss nothing, counts that do not lie."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from outbox import ArgumentError, TaskNotFound, reads
from outbox.figures import Figures
from outbox.ledger import Finished
from outbox.query import PublicState, Query
from outbox.reads import TASK, ActorFigures, Count
from outbox.search import FIND, values_of
from tests.cli.conftest import Scene


def test_each_task_is_seen_in_its_public_state(scene: Scene) -> None:
    head, follower = scene.pending(2, lane="order/a")
    expected: dict[PublicState, list[UUID]] = {
        "waiting": [follower], "pending": [head], "scheduled": scene.scheduled(), "published": scene.published(),
        "running": scene.running(), "retrying": scene.retrying(), "succeeded": scene.succeeded(),
        "dead": scene.dead(), "cancelled": scene.cancelled(),
    }  # fmt: skip
    assert set(expected) == set(reads.PUBLIC_STATES)
    for state, ids in expected.items():
        assert [scene.state(id) for id in ids] == [state]
        assert [task.id for task in scene.reader.tasks(scene.conn, Query(states=(state,)))[0]] == ids


def test_a_claimed_task_that_has_not_started_counts_as_published(scene: Scene) -> None:
    (claim,) = scene.claimed()
    assert scene.state(claim.id) == "published"
    (view,), _ = scene.reader.tasks(scene.conn, Query(states=("published",)))
    assert (view.id, view.started_at) == (claim.id, None)
    assert scene.reader.tasks(scene.conn, Query(states=("running",)))[0] == []


def test_pages_follow_each_other_through_all_tables_and_miss_nothing(scene: Scene) -> None:
    for make in (scene.pending, scene.succeeded, scene.dead, scene.scheduled, scene.cancelled):
        make(3)
    everything, _ = scene.reader.tasks(scene.conn, limit=1000)
    ids = [task.id for task in everything]
    assert len(ids) == 15
    assert ids == sorted(ids, reverse=True)
    seen, cursor = [], None
    while True:
        page, cursor = scene.reader.tasks(scene.conn, cursor=cursor, limit=4)
        seen += [task.id for task in page]
        assert len(page) == 4 or cursor is None
        if cursor is None:
            break
    assert seen == ids


def test_a_page_that_ends_exactly_with_the_last_task_has_no_cursor(scene: Scene) -> None:
    scene.pending(4)
    page, cursor = scene.reader.tasks(scene.conn, limit=4)
    assert (len(page), cursor) == (4, None)


def test_filters_are_joined_by_and(scene: Scene) -> None:
    wanted = scene.dead(actor="send", queue="mail")
    scene.dead(actor="send")
    scene.dead(queue="mail")
    scene.pending(actor="send", queue="mail")
    found, _ = scene.reader.tasks(scene.conn, Query(("dead",), ("send",), ("mail",)))
    assert [task.id for task in found] == wanted


def test_since_is_about_creation_in_every_table(scene: Scene) -> None:
    for make in (scene.pending, scene.succeeded, scene.dead):
        make()
    middle = scene.conn.execute("select clock_timestamp()").fetchall()[0][0]
    young = [*scene.pending(), *scene.succeeded(), *scene.dead()]
    found, _ = scene.reader.tasks(scene.conn, Query(since=middle))
    assert {task.id for task in found} == set(young)


@pytest.mark.parametrize("cursor", ["", "x", "not a cursor", "AAAA", "A" * 22 + "==", "ÄÖÜ", "A" * 4000, "\x00" * 22])
def test_a_cursor_that_is_not_ours_is_refused(scene: Scene, cursor: str) -> None:
    with pytest.raises(ArgumentError, match="cursor"):
        scene.reader.tasks(scene.conn, cursor=cursor)


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"limit": 1001}])
def test_arguments_that_make_no_sense_are_refused(scene: Scene, wrong: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        scene.reader.tasks(scene.conn, **wrong)


def test_the_final_run_of_a_succeeded_task_is_its_last_attempt(scene: Scene) -> None:
    (id,) = scene.retrying(error="first")
    scene.ledger.retry(scene.conn, id)
    scene.ledger.promote_due(scene.conn)
    fence = scene.conn.execute("select fence from outbox.task where id = %s", [id]).fetchall()[0][0]
    (claim,) = scene.ledger.claim(scene.conn, [(id, fence, uuid4())], worker=scene.worker, beat=0)
    scene.ledger.record_successes(scene.conn, [Finished(id, claim.run_id, 0.5, 0.0)])
    task = scene.reader.task(scene.conn, id)
    assert task is not None
    assert [(each.outcome, each.error) for each in task.attempts] == [("failed", "first"), ("succeeded", None)]
    last = task.attempts[-1]
    assert (last.run, last.worker, last.started_at, last.finished_at) == (
        claim.run_id, scene.worker, task.started_at, task.finished_at,
    )  # fmt: skip
    assert last.finished_at is not None
    assert last.started_at is not None
    assert last.finished_at - last.started_at == pytest.approx(timedelta(seconds=0.5), abs=timedelta(milliseconds=5))


def test_a_dead_task_tells_each_attempt_with_its_traceback_once(scene: Scene) -> None:
    (id,) = scene.dead(error="no such address")
    task = scene.reader.task(scene.conn, id)
    assert task is not None
    (attempt,) = task.attempts
    assert (attempt.outcome, attempt.error) == ("failed", "no such address")
    assert "no such address" in (attempt.traceback or "")
    assert (task.reason, task.failures) == ("no such address", 1)


def test_a_task_cancelled_before_it_ran_has_no_attempt(scene: Scene) -> None:
    task = scene.reader.task(scene.conn, scene.cancelled()[0])
    assert task is not None
    assert (task.attempts, task.started_at, task.reason) == ([], None, "no longer wanted")


def test_lanes_are_told_as_the_key_that_was_given(scene: Scene) -> None:
    (ordered,) = scene.pending(lane="order/a/b")
    (limited,) = scene.pending(lane="limit/order/x", lane_limit=2)
    first, second = (scene.reader.task(scene.conn, id) for id in (ordered, limited))
    assert first is not None
    assert second is not None
    assert (first.ordering_key, first.concurrency_key) == ("a/b", None)
    assert (second.ordering_key, second.concurrency_key) == (None, "order/x")


def test_arguments_are_told_as_they_were_enqueued(scene: Scene) -> None:
    args = [1, 2.5, "ä\n☃", None, {"big": 2**70}]
    (id,) = scene.pending(args=args)
    task = scene.reader.task(scene.conn, id)
    assert task is not None
    assert task.args == args


def test_an_unknown_id_is_none(scene: Scene) -> None:
    assert scene.reader.task(scene.conn, uuid4()) is None


def test_an_abbreviated_id_is_resolved_in_every_table(scene: Scene) -> None:
    for (id,) in (scene.pending(), scene.succeeded(), scene.dead()):
        assert scene.reader.resolve(scene.conn, str(id)[:-3]) == id
        assert scene.reader.resolve(scene.conn, str(id).upper()) == id
        assert scene.reader.resolve(scene.conn, id.hex[:30]) == id


def test_an_ambiguous_id_names_those_that_it_fits(scene: Scene) -> None:
    ids = scene.pending(2)
    with pytest.raises(ArgumentError, match=str(ids[0])):
        scene.reader.resolve(scene.conn, str(ids[0])[:4])


@pytest.mark.parametrize("text", ["", "xyz", "01a2-%", "0" * 33, "01\x00"])
def test_what_is_no_id_is_refused(scene: Scene, text: str) -> None:
    with pytest.raises(ArgumentError, match="not a task id"):
        scene.reader.resolve(scene.conn, text)


def test_an_abbreviation_of_nothing_is_not_found(scene: Scene) -> None:
    with pytest.raises(TaskNotFound):
        scene.reader.resolve(scene.conn, "ffff")


def test_queues_count_each_state_and_tell_the_oldest_due_task(scene: Scene) -> None:
    scene.pending(3, queue="mail")
    scene.conn.execute("update outbox.task set due_at = due_at - interval '90 seconds', priority = 5")
    scene.pending(queue="mail")
    scene.scheduled(2, queue="mail")
    scene.retrying(queue="mail")
    scene.published(queue="mail")
    scene.running(queue="mail")
    scene.pending(3, queue="heavy", lane="order/x")
    scene.ledger.pause_queue(scene.conn, "idle", who="ada")
    scene.join(queues=("mail", "quiet"))
    scene.join(kind="relay", queues=())
    queues = {queue.name: queue for queue in scene.reader.queues(scene.conn)}
    assert set(queues) == {"default", "heavy", "idle", "mail", "quiet"}
    mail = queues["mail"]
    assert mail.counts == {
        "pending": Count(4), "scheduled": Count(2), "retrying": Count(1), "published": Count(1), "running": Count(1)
    }  # fmt: skip
    assert mail.workers == 1
    assert mail.oldest_due is not None
    assert timedelta(seconds=89) < mail.oldest_due < timedelta(seconds=150)
    assert queues["heavy"].counts == {"pending": Count(1), "waiting": Count(2)}
    assert (queues["idle"].paused, queues["idle"].paused_by, queues["idle"].oldest_due) == (True, "ada", None)


def test_a_scheduled_task_that_no_relay_promotes_is_told_as_overdue(scene: Scene) -> None:
    scene.scheduled(queue="late")
    scene.conn.execute("update outbox.task set due_at = clock_timestamp() - interval '1 minute'")
    late = next(queue for queue in scene.reader.queues(scene.conn) if queue.name == "late")
    assert late.oldest_due is not None
    assert late.oldest_due >= timedelta(minutes=1)


def test_counts_stop_at_the_cap_and_say_so(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "CAP", 3)
    for queue in ("a", "b"):
        scene.pending(4, queue=queue)
        scene.scheduled(1, queue=queue)
    scene.published(3, queue="c")
    queues = {queue.name: queue for queue in scene.reader.queues(scene.conn)}
    assert [str(queues[name].counts["pending"]) for name in ("a", "b")] == ["3+", "3+"]
    assert str(queues["c"].counts["published"]) == "3"
    assert [str(queues[name].counts["scheduled"]) for name in ("a", "b")] == ["1", "1"]


def test_workers_tell_what_they_run_and_how_long_they_are_silent(scene: Scene) -> None:
    running = scene.running(2)
    scene.claimed()
    scene.conn.execute("update outbox.worker set beat_at = beat_at - interval '1 minute'")
    young = scene.join(kind="relay", queues=())
    workers = {worker.id: worker for worker in scene.reader.workers(scene.conn)}
    old = workers[scene.worker]
    assert (old.kind, old.host, old.pid, old.threads, old.held) == ("worker", "here", 42, 8, 2)
    assert set(old.running) == set(running)
    assert not old.alive
    assert old.silent >= timedelta(minutes=1)
    assert workers[young].alive


def test_stats_count_what_ended_since_then_by_actor(scene: Scene) -> None:
    begin = datetime.now(UTC) - timedelta(minutes=1)
    for seconds in (0.1, 0.2, 0.3, 10.0):
        scene.succeeded(ran=seconds, actor="send")
    scene.dead(actor="send")
    scene.cancelled(actor="draw")
    stats = scene.reader.stats(scene.conn, begin)
    send, draw = stats.actors
    assert (send.actor, send.succeeded, send.dead, send.cancelled, send.failures) == ("send", 4, 1, 0, 1)
    assert (draw.actor, draw.cancelled, draw.p50) == ("draw", 1, None)
    assert send.p50 is not None
    assert send.p50.total_seconds() == pytest.approx(0.2, abs=0.01)
    assert send.p95 is not None
    assert send.p95.total_seconds() == pytest.approx(10, abs=0.01)
    assert (stats.total.succeeded, stats.total.dead, stats.total.cancelled) == (4, 1, 1)
    assert stats.per_minute == pytest.approx(6, rel=0.2)
    assert scene.reader.stats(scene.conn, datetime.now(UTC) + timedelta(hours=1)).total.succeeded == 0


def test_stats_are_the_same_whatever_of_them_relays_have_written(scene: Scene) -> None:
    for seconds in (0.1, 0.2, 0.3, 10.0):
        scene.succeeded(3, ran=seconds, actor="send")
    scene.dead(actor="send")
    scene.cancelled(2, actor="draw")
    for minutes, table in enumerate(("history", "dead", "history", "history"), start=1):
        scene.conn.execute(
            f"update outbox.{table} set started_at = started_at - %s, finished_at = finished_at - %s"
            f" where id = any(array(select id from outbox.{table} order by finished_at desc limit 4))",
            [timedelta(minutes=2 * minutes)] * 2,
        )
    now = scene.reader.now(scene.conn)
    spans = [now - timedelta(minutes=minutes) for minutes in (1, 3.7, 5, 6.2, 60)]
    before = [scene.reader.stats(scene.conn, since) for since in spans]
    assert before[-1].total.succeeded == 12
    for since, until in ((6, 3), (60, 30), (60, 0), (60, -1)):
        Figures().write(scene.conn, since=now - timedelta(minutes=since), until=now - timedelta(minutes=until))
        for one, other in zip(before, (scene.reader.stats(scene.conn, span) for span in spans), strict=True):
            assert [_counts(each) for each in (one.total, *one.actors)] == [
                _counts(each) for each in (other.total, *other.actors)
            ]
            for actor, same in zip(one.actors, other.actors, strict=True):
                assert (actor.p95 is None) == (same.p95 is None)
                if actor.p95 and same.p95:
                    assert same.p95 / actor.p95 == pytest.approx(1, rel=0.1)


def test_stats_read_minutes_and_of_the_history_what_they_do_not_tell_yet(scene: Scene) -> None:
    scene.succeeded(5, actor="send")
    scene.conn.execute("update outbox.history set finished_at = finished_at - interval '20 minutes'")
    scene.succeeded(1, actor="send")
    now = scene.reader.now(scene.conn)
    Figures().write(scene.conn, since=now - timedelta(minutes=30), until=now + timedelta(minutes=1))
    scene.conn.execute("delete from outbox.history where finished_at < now() - interval '10 minutes'")
    assert scene.reader.stats(scene.conn, now - timedelta(minutes=30)).total.succeeded == 6


def _counts(each: ActorFigures) -> tuple[object, ...]:
    return each.actor, each.succeeded, each.dead, each.cancelled, each.failures


def test_schedules_tell_their_last_fire(scene: Scene) -> None:
    scene.conn.execute(
        "insert into outbox.schedule (name, actor, queue, cron, fired_through) values"
        " ('nightly', 'report', 'default', '0 2 * * *', clock_timestamp()),"
        " ('new', 'report', 'default', '@daily', clock_timestamp())"
    )
    for day, outcome in (("2030-01-01", "fired"), ("2030-01-02", "by hand")):
        scene.conn.execute(
            "insert into outbox.fire (schedule, fire_at, task_id, outcome) values ('nightly', %s, %s, %s)",
            [day, uuid4(), outcome],
        )
    new, nightly = scene.reader.schedules(scene.conn)
    assert (new.name, new.last_fire_at) == ("new", None)
    assert (nightly.name, nightly.last_outcome, nightly.zone) == ("nightly", "by hand", "UTC")


def test_another_schema_is_read_as_well(scene: Scene) -> None:
    scene.conn.execute("alter schema outbox rename to other")
    reader = reads.Reader("other")
    assert reader.tasks(scene.conn) == ([], None)
    assert reader.task(scene.conn, uuid4()) is None
    assert [worker.id for worker in reader.workers(scene.conn)] == [scene.worker]
    assert reader.stats(scene.conn, datetime.now(UTC)).actors == []


# ---------------------------------------------------------------------- plans


def _fill(scene: Scene) -> None:
    columns = (
        "id, state, queue, actor, args, kwargs, options, priority, created_at, due_at, finished_at, lane_holds,"
        " failures, crashes, losses, attempts"
    )
    values = "gen_random_uuid(), %s, 'default', 'act', '[]', '{}', '{}', 0, now(), now(), now(), false, 0, 0, 0, '[]'"
    for table, state in (("history", "succeeded"), ("dead", "dead")):
        scene.conn.execute(
            f"insert into outbox.{table} ({columns}) select {values} from generate_series(1, 3000)", [state]
        )
    scene.conn.execute(
        "insert into outbox.task (id, state, queue, actor, args, kwargs, options, due_at)"
        " select gen_random_uuid(), 'pending', 'default', 'act', '[]', '{}', '{}', now() from generate_series(1, 3000)"
    )
    scene.conn.execute("analyze outbox.task, outbox.history, outbox.dead")


def _scans(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """(kind of scan, table) of each scan in a plan."""
    found = [(plan["Node Type"], plan["Relation Name"])] if "Relation Name" in plan else []
    for each in plan.get("Plans", ()):
        found += _scans(each)
    return found


def _explained(scene: Scene, statement: str, **params: Any) -> list[tuple[str, str]]:
    (plan,) = scene.conn.execute(f"explain (format json) {statement}", params, prepare=False).fetchall()[0][0]
    return _scans(plan["Plan"])


def test_a_page_without_filters_reads_indexes_only(scene: Scene) -> None:
    _fill(scene)
    scans = _explained(scene, FIND, **values_of(Query(), datetime.now(UTC), before=None, limit=51))
    big = {table for _, table in scans if table == "task" or table.startswith(("history", "dead"))}
    assert {"task", "dead"} < big
    assert [(kind, table) for kind, table in scans if kind == "Seq Scan" and table != "worker"] == []


def test_one_task_is_found_by_indexes_only(scene: Scene) -> None:
    _fill(scene)
    full = f"history_{datetime.now(UTC):%Y%m%d}"
    scans = {table: kind for kind, table in _explained(scene, TASK, id=uuid4())}
    assert {scans["task"], scans["dead"], scans[full]} == {"Index Scan"}


def test_the_statements_of_reading_change_nothing(scene: Scene) -> None:
    scene.pending(3)
    scene.dead(1)
    with scene.conn.transaction():
        scene.conn.execute("set transaction read only")
        scene.reader.tasks(scene.conn)
        scene.reader.queues(scene.conn)
        scene.reader.workers(scene.conn)
        scene.reader.schedules(scene.conn)
        scene.reader.stats(scene.conn, datetime.now(UTC) - timedelta(hours=1))
        scene.reader.resolve(scene.conn, str(scene.reader.tasks(scene.conn)[0][0].id)[:30])
