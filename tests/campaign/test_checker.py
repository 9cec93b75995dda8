"""The checker is no yes-man: an account that is doctored in one place is found out, by the name of what was broken."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.campaign.checker import Account, Fate, Fault, Promise, Run, check, repeats

SUCCEEDED = Fate("succeeded")


def an_account() -> Account:
    """One task of each kind, all of them as they should be."""
    kinds = {
        "a/1/0": "mail",
        "a/2/0": "order",
        "a/3/0": "event",
        "a/9/0": "withdrawn",
        "a/18/0": "held",
        "a/19/0": "doomed",
    }
    steps, places = ["k/000001.0", "k/000001.1", "k/000002.0"], ["a/7/0", "a/7/1", "a/7/2"]
    kinds |= dict.fromkeys(steps, "step") | dict.fromkeys(places, "place")
    promises = [Promise(id=label, kind=kind, label=label, at=0.0) for label, kind in kinds.items()]
    runs = [Run(label, label, 7, 10.0 + n, 10.5 + n) for n, label in enumerate(kinds) if kinds[label] != "withdrawn"]
    runs += [Run("r", "receipt of a/2/0", 7, 30.0, 30.5), Run("a/3/0", "a/3/0", 7, 9.0, None)]
    fates = {promise.id: [SUCCEEDED] for promise in promises} | {"r": [SUCCEEDED]}
    fates |= {"a/9/0": [Fate("cancelled")], "a/18/0": [Fate("cancelled", failures=1)]}
    fates |= {"a/3/0": [Fate("succeeded", failures=1)]}
    received = Counter({"a/1/0": 1, "a/3/0": 2, "r": 1})
    return Account(promises, {"a/9/0": 5.0}, runs, received, Counter({"a/2/0": 1}), fates)


def forgotten(account: Account) -> None:
    del account.fates["a/1/0"]


def forgotten_receipt(account: Account) -> None:
    account.runs = [run for run in account.runs if run.id != "r"]


def twice(account: Account) -> None:
    account.fates["a/1/0"] = [SUCCEEDED, SUCCEEDED]


def dead(account: Account) -> None:
    account.fates["a/1/0"] = [Fate("dead")]


def still_there(account: Account) -> None:
    account.fates["x"] = [Fate("running")]


def fired_twice(account: Account) -> None:
    account.fires += ["r", "r"]


def a_forgotten_fire(account: Account) -> None:
    account.fires.append("y")


def failed(account: Account) -> None:
    account.fates["a/1/0"] = [Fate("succeeded", failures=1)]


def crashed(account: Account) -> None:
    account.fates["a/1/0"] = [Fate("succeeded", crashes=1)]


def unheard(account: Account) -> None:
    del account.received["a/1/0"]


def counted_twice(account: Account) -> None:
    account.tally["a/2/0"] = 2


def not_counted(account: Account) -> None:
    account.tally.clear()


def two_of_one_key(account: Account) -> None:
    account.promises.append(Promise("z", "doomed", "a/19/0", 0.0))
    account.fates["z"] = [SUCCEEDED]


def overtaken(account: Account) -> None:
    started(account, "k/000002.0", 1.0)


def back_again(account: Account) -> None:
    account.runs.append(Run("k/000001.0", "k/000001.0", 7, 50.0, 51.0))


def ran_all_the_same(account: Account) -> None:
    account.runs.append(Run("a/9/0", "a/9/0", 7, 6.0, 7.0))


def crowded(account: Account) -> None:
    for label in ("a/7/0", "a/7/1", "a/7/2"):
        started(account, label, 1.0)


def stood_still(account: Account) -> None:
    account.faults.append(Fault("a relay killed", 60.0, 61.0, recovered=math.inf))


def started(account: Account, label: str, at: float) -> None:
    account.runs = [replace(run, started=at) if run.label == label else run for run in account.runs]


BREACHES: dict[Callable[[Account], None], str] = {
    forgotten: "lost",
    forgotten_receipt: "lost",
    twice: "two outcomes",
    dead: "wrong end",
    still_there: "unfinished",
    fired_twice: "fired twice",
    a_forgotten_fire: "lost",
    failed: "charged with a failure",
    crashed: "charged with a crash",
    unheard: "no effect",
    counted_twice: "not once",
    not_counted: "not once",
    two_of_one_key: "not unique",
    overtaken: "out of order",
    back_again: "out of order",
    ran_all_the_same: "ran after its cancel",
    crowded: "beyond the limit",
    stood_still: "stood still",
}


def test_an_account_in_order_breaks_nothing() -> None:
    assert check(an_account()) == []


@pytest.mark.parametrize("doctor", BREACHES, ids=lambda doctor: doctor.__name__)
def test_a_doctored_account_is_found_out(doctor: Callable[[Account], None]) -> None:
    account = an_account()
    doctor(account)
    assert {breach.partition(":")[0] for breach in check(account)} == {BREACHES[doctor]}


def test_what_a_frozen_process_writes_down_as_it_wakes_is_no_breach() -> None:
    """It looked at its lease before it was frozen."""
    account = an_account()
    account.runs.append(Run("a/9/0", "a/9/0", 8, 20.0, 20.1))
    account.faults.append(Fault("frozen", 5.0, 19.95, frozenset({8})))
    assert check(account) == []


def test_a_repeat_is_put_down_to_the_fault_before_it() -> None:
    account = an_account()
    account.faults += [Fault("relay killed", 20.0, 20.0), Fault("worker killed", 25.0, 25.0), Fault("late", 90.0, 91.0)]
    account.runs.append(Run("a/1/0", "a/1/0", 7, 40.0, 41.0))
    assert repeats(account) == {"worker killed": 1}
