"""What was promised against what happened. The checker knows what clients were told and what receivers got, and the last state
of each id; of leases, fences and queues it knows nothing.

Each breach begins with its name, which `test_checker.py` provokes by a doctored account.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tests.campaign.app import LIMIT

__all__ = ["Account", "Fate", "Fault", "Promise", "Run", "check", "repeats"]

FINAL = {"succeeded", "cancelled", "dead"}
#: The states in which a task of each kind may end.
ENDS = {"withdrawn": {"cancelled"}, "held": {"cancelled", "succeeded"}}
#: Failures that each kind ends with, and second runs that it asks for: an operator's retry begins to count anew.
FAILURES = {"event": 1}
AGAIN = {"event": 1, "doomed": 1}
#: Seconds in which a process that was frozen may still write down that it started what it was about to start.
WAKING = 0.2


@dataclass(frozen=True)
class Promise:
    """A task that a client was told of."""

    id: str
    kind: str
    label: str
    at: float


@dataclass(frozen=True)
class Run:
    """What an actor wrote down. `ended` is None when its process died, or the run did not end well."""

    id: str
    label: str
    pid: int
    started: float
    ended: float | None


@dataclass(frozen=True)
class Fate:
    state: str
    failures: int = 0
    crashes: int = 0


@dataclass(frozen=True)
class Fault:
    """`pids` are those that it froze; `recovered`: seconds from its end until something new was done, if that was awaited;
    infinite: nothing was, for as long as that was waited for."""

    name: str
    began: float
    ended: float
    pids: frozenset[int] = frozenset()
    recovered: float | None = None


@dataclass
class Account:
    promises: list[Promise]
    #: Id to when a client was told `cancelled`: it had not started.
    withdrawn: dict[str, float]
    runs: list[Run]
    #: Ids in the requests that the receiver answered.
    received: Counter[str]
    #: Labels in the table that runs write into through their own session.
    tally: Counter[str]
    fates: dict[str, list[Fate]]
    #: The task of each fire of the cron schedule.
    fires: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def check(account: Account) -> list[str]:
    """Every broken promise."""
    return [
        *_of_fates(account),
        *_of_unique_keys(account),
        *_of_effects(account),
        *_of_order(account),
        *_of_cancels(account),
        *_of_the_limit(account),
        *_of_fires(account),
        *_of_standstills(account),
    ]


def repeats(account: Account) -> Counter[str]:
    """Runs beyond those that the actors ask for, by the fault that came last before each."""
    seen: Counter[str] = Counter()
    kinds = {promise.id: promise.kind for promise in account.promises}
    again: Counter[str] = Counter()
    for run in sorted(account.runs, key=lambda run: run.started):
        seen[run.id] += 1
        if seen[run.id] > 1 + AGAIN.get(kinds.get(run.id, ""), 0):
            before = [fault for fault in account.faults if fault.began <= run.started]
            again[max(before, key=lambda fault: fault.began).name if before else "no fault"] += 1
    return again


def _of_fates(account: Account) -> Iterator[str]:
    for promise in account.promises:
        fates, kind = account.fates.get(promise.id, []), promise.kind
        if not fates:
            yield f"lost: nothing is known of {promise.label}"
        elif len(fates) > 1:
            yield f"two outcomes: {promise.label} is {[fate.state for fate in fates]}"
        elif fates[0].state not in ENDS.get(kind, {"succeeded"}):
            yield f"wrong end: {promise.label} is {fates[0].state}"
        elif fates[0].failures != FAILURES.get(kind, 0) and kind != "held":
            yield f"charged with a failure: {promise.label} has {fates[0].failures}"
        elif fates[0].crashes:
            yield f"charged with a crash: {promise.label} has {fates[0].crashes}"
    for id, fates in account.fates.items():
        if any(fate.state not in FINAL for fate in fates):
            yield f"unfinished: {id} is {[fate.state for fate in fates]}"


def _of_unique_keys(account: Account) -> Iterator[str]:
    """Whoever asks a second time before the first has started is told the first one's id."""
    ids: defaultdict[str, set[str]] = defaultdict(set)
    for promise in account.promises:
        ids[promise.label].add(promise.id)
    for label, those in ids.items():
        if len(those) > 1:
            yield f"not unique: {label} is {len(those)} tasks"


def _of_effects(account: Account) -> Iterator[str]:
    for promise in account.promises:
        state = account.fates[promise.id][0].state if promise.id in account.fates else ""
        if promise.kind in ("mail", "event") and state == "succeeded" and not account.received[promise.id]:
            yield f"no effect: {promise.label} succeeded, and its receiver got nothing"
        if promise.kind == "order" and account.tally[promise.label] != 1:
            yield f"not once: {promise.label} counts {account.tally[promise.label]} times"
    receipts = {run.label for run in account.runs if run.ended is not None}
    for promise in account.promises:
        if promise.kind == "order" and f"receipt of {promise.label}" not in receipts:
            yield f"lost: the receipt of {promise.label}"


def _of_order(account: Account) -> Iterator[str]:
    """In each key the next one starts after the one before has ended, and that one starts no more."""
    runs: defaultdict[str, list[Run]] = defaultdict(list)
    for run in _trusted(account):
        runs[run.label].append(run)
    keys: defaultdict[str, set[str]] = defaultdict(set)
    for promise in account.promises:
        if promise.kind == "step":
            keys[promise.label.rpartition("/")[0]].add(promise.label)
    for labels in keys.values():
        for before, after in pairwise(sorted(labels)):
            ends = [run.ended for run in runs[before] if run.ended is not None]
            starts = [run.started for run in runs[after]]
            if ends and starts and not min(ends) <= min(starts):
                yield f"out of order: {after} started before {before} ended"
            if starts and any(run.started > min(starts) for run in runs[before]):
                yield f"out of order: {before} started after {after}"


def _of_cancels(account: Account) -> Iterator[str]:
    for run in _trusted(account):
        if run.started > account.withdrawn.get(run.id, run.started):
            yield f"ran after its cancel: {run.label}"


def _of_the_limit(account: Account) -> Iterator[str]:
    """Of runs that ended in their own process: how long a dead one's went on nobody wrote down."""
    limited = {promise.id for promise in account.promises if promise.kind == "place"}
    frozen = {pid for fault in account.faults for pid in fault.pids}
    changes: list[tuple[float, int]] = []
    for run in account.runs:
        if run.id in limited and run.ended is not None and run.pid not in frozen:
            changes += [(run.started, 1), (run.ended, -1)]
    at_once = 0
    for at, change in sorted(changes):
        at_once += change
        if at_once > LIMIT:
            yield f"beyond the limit: {at_once} at once at {at:.3f}"


def _of_fires(account: Account) -> Iterator[str]:
    for id, times in Counter(account.fires).items():
        if times > 1:
            yield f"fired twice: {id}"
        if id not in account.fates:
            yield f"lost: nothing is known of the fire {id}"


def _trusted(account: Account) -> Sequence[Run]:
    """Without what a process wrote down as it woke: it may have been frozen between its last look at its lease and that line."""
    return [
        run
        for run in account.runs
        if not any(
            run.pid in fault.pids and fault.ended - WAKING <= run.started <= fault.ended + WAKING
            for fault in account.faults
        )
    ]


def _of_standstills(account: Account) -> Iterator[str]:
    for fault in account.faults:
        if fault.recovered == math.inf:
            yield f"stood still: nothing that was enqueued after “{fault.name}” was done"
