"""What an actor logs is kept with an attempt that did not succeed: the last lines, without secrets, and nothing of others."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from types import SimpleNamespace
from typing import Any, cast

import pytest
from workshop import MakeWorkshop, Workshop

from outbox.capture import LINES, MOST, told
from outbox.fingerprint import fingerprint_of
from outbox.logs import get_logger
from outbox.run import Run

QUICK: dict[str, Any] = {"min_backoff": 1, "max_backoff": 2, "max_retries": 0}
log = logging.getLogger("shop.mail")


@pytest.fixture(autouse=True)
def heard() -> Any:
    """As `logs.configure` has it: records from INFO on."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    root.setLevel(logging.INFO)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


def test_a_failed_attempt_keeps_what_the_actor_logged_and_its_kind(shop: Workshop) -> None:
    @shop.actor(**QUICK)
    def send(to: str) -> None:
        log.debug("not heard")
        log.info("connects as %s to amqp://ann:hunter2@host/", to)
        get_logger("shop.store").warning("no answer", tries=3, api_key="hunter2")
        raise TimeoutError("after 3 s")

    (attempt,) = shop.await_state(send.send("bob").message_id, "dead").attempts
    first, second = attempt["logs"].split("\n")
    assert first.endswith("Z INFO shop.mail: connects as bob to amqp://[redacted]@host/")
    assert "WARNING shop.store: no answer" in second
    assert attempt["failure"] == fingerprint_of(attempt["error"], attempt["traceback"])


def test_asynchronous_actors_keep_each_their_own(shop: Workshop) -> None:
    together = asyncio.Event()

    @shop.actor(**QUICK)
    async def fetch(name: str, other: str) -> None:
        log.info("begins %s", name)
        if name == "b":
            together.set()
        await asyncio.wait_for(together.wait(), 10)
        log.info("ends %s", name)
        raise ValueError(other)

    ids = [fetch.send(*names).message_id for names in ("ab", "ba")]
    for id, name in zip(ids, "ab", strict=True):
        (attempt,) = shop.await_state(id, "dead").attempts
        assert [line.rpartition(": ")[2] for line in attempt["logs"].split("\n")] == [f"begins {name}", f"ends {name}"]


def test_nothing_is_kept_of_what_succeeds_or_logs_nothing(shop: Workshop) -> None:
    @shop.actor(max_retries=1, min_backoff=1, max_backoff=2)
    def send(fails: bool) -> None:
        if fails:
            raise ValueError
        log.info("said")

    well, badly = send.send(False), send.send(True)
    assert shop.await_state(well.message_id, "succeeded").attempts == []
    assert {each["logs"] for each in shop.await_state(badly.message_id, "dead").attempts} == {None}


def test_it_can_be_switched_off(make_workshop: MakeWorkshop) -> None:
    logging.getLogger().handlers.clear()  # that of this module's other worker
    shop = make_workshop(capture_logs=False)

    @shop.actor(**QUICK)
    def send() -> None:
        log.info("said")
        raise ValueError

    shop.open()
    assert shop.await_state(send.send().message_id, "dead").attempts[0]["logs"] is None


def ran(*said: tuple[Any, ...]) -> Run:
    records = [logging.LogRecord("shop", logging.INFO, "", 1, msg, tuple(args), None) for msg, *args in said]
    return cast(Run, SimpleNamespace(logged=deque(records, maxlen=LINES)))


def test_the_newest_lines_are_kept_up_to_so_many_bytes() -> None:
    kept = told(ran(*(("line %d %s", n, "ä" * 60) for n in range(200)))) or ""
    assert len(kept.encode()) <= MOST
    assert f"line 199 {'ä' * 60}" in kept.split("\n")[-1]
    assert len(told(ran(*(("x",) for _ in range(60)))) or "") < MOST
    assert told(ran(("x" * 100_000,))) is not None
    assert told(ran()) is None


def test_a_line_that_cannot_be_made_is_told_as_such() -> None:
    assert (told(ran(("%d", "x"))) or "").endswith("a line whose text fails with TypeError")


def test_an_event_has_its_values_by_name() -> None:
    line = told(ran(({"event": "paid", "level": "info", "password": "hunter2", "sum": 3},))) or ""
    assert line.endswith("INFO shop: paid password='[redacted]' sum=3")
