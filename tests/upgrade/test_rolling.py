"""A deploy under load: old code on the new schema, old and new side by side, new code on old rows, and the deploy taken
back. Nothing that a client was told is lost, and each order is counted once (I1-I5, I9)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest

from deploy.local.place import ROOT
from tests.awaiting import await_that
from tests.system.load import Load, counted, states
from tests.upgrade.fleet import Fleet
from tests.upgrade.old_tree import old_tree

pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.timeout(500)]

LONG = timedelta(seconds=90)
ORDERS: dict[str, Sequence[str]] = {
    "the relay first": ("relay", "scheduler", "worker-1", "worker-2", "api"),
    "the workers first": ("worker-1", "worker-2", "api", "scheduler", "relay"),
}


class Pauses:
    """A client that asks for one thing at a time, and knows the longest answer of each stretch in which the API ran."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._longest = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> Pauses:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def take(self) -> float:
        """The longest answer since the last take, in seconds."""
        longest, self._longest = self._longest, 0.0
        return longest

    def _ask(self) -> None:
        headers = {"Authorization": f"Bearer {self._fleet.env['API_KEY']}"}
        with httpx2.Client(base_url=self._fleet.env["API_URL"], headers=headers, timeout=60) as client:
            while not self._stop.wait(0.02):
                began = time.monotonic()
                try:
                    client.post("/v1/events", json={"type": "pause.seen", "data": {}})
                except httpx2.HTTPError:
                    continue
                self._longest = max(self._longest, time.monotonic() - began)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return old_tree(tmp_path_factory.mktemp("old"))


@pytest.fixture
def fleet(old: Path, empty_database_url: str, amqp_url: str, queue_prefix: str, tmp_path: Path) -> Iterator[Fleet]:
    """All of it old, on the old schema, and ready."""
    fleet = Fleet(tmp_path, database_url=empty_database_url, rabbitmq_url=amqp_url, queue_prefix=queue_prefix)
    fleet.run("db", "upgrade", tree=old)
    fleet.start("receivers")
    for name in ORDERS["the relay first"]:
        fleet.start(name, old)
    fleet.await_ready()
    body = {"url": fleet.receiver_url, "event_types": ["load.*"]}
    headers = {"Authorization": f"Bearer {fleet.env['API_KEY']}"}
    httpx2.post(f"{fleet.env['API_URL']}/v1/endpoints", json=body, headers=headers).raise_for_status()
    yield fleet
    fleet.end()


@pytest.mark.parametrize("order", ORDERS)
def test_a_deploy_under_load_and_its_way_back_lose_nothing(
    fleet: Fleet, old: Path, order: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        with Load(fleet.env, currency="EUR") as load, Pauses(fleet) as pauses:
            go_on(load)
            before, began = pauses.take(), time.monotonic()
            fleet.run("db", "upgrade")
            migrated, paused = time.monotonic() - began, pauses.take()
            go_on(load)  # all that runs is old, on the new schema
            roll(fleet, load, ORDERS[order], ROOT)
            go_on(load)
            roll(fleet, load, ORDERS[order][::-1], old)
            go_on(load)  # all old again, on rows of the new
        await_that(lambda: all_is_done(fleet, load), LONG, pace=timedelta(milliseconds=200))
    except AssertionError as error:
        fleet.fail(error)
    check(fleet, load)
    with capsys.disabled():
        print(
            f"\n  {order}: promised {load.promised()}, lost 0, requests refused {load.told.refused}; db upgrade took "
            f"{migrated:.1f} s, the longest answer meanwhile {paused:.2f} s (before it {before:.2f} s)"
        )


def go_on(load: Load, count: int = 40) -> None:
    """So many promises more."""
    before = load.promised()
    await_that(lambda: load.promised() >= before + count, LONG)


def roll(fleet: Fleet, load: Load, order: Sequence[str], tree: Path) -> None:
    """Each process in its turn, with work done by that mixture of code in between."""
    for name in order:
        fleet.replace(name, tree)
        go_on(load, 20)


def all_is_done(fleet: Fleet, load: Load) -> bool:
    done = states(fleet.database_url, load.told.tasks) == {"succeeded": load.promised()}
    return done and load.told.buyers.keys() <= fleet.mailbox.read().receipts.keys()


def check(fleet: Fleet, load: Load) -> None:
    """What the far world got, against what clients were told."""
    told, mails, hooks = load.told, fleet.mailbox.read().copies, fleet.webhooks()
    assert [mails[task] for task in told.mails] == [1] * len(told.mails)  # nobody died: nothing is repeated
    assert [hooks[task] for task in told.deliveries] == [1] * len(told.deliveries)
    assert {len(fleet.mailbox.receipts[buyer]) for buyer in told.buyers} == {1}
    assert counted(fleet.database_url, "EUR") == (len(told.buyers), sum(told.buyers.values()))
    assert not fleet.query("select from outbox.dead")
    assert not fleet.query("select from outbox.history where failures > 0 or crashes > 0")
