"""Log lines: whatever is written while a task is in hand says which one, whoever writes it; an event is a line."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator

import pytest
from span_eyes import Spans, trace_of
from workshop import Workshop

from outbox import Permanent, logs
from outbox.logs import get_logger

Configure = Callable[..., None]
user_log = logging.getLogger("shop.orders")
own_log = get_logger("shop.stock")


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Configure]:
    """As an entry point does it, for the length of a test."""
    root, pika = logging.getLogger(), logging.getLogger("pika")
    level, pikas = root.level, pika.level
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(logs, "_configured", False)
    yield logs.configure
    root.setLevel(level)
    pika.setLevel(pikas)


def lines_of(capsys: pytest.CaptureFixture[str], *events: str) -> list[dict[str, str]]:
    """These events of what was written, each a line of its own that is JSON."""
    written = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    return [line for line in written if line["event"].startswith(events)]


def test_each_line_of_a_task_says_which_also_those_of_pythons_own_logging(
    shop: Workshop, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("json")

    @shop.actor(max_retries=0)
    def sell(which: str) -> None:
        user_log.info("selling %s", which)
        own_log.info("selling from stock", which=which)
        raise ValueError("sold\nout")

    @shop.actor()
    async def count() -> None:
        user_log.info("selling nothing, counting")

    user_log.info("selling begins")
    ids = [sell.send("tea").message_id, sell.send("milk").message_id]
    counted = count.send().message_id
    for id in ids:
        shop.await_state(id, "dead")
    shop.await_state(counted, "succeeded")
    lines = lines_of(capsys, "selling", "Failed to process", "task ends dead")
    assert "task_id" not in next(line for line in lines if line["event"] == "selling begins")
    of_task = {id: [line["event"] for line in lines if line.get("task_id") == id] for id in [*ids, counted]}
    for id, which in zip(ids, ("tea", "milk"), strict=True):
        failed = f"Failed to process message sell('{which}') with unhandled exception."
        assert of_task[id] == [f"selling {which}", "selling from stock", failed, "task ends dead"]
    assert of_task[counted] == ["selling nothing, counting"]
    assert len(lines) == 1 + 4 + 4 + 1
    (told, _) = [line for line in lines if line["event"].startswith("Failed")]
    assert "ValueError: sold\nout" in told["exception"]


def test_a_line_for_people_says_it_too(
    shop: Workshop, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("console")

    @shop.actor()
    def sell() -> None:
        user_log.warning("selling")
        raise Permanent("sold out")

    id = sell.send().message_id
    shop.await_state(id, "dead")
    told = [line for line in capsys.readouterr().err.splitlines() if "selling" in line or "task ends dead" in line]
    assert len(told) == 2
    assert all(f"task_id={id}" in line for line in told)


def test_a_task_id_that_the_line_names_itself_stays(
    shop: Workshop, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("json")

    @shop.actor()
    def tell() -> None:
        own_log.info("another", task_id="another's")

    shop.await_state(tell.send().message_id, "succeeded")
    assert [line["task_id"] for line in lines_of(capsys, "another")] == ["another's"]


def test_a_line_of_a_trace_says_which(
    shop: Workshop, spans: Spans, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("json")

    @shop.actor()
    def sell() -> None:
        user_log.info("selling")

    shop.await_state(sell.send().message_id, "succeeded")
    (line,) = lines_of(capsys, "selling")
    assert line["trace_id"] == trace_of(spans.await_one("sell process"))


def test_lines_go_to_anybody_elses_handler_as_text_with_the_task_in_it(
    shop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    @shop.actor()
    def sell() -> None:
        own_log.warning("selling", which="tea")

    id = sell.send().message_id
    shop.await_state(id, "succeeded")
    assert f"selling which='tea' task_id='{id}'" in caplog.messages
