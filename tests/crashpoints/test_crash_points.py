"""Killed just before, and just after, everything that a process says to PostgreSQL and RabbitMQ (I1–I9).

A life in which all processes are listened to lists their points, so new code is covered without anyone remembering; then
each point has a life of its own, on both sides. Some points alone, a line each, by the name that a failure tells:

    CRASH_POINT='worker|outbox settle: COMMIT after RECORD_SUCCESSES|1|after' make chaos ARGS='-k every_point'

CRASH_EVERY=3 takes each third of all points. CHAOS_REPORT names a directory for the account: crash-points.json, and
crash-points.md with its table.
"""

from __future__ import annotations

import json
import os
import secrets
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from broker_side import admin
from psycopg import sql
from sqlalchemy.engine import make_url

from deploy.local.servers import GivenServer, Postgres, RabbitMQ
from tests.crashpoints.scenario import PROCESSES, Account, Life
from tests.crashpoints.tap import AFTER, BEFORE, Point, Target, changes_a_task

pytestmark = [pytest.mark.system, pytest.mark.timeout(5400)]

#: Lives side by side: each waits a third of its time.
BESIDE = 3
#: A point that another interleaving did not reach is looked for again.
TRIES = 4

LiveOnce = Callable[[Mapping[str, Target | None]], Account]


class Crash(NamedTuple):
    subject: str
    target: Target

    def __str__(self) -> str:
        (name, number), side = self.target
        return f"{self.subject}|{name}|{number}|{side}"

    def was_reached(self, account: Account) -> bool:
        return self.subject in account.struck

    @property
    def kind(self) -> str:
        return "AMQP frame" if self.target.point.name.startswith("amqp:") else "statement"


@pytest.fixture
def live(
    new_database: Callable[[str], str],
    migrated_template: str,
    postgres: Postgres | GivenServer,
    rabbitmq: RabbitMQ | GivenServer,
    tmp_path: Path,
) -> LiveOnce:
    def live(targets: Mapping[str, Target | None]) -> Account:
        prefix = f"t_{secrets.token_hex(4)}"
        directory = tmp_path / prefix
        directory.mkdir()
        url = new_database(migrated_template)
        life = Life(directory, database_url=url, rabbitmq_url=rabbitmq.url, prefix=prefix, targets=targets)
        try:
            return life.live()
        finally:
            _leave_nothing(postgres.url, url, rabbitmq.url, prefix)

    return live


def _leave_nothing(postgres_url: str, database_url: str, rabbitmq_url: str, prefix: str) -> None:
    """Hundreds of lives on one server: each quorum queue that is left costs it memory and time."""
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        name = sql.Identifier(make_url(database_url).database or "")
        conn.execute(sql.SQL("drop database if exists {} with (force)").format(name))
    with admin(rabbitmq_url) as channel:
        for queue in ("default", "default.dead"):
            channel.queue_delete(f"{prefix}.{queue}")


def test_nothing_is_lost_at_some_points(live: LiveOnce) -> None:
    """Two lives in which every process dies once: at statements that change a task, well spread, on either side."""
    points = _listened_to(live)
    lives: list[list[Crash]] = [[], []]
    for subject in PROCESSES:
        changing = sorted({point.name for point in points[subject] if changes_a_task(point.name)})
        for part, life in enumerate(lives):
            name = changing[part * len(changing) // len(lives)]
            life.append(Crash(subject, Target(Point(name, 1), AFTER if part % 2 else BEFORE)))
    _assert_nothing_wrong(_live_all(live, lives), missed=2)


@pytest.mark.long
def test_nothing_is_lost_at_every_point(live: LiveOnce, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    asked = os.environ.get("CRASH_POINT", "").splitlines()
    crashes = [_parsed(line) for line in asked] or _all(live)[:: int(os.environ.get("CRASH_EVERY", "1"))]
    accounts = _live_all(live, [[crash] for crash in crashes])
    told, table = _summary(accounts, time.monotonic() - began), _table(accounts)
    if directory := os.environ.get("CHAOS_REPORT"):
        (Path(directory) / "crash-points.json").write_text(json.dumps(told, indent=1) + "\n")
        (Path(directory) / "crash-points.md").write_text(table)
    with capsys.disabled():
        print(f"\n{table}\n{json.dumps(told, indent=1)}")
    _assert_nothing_wrong(accounts, missed=len(accounts) // 20)
    assert asked or "CRASH_EVERY" in os.environ or len(crashes) >= 200


def _all(live: LiveOnce) -> list[Crash]:
    """Of each name the first point and the one in the middle, on both sides."""
    return [
        Crash(subject, Target(Point(name, number), side))
        for subject, points in _listened_to(live).items()
        for name, times in Counter(point.name for point in points).items()
        for number in sorted({1, times // 2 + 1})
        for side in (BEFORE, AFTER)
    ]


def _listened_to(live: LiveOnce) -> dict[str, list[Point]]:
    calm = live(dict.fromkeys(PROCESSES))
    assert not calm.wrong, calm.wrong
    return calm.points


def _live_all(live: LiveOnce, lives: Sequence[Sequence[Crash]]) -> dict[Crash, Account]:
    with ThreadPoolExecutor(BESIDE) as beside:
        accounts = beside.map(lambda crashes: _until_struck(live, crashes), lives)
        return {crash: account for crashes, account in zip(lives, accounts, strict=True) for crash in crashes}


def _until_struck(live: LiveOnce, crashes: Sequence[Crash]) -> Account:
    for _ in range(TRIES):
        account = live({crash.subject: crash.target for crash in crashes})
        if account.wrong or all(crash.was_reached(account) for crash in crashes):
            break
    return account


def _assert_nothing_wrong(accounts: dict[Crash, Account], *, missed: int) -> None:
    wrong = {str(crash): account.wrong for crash, account in accounts.items() if account.wrong}
    assert not wrong, json.dumps(wrong, indent=1)
    away = [str(crash) for crash, account in accounts.items() if not crash.was_reached(account)]
    assert len(away) <= missed, f"not reached in {TRIES} lives each: {away}"


# ---------------------------------------------------------------------- the account


def _summary(accounts: dict[Crash, Account], seconds: float) -> dict[str, object]:
    lives = sorted(account.seconds for account in accounts.values())
    return {
        "points": sum(crash.was_reached(account) for crash, account in accounts.items()),
        "wrong": {str(crash): account.wrong for crash, account in accounts.items() if account.wrong},
        "not reached": [str(crash) for crash, account in accounts.items() if not crash.was_reached(account)],
        "repeats": sum(account.repeats for account in accounts.values()),
        "most repeats of a life": max(account.repeats for account in accounts.values()),
        "seconds a life": {"median": round(statistics.median(lives), 1), "most": round(lives[-1], 1)},
        "minutes": round(seconds / 60, 1),
    }


def _table(accounts: dict[Crash, Account]) -> str:
    """A row for each process, kind and side: how often it was killed there, and how many runs were repeated for it."""
    lines = ["| process | killed | points | wrong | repeats a life |", "|---|---|---|---|---|"]
    for subject in PROCESSES:
        for kind in ("statement", "AMQP frame"):
            for side in (BEFORE, AFTER):
                here = [
                    account
                    for crash, account in accounts.items()
                    if crash.was_reached(account)
                    and (crash.subject, crash.kind, crash.target.side) == (subject, kind, side)
                ]
                if here:
                    wrong, repeats = sum(bool(each.wrong) for each in here), sum(each.repeats for each in here)
                    mean = f"{repeats / len(here):.2f}"
                    lines.append(f"| {subject} | {side} a {kind} | {len(here)} | {wrong} | {mean} |")
    return "\n".join(lines).replace("a AMQP", "an AMQP") + "\n"


def _parsed(said: str) -> Crash:
    subject, name, number, side = said.split("|")
    return Crash(subject, Target(Point(name, int(number)), side))
