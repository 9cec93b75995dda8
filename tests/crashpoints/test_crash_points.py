"""Killed just before, and just after, everything that a process says to PostgreSQL and RabbitMQ (I1–I9).

A recording run of each process lists its points, so new code is covered without anyone remembering; then each point has a
life of its own, on both sides. One point alone, by the name that a failure tells:

    CRASH_POINT='worker|outbox settle: COMMIT after RECORD_SUCCESSES|1|after' make chaos ARGS='-k every_point'

CHAOS_REPORT names a directory for the account, crash-points.json.
"""

from __future__ import annotations

import json
import os
import secrets
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from deploy.local.servers import GivenServer, RabbitMQ
from tests.crashpoints.scenario import PROCESSES, Account, Life
from tests.crashpoints.tap import AFTER, BEFORE, Point, Target

pytestmark = [pytest.mark.system, pytest.mark.timeout(5400)]

#: Lives side by side: each mostly waits.
BESIDE = 4
#: A point that another interleaving did not reach is looked for again.
TRIES = 4

LiveOnce = Callable[[str, Target | None], Account]


class Crash(NamedTuple):
    subject: str
    target: Target

    def __str__(self) -> str:
        (name, number), side = self.target
        return f"{self.subject}|{name}|{number}|{side}"


@pytest.fixture
def live(
    new_database: Callable[[str], str], migrated_template: str, rabbitmq: RabbitMQ | GivenServer, tmp_path: Path
) -> LiveOnce:
    def live(subject: str, target: Target | None) -> Account:
        prefix = f"t_{secrets.token_hex(4)}"
        directory = tmp_path / prefix
        directory.mkdir()
        life = Life(
            directory,
            database_url=new_database(migrated_template),
            rabbitmq_url=rabbitmq.url,
            prefix=prefix,
            subject=subject,
            target=target,
        )
        return life.live()

    return live


def test_nothing_is_lost_at_some_points(live: LiveOnce) -> None:
    """One point of each kind that changes a task: every commit of the ledger, every publish, claim and acknowledgement."""
    crashes = [
        Crash(subject, Target(Point(name, 1), side))
        for subject, name, side in (
            ("client", "unnamed: COMMIT after insert into unit values (?, ?)", AFTER),
            ("relay", "outbox relay lane 0: COMMIT after MARK_PUBLISHED", BEFORE),
            ("relay", "amqp: Basic.Publish/body", AFTER),
            ("relay", "outbox relay epoch: BEGIN_EPOCH", AFTER),
            ("worker", "outbox claim default: CLAIM", AFTER),
            ("worker", "outbox settle: COMMIT after RECORD_SUCCESSES", BEFORE),
            ("worker", "outbox actor: COMMIT after RECORD_SUCCESSES", AFTER),
            ("worker", "amqp: Basic.Ack", BEFORE),
            ("scheduler", "outbox scheduler: ENQUEUE", AFTER),
        )
    ]
    accounts = _live_all(live, crashes)
    _assert_nothing_wrong(accounts)


@pytest.mark.long
def test_nothing_is_lost_at_every_point(live: LiveOnce, capsys: pytest.CaptureFixture[str]) -> None:
    asked = os.environ.get("CRASH_POINT")
    crashes = [_parsed(asked)] if asked else list(_all(live))
    began = time.monotonic()
    accounts = _live_all(live, crashes)
    told = _summary(accounts, time.monotonic() - began)
    if directory := os.environ.get("CHAOS_REPORT"):
        (Path(directory) / "crash-points.json").write_text(json.dumps(told, indent=1) + "\n")
    with capsys.disabled():
        print(f"\n{json.dumps(told, indent=1)}")
    _assert_nothing_wrong(accounts)
    assert asked or len(crashes) >= 200


def _all(live: LiveOnce) -> Iterable[Crash]:
    """Of each name the first point, the second, and the one in the middle, on both sides."""
    for subject in PROCESSES:
        calm = live(subject, None)
        assert not calm.wrong, calm.wrong
        for name, times in Counter(point.name for point in calm.points).items():
            for number in sorted({1, min(2, times), (times + 1) // 2}):
                for side in (BEFORE, AFTER):
                    yield Crash(subject, Target(Point(name, number), side))


def _live_all(live: LiveOnce, crashes: list[Crash]) -> dict[Crash, Account]:
    with ThreadPoolExecutor(BESIDE) as beside:
        return dict(zip(crashes, beside.map(lambda crash: _until_struck(live, crash), crashes), strict=True))


def _until_struck(live: LiveOnce, crash: Crash) -> Account:
    for _ in range(TRIES):
        account = live(crash.subject, crash.target)
        if account.struck or account.wrong:
            break
    return account


def _assert_nothing_wrong(accounts: dict[Crash, Account]) -> None:
    wrong = {str(crash): account.wrong for crash, account in accounts.items() if account.wrong}
    assert not wrong, json.dumps(wrong, indent=1)
    missed = [str(crash) for crash, account in accounts.items() if not account.struck]
    assert len(missed) <= len(accounts) // 20, f"not reached in {TRIES} lives each: {missed}"


def _summary(accounts: dict[Crash, Account], seconds: float) -> dict[str, object]:
    struck = {crash: account for crash, account in accounts.items() if account.struck}
    by_process = {
        subject: {
            "points": sum(crash.subject == subject for crash in struck),
            "names": len({crash.target.point.name for crash in struck if crash.subject == subject}),
            "repeats": sum(account.repeats for crash, account in struck.items() if crash.subject == subject),
        }
        for subject in PROCESSES
    }
    lives = sorted(account.seconds for account in struck.values())
    return {
        "points": len(struck),
        "wrong": sum(bool(account.wrong) for account in accounts.values()),
        "not reached": [str(crash) for crash, account in accounts.items() if not account.struck],
        "by process": by_process,
        "seconds a life": {"median": round(statistics.median(lives), 1), "most": round(lives[-1], 1)} if lives else {},
        "minutes": round(seconds / 60, 1),
    }


def _parsed(said: str) -> Crash:
    subject, name, number, side = said.split("|")
    return Crash(subject, Target(Point(name, int(number)), side))
