"""PostgreSQL's own clock steps in the middle of the load: back, forth again, and ahead for good. Nothing is lost (I10)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from deploy.local import postgres as postgres_module
from deploy.local.account import reachable_directory, unprivileged_account
from deploy.local.place import ROOT
from deploy.local.servers import Postgres, RabbitMQ
from tests.awaiting import await_that
from tests.campaign.checker import check
from tests.campaign.clock import Clock
from tests.campaign.system import LEASE, System

pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.timeout(300)]

#: Less than the hour by which the load delays what it cancels.
STEP = timedelta(minutes=30)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    directory = reachable_directory(tmp_path / "database-clock", unprivileged_account())
    clock = Clock(directory.resolve())
    if not clock.environment:
        pytest.skip("no C compiler (`cc`) is installed")
    return clock


@pytest.fixture
def deceived_postgres(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Postgres]:
    """It reads our clock."""
    honest = postgres_module._environment
    monkeypatch.setattr(postgres_module, "_environment", lambda: {**honest(), **clock.environment})
    server = Postgres(tmp_path / "postgres", pids=tmp_path / "pids", logs=tmp_path)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def test_steps_of_the_databases_clock_lose_nothing_and_kill_no_lease(
    clock: Clock, deceived_postgres: Postgres, own_rabbitmq: RabbitMQ, queue_prefix: str, tmp_path: Path
) -> None:
    url = deceived_postgres.create_database("campaign")
    migrate = [sys.executable, "-m", "alembic", "upgrade", "heads"]
    subprocess.run(migrate, cwd=ROOT, env=os.environ | {"DATABASE_URL": url}, check=True, capture_output=True)
    system = System(
        tmp_path, postgres=deceived_postgres, rabbitmq=own_rabbitmq, database_url=url, prefix=queue_prefix, units=150,
        pause=0.05,
    )  # fmt: skip
    try:
        system.start()
        _await_runs(system, 60)
        for ahead in (-STEP, timedelta(0), STEP):
            clock.step_to(ahead)
            assert abs(_clock(system) - time.time() - ahead.total_seconds()) < 60
            time.sleep(1.5 * LEASE.total_seconds())  # an observer that compared instants would find everybody dead
            _await_runs(system, len(system.account().runs) + 1)
        system.drain(2 * MINUTE)
        account = system.account()
        assert check(account) == []
        assert len(account.promises) > 300
    finally:
        system.end()


def _clock(system: System) -> float:
    def look(conn: Any) -> float:
        return float(conn.execute("select extract(epoch from clock_timestamp())").fetchone()[0])

    return float(system.ask(look))


def _await_runs(system: System, count: int) -> None:
    await_that(lambda: len(system.account().runs) >= count, MINUTE, pace=timedelta(milliseconds=100))
