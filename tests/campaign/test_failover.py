"""PostgreSQL fails over to a synchronous standby in the middle of the load: the address moves, and nothing is lost (I1, I2)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

from deploy.local.account import reachable_copy, reachable_directory, unprivileged_account
from deploy.local.place import ROOT
from deploy.local.postgres import USER, find_installation
from deploy.local.server import remember
from deploy.local.servers import Postgres, RabbitMQ
from tests.awaiting import await_that
from tests.campaign.checker import check
from tests.campaign.system import System

pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.timeout(300)]

DATABASE = "campaign"
MINUTE = timedelta(minutes=1)


class Pair(NamedTuple):
    """A commit is answered only when both have it."""

    primary: Postgres
    standby: Postgres


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    primary = Postgres(tmp_path / "primary", pids=tmp_path / "primary-pids", logs=tmp_path)
    standby = Postgres(tmp_path / "standby", pids=tmp_path / "standby-pids", logs=tmp_path)
    try:
        primary.start()
        url = primary.create_database(DATABASE)
        migrate = [sys.executable, "-m", "alembic", "upgrade", "heads"]
        subprocess.run(migrate, cwd=ROOT, env=os.environ | {"DATABASE_URL": url}, check=True, capture_output=True)
        _copy(primary, tmp_path / "standby")
        standby.start()
        with psycopg.connect(primary.url, autocommit=True) as conn:
            conn.execute("alter system set synchronous_standby_names = '*'")
            conn.execute("select pg_reload_conf()")
            states = "select sync_state from pg_stat_replication"
            await_that(lambda: conn.execute(states).fetchall() == [("sync",)], MINUTE)
        yield Pair(primary, standby)
    finally:
        for server in (standby, primary):
            server.kill()
            server.stop()


def _copy(primary: Postgres, directory: Path) -> None:
    """A standby's data: a base backup that knows where to stream from."""
    account = unprivileged_account()
    reachable_directory(directory, account)
    target, url = directory.resolve() / "data", primary.url
    target.mkdir(mode=0o700)
    if account:
        account.own(target)
    backup = reachable_copy(find_installation(), account) / "bin" / "pg_basebackup"
    copied = subprocess.run(
        [str(backup), "-d", url, "-D", str(target), "-R", "-X", "stream", "-c", "fast"],
        cwd="/", user=account.uid if account else None, group=account.gid if account else None,
        extra_groups=[] if account else None, capture_output=True, text=True,
    )  # fmt: skip
    assert copied.returncode == 0, copied.stderr
    password = url.partition(f"//{USER}:")[2].partition("@")[0]
    remember(directory / "server.json", {"port": 0, "password": password})


def test_a_failover_to_a_synchronous_standby_loses_nothing(
    pair: Pair, own_rabbitmq: RabbitMQ, queue_prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    system = System(
        tmp_path, postgres=pair.primary, rabbitmq=own_rabbitmq, database_url=pair.primary.database_url(DATABASE),
        prefix=queue_prefix, units=120, pause=0.05,
    )  # fmt: skip
    try:
        system.start()
        _await(lambda: len(system.account().runs) > 60)
        pair.primary.kill()
        began = time.monotonic()
        with psycopg.connect(pair.standby.url, autocommit=True) as conn:
            assert conn.execute("select pg_promote(true, 60)").fetchone() == (True,)
        system.move_to(pair.standby.database_url(DATABASE))
        known = len(system.account().runs)
        _await(lambda: len(system.account().runs) > known)
        with capsys.disabled():
            print(f"\n  the next run started {time.monotonic() - began:.1f} s after the primary was killed")
        system.drain(2 * MINUTE)
        assert check(system.account()) == []
        assert len(system.account().promises) > 200
    finally:
        system.end()


def _await(condition: Callable[[], bool]) -> None:
    await_that(condition, MINUTE, pace=timedelta(milliseconds=100))
