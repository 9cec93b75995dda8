"""Each process and each server is killed with SIGKILL in the middle of work. Lost: zero, without anybody's hand (I1–I5),
and each order is counted exactly once (I9)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import httpx2
import psycopg
import pytest

from deploy.local.place import ROOT
from tests.awaiting import await_that
from tests.system.load import Load, Mailbox, counted, states, webhooks_of

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

LONG = timedelta(seconds=90)


class System:
    """`make up` in a directory of this module's own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.mailbox = Mailbox(directory)
        given = ("DATABASE_URL", "RABBITMQ_URL")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deploy.local", "--directory", str(directory), "up"],
            cwd=ROOT,
            env={**{name: value for name, value in os.environ.items() if name not in given}, "OUTBOX_LEASE": "3"},
            stdout=(directory / "out").open("w"),
            stderr=subprocess.STDOUT,
        )
        await_that((directory / "env").exists, LONG)
        lines = (directory / "env").read_text().splitlines()
        self.env = dict(line.removeprefix("export ").split("=", 1) for line in lines)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        os.kill(int((self.directory / "pids" / f"{name}.pid").read_text()), number)

    def register_endpoint(self) -> None:
        body = {"url": self.env["WEBHOOK_RECEIVER_URL"], "event_types": ["load.*"]}
        headers = {"Authorization": f"Bearer {self.env['API_KEY']}"}
        httpx2.post(f"{self.env['API_URL']}/v1/endpoints", json=body, headers=headers).raise_for_status()

    def end(self) -> None:
        self.process.terminate()
        assert self.process.wait(150) == 0


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    system = System(tmp_path_factory.mktemp("system"))
    system.register_endpoint()
    yield system
    system.end()


def _wipe_rabbitmq(system: System) -> None:
    system.kill("rabbitmq")
    shutil.rmtree((system.directory / "rabbitmq").rename(system.directory / "gone"))


def _kill(*names: str) -> Callable[[System], None]:
    return lambda system: [system.kill(name) for name in names] and None


def _freeze(name: str, seconds: float) -> Callable[[System], None]:
    """It answers nothing and keeps its connections: a worker misses its lease of 3 s and wakes late."""

    def freeze(system: System) -> None:
        system.kill(name, signal.SIGSTOP)
        time.sleep(seconds)  # the very thing that is tested
        system.kill(name, signal.SIGCONT)

    return freeze


FAULTS: dict[str, Callable[[System], None]] = {
    "api killed": _kill("api"),
    "relay killed": _kill("relay"),
    "worker killed": _kill("worker-1"),
    "all workers killed": _kill("worker-1", "worker-2", "worker-heavy"),
    "scheduler killed": _kill("scheduler"),
    "rabbitmq killed": _kill("rabbitmq"),
    "rabbitmq killed, disk deleted": _wipe_rabbitmq,
    "postgres killed": _kill("postgres"),
    "worker frozen beyond its lease": _freeze("worker-1", 5),
    "rabbitmq frozen": _freeze("rabbitmq", 10),
    "everything killed": _kill(
        "api", "relay", "worker-1", "worker-2", "worker-heavy", "scheduler", "rabbitmq", "postgres"
    ),
}

#: Of the orders under each fault, so that they are counted apart.
CURRENCIES = ["AUD", "CAD", "CHF", "CZK", "DKK", "EUR", "GBP", "HUF", "JPY", "NOK", "NZD", "PLN", "SEK", "USD"]


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_lost_when(system: System, fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    currency = CURRENCIES[list(FAULTS).index(fault)]
    with Load(system.env, currency=currency) as load:
        await_that(lambda: load.promised() >= 30, LONG)
        FAULTS[fault](system)
        struck, before = time.monotonic(), load.promised()
        await_that(lambda: load.promised() >= before + 30, LONG)
    told, ids = load.told, load.told.tasks

    def finished() -> bool:
        try:
            done = states(system.env["DATABASE_URL"], ids) == {"succeeded": len(ids)}
        except psycopg.Error:
            return False
        return done and told.buyers.keys() <= system.mailbox.read().receipts.keys()

    try:
        await_that(finished, LONG, pace=timedelta(milliseconds=200))
    except AssertionError:
        without = len(told.buyers.keys() - system.mailbox.receipts.keys())
        pytest.fail(
            f"{fault}: {dict(states(system.env['DATABASE_URL'], ids))} of {len(ids)} promised tasks, "
            f"{without} of {len(told.buyers)} orders without their mail"
        )
    mails, hooks = system.mailbox.copies, webhooks_of(system.directory)
    assert not [task for task in told.mails if not mails[task]]
    assert not [task for task in told.deliveries if not hooks[task]]
    receipts = [system.mailbox.receipts[buyer] for buyer in told.buyers]
    assert not [ids for ids in receipts if len(ids) > 1]  # copies there may be, of one mail
    assert counted(system.env["DATABASE_URL"], currency) == (len(told.buyers), sum(told.buyers.values()))
    sent = told.mails + [task for ids in receipts for task in ids]
    repeats = sum(mails[t] - 1 for t in sent) + sum(hooks[t] - 1 for t in told.deliveries)
    with capsys.disabled():
        print(
            f"\n  {fault}: promised {len(ids)} ({len(told.buyers)} orders), lost 0, repeated {repeats}, "
            f"requests refused {told.refused}, all done {time.monotonic() - struck:.1f} s after the fault"
        )
