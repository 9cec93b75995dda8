"""Sentry, by its own integration for Dramatiq: each failed attempt is reported once, as unhandled, with its task's id."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import sentry_sdk
from awaiting import await_that
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations import logging as sentry_logging
from sentry_sdk.integrations.dedupe import DedupeIntegration
from sentry_sdk.integrations.dramatiq import DramatiqIntegration
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.transport import Transport
from workshop import MakeWorkshop, Workshop

from outbox import Permanent, Snooze, current_run

ADA = "@".join(("ada", "example.org"))  # a report holds the lines around the one that failed


class Kept(Transport):
    """A transport that keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.envelopes: list[Envelope] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.envelopes.append(envelope)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [dict(event) for each in list(self.envelopes) if (event := each.get_event()) is not None]


@pytest.fixture
def sentry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    """Sentry as the page has it, initialised before the broker is made; with no more of its patches than tell here.

    They stay in the process, and do nothing without a client.
    """
    monkeypatch.setattr(sentry_logging, "_IGNORED_LOGGERS", set())
    kept, before = Kept(), sentry_sdk.get_global_scope().client
    sentry_sdk.init(
        dsn="https://key@sentry.example/1", transport=kept, max_request_body_size="never", include_local_variables=False,
        default_integrations=False, auto_enabling_integrations=False,
        integrations=[LoggingIntegration(), DedupeIntegration(), DramatiqIntegration()],
    )  # fmt: skip
    yield kept
    sentry_sdk.get_client().close()
    sentry_sdk.get_global_scope().set_client(before)


@pytest.fixture
def shop(sentry: Kept, make_workshop: MakeWorkshop) -> Workshop:
    workshop = make_workshop()
    workshop.broker.declare_queue("default")
    return workshop


def told(event: dict[str, Any]) -> tuple[str, str]:
    """(task's id, text of the exception) of an event."""
    return event["extra"]["dramatiq_message_id"], event["exception"]["values"][-1]["value"]


def test_each_failed_attempt_is_reported_once_and_as_unhandled_with_its_tasks_id(shop: Workshop, sentry: Kept) -> None:
    @shop.actor(max_retries=2, min_backoff=1, max_backoff=1)
    def fail(_email: str) -> None:
        raise ValueError(f"attempt {current_run().attempt}")

    shop.open(threads=1)
    id = fail.send(ADA).message_id
    shop.await_state(id, "dead")
    await_that(lambda: len(sentry.events) >= 3)
    assert [told(event) for event in sentry.events] == [(id, f"attempt {n}") for n in (1, 2, 3)]
    for event in sentry.events:
        assert event["exception"]["values"][-1]["mechanism"] == {"type": "dramatiq", "handled": False}
        assert ADA not in str(event)


def test_what_one_task_says_of_itself_is_not_said_of_the_next(shop: Workshop, sentry: Kept) -> None:
    threads = set()

    @shop.actor(max_retries=0)
    def fail(name: str) -> None:
        threads.add(threading.get_ident())
        sentry_sdk.add_breadcrumb(message=name)
        sentry_sdk.set_tag(name, "said")
        raise ValueError(name)

    @shop.actor()
    def succeed() -> None:
        sentry_sdk.set_tag("succeeded", "said")

    shop.work(threads=1)
    ids = [fail.send("first").message_id, succeed.send().message_id, fail.send("second").message_id]
    shop.publish()
    shop.await_state(ids[-1], "dead")
    await_that(lambda: len(sentry.events) >= 2)
    assert len(threads) == 1
    assert sorted(map(told, sentry.events)) == [(ids[0], "first"), (ids[2], "second")]
    for event in sentry.events:
        (_, own) = told(event)
        assert set(event["tags"]) & {"first", "second", "succeeded"} == {own}
        assert [crumb["message"] for crumb in event["breadcrumbs"]["values"]].count(own) == 1
        assert not {"first", "second"} - {own} & {crumb["message"] for crumb in event["breadcrumbs"]["values"]}


def test_what_an_actor_foresees_is_not_reported(shop: Workshop, sentry: Kept) -> None:
    @shop.actor()
    def foresee() -> None:
        if current_run().attempt == 1:
            raise Snooze(timedelta(0), "not yet")
        raise Permanent("never")

    @shop.actor(throws=KeyError)
    def throw() -> None:
        raise KeyError("expected")

    shop.open(threads=1)
    for id in [foresee.send().message_id, throw.send().message_id]:
        shop.await_state(id, "dead")
    shop.stop_working()
    assert sentry.events == []


def test_what_an_actor_logs_as_an_error_is_reported_with_its_tasks_id(shop: Workshop, sentry: Kept) -> None:
    @shop.actor()
    def complain() -> None:
        logging.getLogger("shop").error("the stock is negative")

    shop.open(threads=1)
    id = complain.send().message_id
    shop.await_state(id, "succeeded")
    (event,) = await_that(lambda: sentry.events)
    assert event["logentry"]["message"] == "the stock is negative"
    assert event["extra"]["dramatiq_message_id"] == id
