"""Each guard of the ledger, taken away: the machine's eyes see what breaks (I3, I6, I7, I10). So they are not blind.

A story is a few of the machine's own steps. On the ledger as it is nothing breaks in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from outbox.ledger import Ledger
from tests.model.machine import LedgerMachine
from tests.outbox_rows import Outbox

Step = tuple[str, dict[str, Any]]

#: Numbers that choose a worker: the first that lives, the second, one that was declared dead.
FIRST, SECOND, ZOMBIE = 1, 5, 0


def _enqueue(*kinds: str) -> Step:
    return "enqueue", {"asked": list(kinds), "undone": "plain", "commits": True}


def _relay(answer: str = "confirmed", meanwhile: str = "nothing") -> Step:
    return "relay", {"answers": [answer], "meanwhile": meanwhile}


def _claim(worker: int = FIRST, *, stays: bool = False) -> Step:
    return "claim", {"worker": worker, "which": [0], "alone": False, "stays": stays, "waits": True}


def _end(how: str) -> Step:
    return "end_a_run", {"which": 0, "how": how, "forgets": False}


def _the_worker(how: str) -> Step:
    return "a_worker_ends", {"worker": FIRST, "how": how}


def _the_broker(what: str) -> Step:
    return "the_broker_errs", {"which": 0, "what": what}


def _operate(what: str) -> Step:
    return "operate", {"which": 0, "what": what}


PROMOTE: Step = ("promote", {"hours_pass": False})
MISSED = "it missed its lease"
RUNS = [_enqueue("plain"), _relay(), _claim()]
#: Its first copy is still on the way, and it is due again.
FAILED = [_enqueue("plain"), _relay(), _claim(stays=True), _end("failed"), PROMOTE]


class Guard(NamedTuple):
    """What stands in the ledger, what stands there without it, and the story in which that breaks something."""

    sql: str
    instead: str
    story: list[Step]
    broken: str


GUARDS = {
    "a claim names the fence": Guard("and t.fence = a.fence", "", [*FAILED, _claim()], "I3"),
    "a settle names the run": Guard(
        "and t.run_id = a.run_id",
        "",
        [_enqueue("plain"), _relay(), _claim(stays=True), _the_worker("it leaves"), _relay(),
         ("claim", {"worker": FIRST, "which": [0, 1], "alone": False, "stays": False, "waits": True}), _end("succeeded")],
        "I3",
    ),
    "a run that is to be cancelled is not tried again": Guard(
        "and not t.cancel_requested", "", [*RUNS, _operate("cancel"), _end("failed")], "I3"
    ),
    "a failure changes the fence": Guard(
        "set state = 'scheduled', fence = gen_random_uuid(), due", "set state = 'scheduled', due", FAILED, "I3"
    ),
    "a loss does not": Guard(
        "set state = 'pending', published_at = null, epoch = null, losses",
        "set fence = gen_random_uuid(), state = 'pending', published_at = null, epoch = null, losses",
        [_enqueue("plain"), _relay(), _the_broker("all lost")],
        "I3",
    ),
    "a dead letter names the fence": Guard(
        "and t.fence = %(fence)s", "", [*FAILED, _relay(), _the_broker("dead-lettered")], "I3"
    ),
    "an epoch begins once": Guard(
        "and epoch = %(seen)s", "", [_enqueue("plain"), _relay(), _the_broker("all lost")], "an epoch begun twice"
    ),
    "a suspect runs alone": Guard(
        "and (not t.suspect or %(alone)s)", "", [*RUNS, _the_worker(MISSED), _relay(), _claim()], "I6"
    ),
    "a crash counts alone": Guard("case when t.alone then 1 else 0 end", "1", [*RUNS, _the_worker(MISSED)], "I6"),
    "who was declared dead claims nothing": Guard(
        "and exists (select from outbox.worker w where w.id = %(worker)s)",
        "",
        [_enqueue("plain"), _relay(), _the_worker(MISSED), _claim(ZOMBIE)],
        "I7",
    ),
    "who beats is not rescued": Guard(
        "and beat = %(beat)s", "", [*RUNS, ("heartbeat", {"worker": FIRST, "knows": True}),
                                    _the_worker("it beats in the last moment")], "I7"
    ),
    "what a heartbeat lists is let alone": Guard(
        "and r.run_id <> all(w.runs)", "", [*RUNS, ("heartbeat", {"worker": FIRST, "knows": True})], "I7"
    ),
    "nothing is promoted before its time": Guard(
        "and due_at <= clock_timestamp()", "", [_enqueue("later"), PROMOTE], "I10"
    ),
    "what has expired does not start": Guard(
        "and (t.expires_at is null or t.expires_at > clock_timestamp())",
        "",
        [_enqueue("plain"), _relay(), _operate("expire"), _claim()],
        "expired",
    ),
    "a limited lane has its limit": Guard(
        "least(head.room - now.taken, l.places)", "100", [_enqueue(*["limited"] * 3), PROMOTE], "concurrency limit"
    ),
    "a held lane lets nothing go": Guard(
        "case when h.held_until > clock_timestamp() then 0 else",
        "case when false then 0 else",
        [_enqueue("limited"), ("hold_or_free_a_lane", {"frees": True})],
        "a lane that is held",
    ),
    "a paused queue starts nothing": Guard(
        "and t.queue <> all(array(select name from outbox.queue where paused))",
        "",
        [_enqueue("plain"), _relay("arrived in silence", "the queue is paused"), _claim()],
        "a paused queue",
    ),
    "a dead one holds its lane": Guard(
        "where not exists (select from outbox.dead d where d.lane = l.lane and d.lane_holds)",
        "",
        [_enqueue(*["held by its dead"] * 2), _relay(), _claim(), _end("dead")],
        "ordering key",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def outbox(new_database: Callable[[str], str], migrated_template: str) -> Iterator[Outbox]:
    outbox = Outbox(new_database(migrated_template))
    yield outbox
    outbox.close()


class Unguarded(Ledger):
    """The ledger with one guard taken away, wherever it stands."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        super().__init__()

    def _of(self, sql: str) -> str:
        return super()._of(sql).replace(self._guard.sql, self._guard.instead)


@pytest.mark.parametrize("which", GUARDS)
def test_a_guard_that_is_missing_is_missed(outbox: Outbox, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = GUARDS[which]
    _tell(outbox, guard.story)
    monkeypatch.setattr(outbox, "ledger", Unguarded(guard))
    with pytest.raises(AssertionError, match=guard.broken):
        _tell(outbox, guard.story)


def _tell(outbox: Outbox, story: list[Step]) -> None:
    machine = LedgerMachine()
    machine.outbox = outbox
    machine.begin()
    for step, how in story:
        getattr(machine, step)(**how)
        machine.every_invariant_holds()
