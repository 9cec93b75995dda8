"""The ledger on a real PostgreSQL under any order of transitions, with a broker that loses, repeats and delays messages.

The broker is a bag of copies (id, fence). Workers are declared dead and go on as zombies. After each step the tables are
compared with `life`; at the end the world heals, and every task must come to an outcome.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from itertools import cycle
from typing import Any
from uuid import UUID, uuid4

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy.orm import Session

from outbox import Task, enqueue
from outbox.ledger import Claimed, Due, Failure, Finished
from tests.model.life import FINISHED, LIMIT, UNDER_WAY, UNSTARTED, Charges, Row, check_lanes_and_keys, check_move
from tests.outbox_rows import Outbox, a_message

__all__ = ["LedgerMachine"]

QUEUE = "mail"
LANE = "limit/c"
MAX_CRASHES = 2
HOUR = timedelta(hours=1)
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "later": {"delay": HOUR},
    "ordered": {"ordering_key": "a"},
    "held by its dead": {"ordering_key": "b", "hold_on_dead": True},
    "limited": {"concurrency_key": "c", "concurrency_limit": LIMIT},
    "unique": {"unique_key": "u"},
    "unique in order": {"unique_key": "v", "ordering_key": "a"},
    "unique and limited, later": {"unique_key": "w", "concurrency_key": "c", "concurrency_limit": LIMIT, "delay": HOUR},
}
Copy = tuple[UUID, UUID]

kinds = st.sampled_from(sorted(KINDS))
#: What the broker does with a message, and what the relay hears of it.
fates = st.sampled_from(["confirmed", "confirmed", "refused", "arrived in silence", "lost in silence"])
meanwhile = st.sampled_from(["nothing", "nothing", "nothing", "it dies", "the queue is paused"])
endings = st.sampled_from(["succeeded", "failed", "snoozed", "dead", "cancelled", "given back"])
mostly = st.sampled_from([True, True, True, False])
rarely = st.sampled_from([False, False, False, True])
indexes = st.integers(0, 999)


class LedgerMachine(RuleBasedStateMachine):
    """One example is one life of an empty outbox."""

    #: Set by the test: eyes and hands on a database of its own.
    outbox: Outbox

    @initialize()
    def begin(self) -> None:
        self.outbox.empty()
        self.outbox.conn.execute("delete from outbox.lane")
        self.ledger, self.conn = self.outbox.ledger, self.outbox.conn
        self.step = "enqueue"
        self.charges: dict[UUID, Charges] = {}
        self.seen: dict[UUID, Row] = {}
        self.forgotten: set[UUID] = set()
        self.bodies: dict[UUID, str] = {}
        self.bag: list[Copy] = []
        self.confirmed: set[Copy] = set()
        self.workers = [self.outbox.a_worker(queues=(QUEUE,)) for _ in range(2)]
        self.outlaws: set[UUID] = set()
        self.beats: dict[UUID, int] = {}
        self.runs: list[tuple[Claimed, UUID]] = []
        self.paused = self.held = False
        self.ledger.queue_epoch(self.conn, QUEUE)

    # ------------------------------------------------------------------ enqueue

    @rule(asked=st.lists(kinds, min_size=1, max_size=4), undone=kinds, commits=mostly)
    def enqueue(self, asked: list[str], undone: str, commits: bool) -> None:
        """Some tasks in one transaction, and one in a savepoint that is rolled back."""
        self.step = "enqueue"
        with self.outbox.session() as session:
            tasks = [_enqueue(session, kind) for kind in asked]
            session.flush()
            with session.begin_nested() as inner:
                _enqueue(session, undone)
                session.flush()
                inner.rollback()
            new = [task.id for task in tasks if task.enqueued]
            known = {id for id, row in self.seen.items() if row["state"] not in FINISHED} | set(new)
            assert known.issuperset(task.id for task in tasks), "unique keys: a conflict answered an unknown id"
            session.commit() if commits else session.rollback()
        if commits:
            self.charges.update((id, Charges()) for id in new)

    @rule(
        asked=st.lists(kinds, min_size=1, max_size=3),
        answers=st.lists(fates, min_size=1, max_size=3),
        worker=indexes,
        alone=rarely,
        ends=st.lists(endings, max_size=3),
    )
    def work(self, asked: list[str], answers: list[str], worker: int, alone: bool, ends: list[str]) -> None:
        """Some way along the road of a task, in one step: by single ones hardly any life comes far."""
        self.enqueue(asked, "plain", commits=True)
        self.every_invariant_holds()
        self.promote(hours_pass=alone)
        self.every_invariant_holds()
        self.relay(answers, "nothing")
        self.every_invariant_holds()
        if self.bag:
            self.claim(worker, [-1, -2, -3, 0], alone, stays=False, waits=True)
            self.every_invariant_holds()
        for how in ends[: len(self.runs)]:
            self.end_a_run(-1, how, forgets=True)
            self.every_invariant_holds()

    # ------------------------------------------------------------------ relay and broker

    @rule(answers=st.lists(fates, min_size=1, max_size=4), meanwhile=meanwhile)
    def relay(self, answers: list[str], meanwhile: str) -> None:
        """Claim, publish, hear, mark; or die before the mark, whatever the broker has taken."""
        dies, pauses = meanwhile == "it dies", meanwhile == "the queue is paused"
        self.step = "relay dies" if dies else "relay while the queue is paused" if pauses else "relay"
        epoch = self.ledger.queue_epoch(self.conn, QUEUE)
        with self.outbox.connect() as conn, conn.transaction(force_rollback=dies):
            due = self._claim_due(conn)
            sent = list(zip((self._publish(each) for each in due), cycle(answers), strict=False))
            self.bag += [copy for copy, answer in sent if answer in ("confirmed", "arrived in silence")]
            heard = [copy for copy, answer in sent if answer == "confirmed"]
            self.confirmed.update(heard)
            if pauses:
                self.paused = True
                self.ledger.pause_queue(self.conn, QUEUE, who="me")
            marked = self.ledger.mark_published(conn, [id for id, _ in heard], epochs={QUEUE: epoch})
            assert marked == len(heard), "I4: a confirmed message was not marked"
            self.ledger.push_back(conn, [(id, "no room") for (id, _), answer in sent if answer == "refused"])

    def _claim_due(self, conn: Any) -> list[Due]:
        due = self.ledger.claim_due(conn, room={QUEUE: 100}, batch=100)
        assert not (due and self.paused), "published in a paused queue"
        return sorted(due, key=lambda each: list(self.charges).index(UUID(each.id)))

    def _publish(self, due: Due) -> Copy:
        """The copy that the broker gets: the same bytes each time, but for the fence."""
        fence = json.loads(due.body)["options"]["outbox_fence"]
        body = due.body.decode().replace(fence, "")
        assert self.bodies.setdefault(UUID(due.id), body) == body, "I8: another body for the same id"
        assert json.loads(due.body)["message_id"] == due.id, "I8: another id in the message"
        return UUID(due.id), UUID(fence)

    @precondition(lambda self: self.bag)
    @rule(which=indexes, what=st.sampled_from(["lost", "repeated", "dead-lettered", "all lost"]))
    def the_broker_errs(self, which: int, what: str) -> None:
        self.step = "lost by the broker"
        copy = self.bag[which % len(self.bag)]
        if what == "repeated":
            self.bag.append(copy)
        elif what == "all lost":
            self.bag.clear()
            self._begin_epoch()
        else:
            self.bag.remove(copy)
        if what == "dead-lettered":
            row = self.seen.get(copy[0], {})
            lost = row.get("state") == "published" and row.get("fence") == copy[1]
            assert self.ledger.return_dead_letter(self.conn, id=copy[0], fence=copy[1]) == lost, "I3: a dead letter"

    def _begin_epoch(self) -> int:
        seen = self.ledger.queue_epoch(self.conn, QUEUE)
        begun = self.ledger.begin_epoch(self.conn, QUEUE, seen=seen)
        assert begun == seen + 1, "an epoch that was not begun"
        assert self.ledger.begin_epoch(self.conn, QUEUE, seen=seen) is None, "an epoch begun twice"
        self.ledger.republish_older_epochs(self.conn)
        return begun

    @rule(how=st.sampled_from(["overtaken", "an empty queue"]))
    def take_messages_for_lost(self, how: str) -> None:
        """Rightly or not: a false alarm costs a copy."""
        self.step = "lost by the broker"
        now = self._now()
        for who in self.workers:
            self._beat(who, through={QUEUE: now.isoformat()} if how == "overtaken" else {})
        if how == "overtaken":
            self.ledger.republish_overtaken(self.conn, margin=timedelta(0))
        else:
            self.ledger.republish_from_empty(self.conn, QUEUE, before=now)

    # ------------------------------------------------------------------ workers

    @precondition(lambda self: self.bag)
    @rule(worker=indexes, which=st.lists(indexes, min_size=1, max_size=4), alone=rarely, stays=rarely, waits=mostly)
    def claim(self, worker: int, which: list[int], alone: bool, stays: bool, waits: bool) -> None:
        """Some copies reach a worker, a forged one among them; what it did not acknowledge comes again."""
        self.step = "claim"
        who = self._a_worker(worker)
        copies = list(dict.fromkeys(self.bag[n % len(self.bag)] for n in which))[: 1 if alone else None]
        asked = [(id, fence, uuid4()) for id, fence in [*copies, (copies[0][0], uuid4())]]
        claim = self.ledger.claim if waits else self.ledger.claim_unlocked
        claimed = claim(self.conn, asked, worker=who, beat=self.beats.get(who, 0), alone=alone)
        for each in claimed:
            self._check_claim(each, who, copies, alone)
        again = self.ledger.claims_of(self.conn, asked, worker=who)
        assert {each.run_id for each in again} == {each.run_id for each in claimed}, "I3: a claim, seen twice, is one"
        verdicts = zip(asked, self._verdicts(asked, who), strict=True)
        mine = [run_id for (_, _, run_id), why in verdicts if why == "mine"]
        assert sorted(mine) == sorted(each.run_id for each in claimed), "I3: whose claim it is"
        self.runs += sorted(((each, who) for each in claimed), key=lambda run: list(self.charges).index(run[0].id))
        if not stays:
            self.bag = [copy for copy in self.bag if copy not in copies]

    def _check_claim(self, run: Claimed, who: UUID, copies: list[Copy], alone: bool) -> None:
        row, charges = self.seen[run.id], self.charges[run.id]
        assert (run.id, row["fence"]) in copies, "I3: claimed with a wrong fence"
        assert row["state"] in ("pending", "published"), f"I3: claimed from {row['state']}"
        assert alone or not row["suspect"], "I6: a suspect among neighbours"
        assert who not in self.outlaws, "I7: a worker that was declared dead claims"
        assert not self.paused, "started in a paused queue"
        assert row["expires_at"] is None, "started although it has expired"
        assert (run.failures, run.attempt) == (charges.failures, charges.attempts + 1), "I6: told of other attempts"

    def _verdicts(self, asked: Sequence[tuple[UUID, UUID, UUID]], who: UUID) -> list[str]:
        """In the order asked. One copy at a time: an id may be asked for with two fences."""
        return [self.ledger.verdicts(self.conn, [each], worker=who)[0].why for each in asked]

    @precondition(lambda self: self.runs)
    @rule(which=indexes, how=endings, forgets=mostly)
    def end_a_run(self, which: int, how: str, forgets: bool) -> None:
        """By its worker, which may have lost it long ago: then nothing changes."""
        self.step = how
        run, _ = self.runs[which % len(self.runs)]
        row = self.seen[run.id] if run.id not in self.forgotten else {"state": "absent"}
        ours = row["state"] == "running" and row["run_id"] == run.run_id
        refused = how in ("failed", "snoozed") and ours and row["cancel_requested"]
        assert self._settle(run, how) == (ours and not refused), f"I3: {how}, told to run {ours=}"
        if ours and not refused:
            self.charges[run.id].failures += how in ("failed", "dead")
            self.charges[run.id].attempts += how in ("failed", "snoozed", "dead", "cancelled")
        elif not ours:
            assert self._look() == self.seen, "I3: a run that is over changed a task"
        if forgets and not refused:
            self.runs = [each for each in self.runs if each[0] != run]

    def _settle(self, run: Claimed, how: str) -> bool:
        """Whether the ledger took it."""
        ended = Finished(run.id, run.run_id, 0.01, 0.0)
        failure = Failure(ended, how, "it broke\x00", None, 0.0, counts=how in ("failed", "dead"))
        with self.conn.transaction():
            if how == "succeeded":
                return bool(self.ledger.record_successes(self.conn, [ended]))
            if how == "dead":
                return bool(self.ledger.record_dead(self.conn, [failure]))
            if how == "cancelled":
                return bool(self.ledger.record_cancelled(self.conn, [failure]))
            if how == "given back":
                return bool(self.ledger.give_back(self.conn, [(run.id, run.run_id)]))
            return bool(self.ledger.record_again(self.conn, [failure]))

    @rule(worker=indexes, knows=mostly)
    def heartbeat(self, worker: int, knows: bool) -> None:
        """Three times; what it does not list it has never heard of, and is due again."""
        self.step = "heartbeat"
        who = self._a_worker(worker)
        held = [row["run_id"] for row in self.seen.values() if row["state"] == "running" and row["worker_id"] == who]
        for _ in range(3):
            self._beat(who, runs=held if knows else [])
        unlisted = self.ledger.rescue_unlisted(self.conn)
        ours = [id for id, row in self.seen.items() if row.get("run_id") in held and row["state"] == "running"]
        assert not (knows or who in self.outlaws) or not set(unlisted) & set(ours), "I7: a listed run was rescued"

    def _beat(self, who: UUID, *, runs: Sequence[UUID] = (), through: dict[str, str] | None = None) -> None:
        """With a report on what it has claimed, it reports only: its beats are its lease's."""
        told = self.ledger.beat(
            self.conn, worker=who, runs=runs, running=runs, queues=[QUEUE], unclaimed=[],
            claimed_through=through or {}, step=int(through is None),
        )  # fmt: skip
        assert (told is None) == (who in self.outlaws), "I7: a dead worker's heartbeat"
        if told is not None:
            self.beats[who] = told[0]

    @rule(worker=indexes, how=st.sampled_from(["it missed its lease", "it beats in the last moment", "it leaves"]))
    def a_worker_ends(self, worker: int, how: str) -> None:
        who = self._a_worker(worker)
        if how == "it leaves":
            self._leave(who)
        else:
            self._rescue(who, lives=how == "it beats in the last moment")

    def _rescue(self, who: UUID, *, lives: bool) -> None:
        self.step = "rescue"
        held = {id: row for id, row in self.seen.items() if row["state"] == "running" and row["worker_id"] == who}
        seen = self.beats.get(who, 0) - lives
        with self.conn.transaction():
            rescued = self.ledger.rescue(self.conn, worker=who, beat=seen, max_crashes=MAX_CRASHES)
        assert (rescued is None) == (lives or who in self.outlaws), "I7: rescued although it lives"
        if rescued is None:
            return
        self._is_gone(who)
        assert dict(rescued) == {id: self._after_a_crash(row) for id, row in held.items()}, "I6: what its tasks became"
        for id, row in held.items():
            self.charges[id].attempts += 1
            self.charges[id].crashes += row["alone"] and not row["cancel_requested"]

    def _after_a_crash(self, row: Row) -> str:
        if row["cancel_requested"]:
            return "cancelled"
        return "dead" if row["alone"] and row["crashes"] + 1 >= MAX_CRASHES else "rescued"

    def _leave(self, who: UUID) -> None:
        self.step = "leave"
        self.ledger.leave(self.conn, who)
        if who not in self.outlaws:
            self._is_gone(who)

    def _a_worker(self, which: int) -> UUID:
        """One in four is a zombie, if there is one."""
        living = [who for who in self.workers if who not in self.outlaws]
        among = living if which % 4 or not self.outlaws else [who for who in self.workers if who in self.outlaws]
        return among[which // 4 % len(among)]

    def _is_gone(self, who: UUID) -> None:
        """Another one is started in its place."""
        self.outlaws.add(who)
        self.workers.append(self.outbox.a_worker(queues=(QUEUE,)))

    # ------------------------------------------------------------------ keeper and operators

    @rule(hours_pass=mostly)
    def promote(self, hours_pass: bool) -> None:
        """What a keeper does, again and again."""
        self.step = "promote"
        if hours_pass:
            self._let_hours_pass()
        self.outbox.promote()
        self.outbox.sweep()
        with self.conn.transaction():
            self.ledger.grant(self.conn, self.ledger.expire(self.conn))

    def _let_hours_pass(self) -> None:
        self.conn.execute("update outbox.task set due_at = clock_timestamp() where due_at > clock_timestamp()")

    @rule(which=indexes, what=st.sampled_from(["cancel", "retry", "later", "now", "expire", "purge"]))
    def operate(self, which: int, what: str) -> None:
        self.step = {"later": "reschedule", "now": "reschedule", "expire": "promote"}.get(what, what)
        states = ("dead", "cancelled", "scheduled") if what == "retry" else (*UNSTARTED, "running")
        subjects = [id for id, row in self.seen.items() if row["state"] in states]
        if what == "purge":
            self._purge()
        elif subjects:
            with self.conn.transaction():
                self._operate(subjects[which % len(subjects)], what)

    def _purge(self) -> None:
        self.ledger.purge_dead(self.conn, before=self._now() + HOUR)
        now = self._look()
        self.forgotten |= {id for id, row in self.seen.items() if row["state"] == "dead" and id not in now}

    def _operate(self, id: UUID, what: str) -> None:
        row, runs = self.seen[id], self.seen[id]["state"] == "running"
        if what == "cancel":
            told = self.ledger.cancel(self.conn, id, reason="unwanted")
            assert told == ("requested" if runs else "cancelled"), "I2: what a cancel was told"
        elif what == "retry":
            assert self.ledger.retry(self.conn, id), "not retried"
            if row["state"] != "scheduled":
                self.charges[id] = Charges(attempts=self.charges[id].attempts)
        elif what == "expire":
            self.conn.execute("update outbox.task set expires_at = clock_timestamp() where id = %s", [id])
        else:
            moved = self.ledger.reschedule(self.conn, id, run_at=None, delay=HOUR if what == "later" else timedelta(0))
            assert (moved is None) == runs, "I3: what runs was rescheduled"

    @rule(resumes=mostly)
    def pause_or_resume(self, resumes: bool) -> None:
        """While it is paused, nothing is claimed."""
        self.step = "pause"
        if not self.paused:
            self.paused = True
            with self.conn.transaction():
                self.ledger.pause_queue(self.conn, QUEUE, who="me")
                self._claim_due(self.conn)
        if resumes:
            self._resume()

    def _resume(self) -> None:
        self.ledger.resume_queue(self.conn, QUEUE)
        self.paused = False

    @rule(frees=mostly)
    def hold_or_free_a_lane(self, frees: bool) -> None:
        """While it is held, nothing of it is let go."""
        self.step = "hold"
        self.ledger.hold_lane(self.conn, LANE, until=None, wait=HOUR, places=1)
        self.outbox.promote()
        self.outbox.sweep()
        now = self._look()
        held = [id for id, row in self.seen.items() if row["lane"] == LANE and row["state"] == "waiting"]
        assert all(now[id]["state"] == "waiting" for id in held), "let go in a lane that is held"
        if frees:
            self.ledger.free_lane(self.conn, LANE)

    # ------------------------------------------------------------------ what must hold

    @invariant()
    def every_invariant_holds(self) -> None:
        """After each step: the tables against what was seen before it."""
        if not hasattr(self, "charges"):
            return
        now = self._look()
        assert now.keys() == self.charges.keys() - self.forgotten, "I1, I2: not exactly what was committed"
        for id, row in now.items():
            check_move(self.step, self.seen.get(id, {"state": "absent"}), row)
            self.charges[id].check(row)
            if row["state"] == "published":
                assert (id, row["fence"]) in self.confirmed, "I4: published, never confirmed"
            if row["state"] in UNDER_WAY:
                assert row["due_at"] <= self._now(), f"I10: {row['state']} before its time"
        check_lanes_and_keys(list(now.values()))
        self.seen = now

    def _look(self) -> dict[UUID, Row]:
        """Every task that there is, in the order of their commits."""
        rows = [row for table in ("task", "history", "dead") for row in self.outbox.all(table)]
        found = {row["id"]: row for row in rows}
        assert len(found) == len(rows), "I2: a task in two places"
        assert found.keys() <= self.charges.keys(), "I1: a task that nobody committed"
        return {id: found[id] for id in self.charges if id in found}

    def _now(self) -> Any:
        return self.conn.execute("select clock_timestamp()").fetchall()[0][0]

    # ------------------------------------------------------------------ the world heals

    def teardown(self) -> None:
        if not hasattr(self, "charges"):
            return
        self.ledger.free_lane(self.conn, LANE)
        self._resume()
        for who, beat, _ in self.ledger.beats(self.conn):
            with self.conn.transaction():
                self.ledger.rescue(self.conn, worker=who, beat=beat, max_crashes=1_000_000)
        healer = self.outbox.a_worker(queues=(QUEUE,))
        for _ in range(len(self.charges) + 2):
            if not self.outbox.all():
                return
            self._carry_out(healer)
        left = [(row["id"], row["state"], row["lane"], row["reason"]) for row in self.outbox.all()]
        raise AssertionError(f"I2: stuck in a healed world: {left}")

    def _carry_out(self, worker: UUID) -> None:
        """Due times come, dead heads are retried, what the broker lost is found, published, and carried out."""
        for row in self.outbox.all("dead"):
            if row["lane_holds"]:
                self.ledger.retry(self.conn, row["id"])
        self._let_hours_pass()
        self.promote(hours_pass=True)
        epoch = self._begin_epoch()
        with self.conn.transaction():
            due = self.ledger.claim_due(self.conn, room={QUEUE: 100}, batch=100)
            self.ledger.mark_published(self.conn, [each.id for each in due], epochs={QUEUE: epoch})
        for each in due:
            copy = self._publish(each)
            for run in self.ledger.claim(self.conn, [(*copy, uuid4())], worker=worker, beat=0, alone=True):
                self._settle(run, "succeeded")


def _enqueue(session: Session, kind: str) -> Task:
    return enqueue(session, a_message(kind, queue=QUEUE), **KINDS[kind])
