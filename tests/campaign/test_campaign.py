"""A mixed load while faults strike: at the end everything that a client was told is true (I1–I10).

    CHAOS_SEED=7 CHAOS_TASKS=3000 make chaos ARGS='-k every_kind tests/campaign'

repeats a campaign: the seed says which faults strike, in which order, and how long they last; not, in which instant of a
task. CHAOS_REPORT names a directory for its account: campaign.json, and campaign.md with its table.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from deploy.local.servers import Postgres, RabbitMQ
from tests.campaign.checker import Account, check, repeats
from tests.campaign.faults import CLOCKS, FAULTS, strike
from tests.campaign.system import System

pytestmark = pytest.mark.system

#: Of a unit, receipts included: what KINDS come to.
TASKS_A_UNIT = 1.6
SEED = int(os.environ.get("CHAOS_SEED", "0")) or secrets.randbelow(2**31)
TASKS = int(os.environ.get("CHAOS_TASKS", "20000"))

MakeSystem = Callable[..., System]


@pytest.fixture
def make_system(
    own_postgres: Postgres,
    own_rabbitmq: RabbitMQ,
    new_database: Callable[[str], str],
    migrated_template: str,
    queue_prefix: str,
    tmp_path: Path,
) -> Iterator[MakeSystem]:
    made: list[System] = []

    def make(*, units: int, pause: float) -> System:
        system = System(
            tmp_path, postgres=own_postgres, rabbitmq=own_rabbitmq, database_url=new_database(migrated_template),
            prefix=queue_prefix, units=units, pause=pause,
        )  # fmt: skip
        made.append(system)
        return system

    yield make
    for system in made:
        system.end()


@pytest.mark.timeout(240)
def test_some_faults_break_no_promise(make_system: MakeSystem) -> None:
    """Those that no other test of the whole system has, one after the other."""
    system = make_system(units=110, pause=0.05)
    some = ["a relay frozen", "a queue purged", "RabbitMQ closes all connections", "PostgreSQL ends all sessions"]
    account = _live(system, [*some, *({CLOCKS} & _possible(system))], random.Random(4), pause=0.5, once=True)
    assert check(account) == []
    assert len(account.promises) > 250


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_faults_of_every_kind_break_no_promise(make_system: MakeSystem, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    units = int(TASKS / TASKS_A_UNIT / 2) + 1
    system = make_system(units=units, pause=0.03)
    account = _live(system, sorted(_possible(system)), random.Random(SEED), pause=2.0, once=False)
    unclean, broken = system.end(), check(account)
    told = _summary(account, seconds=time.monotonic() - began, refused=system.refused, broken=broken)
    table = _table(account)
    if directory := os.environ.get("CHAOS_REPORT"):
        (Path(directory) / "campaign.json").write_text(json.dumps(told, indent=1) + "\n")
        (Path(directory) / "campaign.md").write_text(table)
    with capsys.disabled():
        print(f"\nCHAOS_SEED={SEED}\n{table}\n{json.dumps(told, indent=1)}")
    assert not broken
    assert not unclean
    assert TASKS < 20_000 or len(account.fates) >= 20_000
    assert TASKS < 20_000 or {fault.name for fault in account.faults} == _possible(system)


def _possible(system: System) -> set[str]:
    """The faults that this machine can make."""
    return FAULTS.keys() - (set() if system.clock.environment else {CLOCKS})


def _live(system: System, names: Sequence[str], fate: random.Random, *, pause: float, once: bool) -> Account:
    """Faults strike one after the other for as long as clients ask; then the world heals."""
    system.start()
    while not system.all_is_told:
        for name in fate.sample(names, len(names)):
            time.sleep(pause * (0.5 + fate.random()))
            system.retry_the_dead()
            strike(system, name, fate)
        if once:
            break
    try:
        system.drain(timedelta(minutes=3))
    except AssertionError as error:
        raise AssertionError(f"{error}: {system.unfinished()}") from None
    return system.account()


# ---------------------------------------------------------------------- the account


def _summary(account: Account, *, seconds: float, refused: int, broken: list[str]) -> dict[str, object]:
    return {
        "seed": SEED,
        "tasks": len(account.fates),
        "promised": len(account.promises),
        "faults": len(account.faults),
        "broken": broken,
        "repeats": sum(repeats(account).values()),
        "runs": len(account.runs),
        "cancels confirmed": len(account.withdrawn),
        "requests asked again": refused,
        "minutes": round(seconds / 60, 1),
    }


def _table(account: Account) -> str:
    """A row for each kind of fault: how often, the runs that were repeated after it, and how soon something new was done."""
    lines = ["| fault | times | repeats | recovered after, median / most |", "|---|---|---|---|"]
    again, times = repeats(account), Counter(fault.name for fault in account.faults)
    for name in sorted(times):
        spans = [fault.recovered for fault in account.faults if fault.name == name and fault.recovered is not None]
        told = f"{statistics.median(spans):.1f} / {max(spans):.1f} s" if spans else "-"
        lines.append(f"| {name} | {times[name]} | {again[name]} | {told} |")
    return "\n".join(lines) + "\n"
