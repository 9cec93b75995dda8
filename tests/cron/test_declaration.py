"""What actors may declare, and what is refused where it is declared."""

from __future__ import annotations

from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker
from periodiq import PeriodiqMiddleware, cron

from outbox.cron import Cron, CronError, Schedule, schedule_of
from outbox.errors import ConfigurationError


def declare(broker: StubBroker, fn: Any = lambda: None, **options: Any) -> dramatiq.Actor[Any, Any]:
    return dramatiq.actor(fn, broker=broker, actor_name="nightly", **options)


def test_periodiqs_declaration_keeps_its_text(broker: StubBroker) -> None:
    actor = declare(broker, periodic=cron("30 2 * * mon-fri"), queue_name="reports")
    assert schedule_of(actor) == Schedule(name="nightly", queue="reports", cron="30 2 * * mon-fri")


def test_our_options_stand_beside_it(broker: StubBroker) -> None:
    actor = declare(broker, periodic=cron("@daily"), cron_zone="Europe/Paris", missed="all", missed_limit=7)
    assert schedule_of(actor) == Schedule("nightly", "default", "@daily", "Europe/Paris", "all", 7)


def test_what_periodiq_cannot_read_may_be_given_as_text(broker: StubBroker) -> None:
    schedule = schedule_of(declare(broker, periodic="0 9 1 jan,jul *"))
    assert schedule is not None
    assert schedule.cron == "0 9 1 jan,jul *"


def test_a_spec_that_periodiq_rewrote_is_still_understood(broker: StubBroker) -> None:
    schedule = schedule_of(declare(broker, periodic=cron("0 9 * * mon-fri").replace(m=[0, 30])))
    assert schedule is not None
    assert schedule.cron == "0,30 9 * * Mon,Tue,Wed,Thu,Fri"


def test_an_actor_without_a_calendar_has_no_schedule(broker: StubBroker) -> None:
    assert schedule_of(declare(broker)) is None
    assert schedule_of(dramatiq.actor(lambda: None, broker=broker, actor_name="other", periodic=None)) is None


def test_parameters_with_defaults_are_fine(broker: StubBroker) -> None:
    def fn(day: str = "today", *more: Any, dry: bool = False, **rest: Any) -> None: ...

    assert schedule_of(declare(broker, fn, periodic="@daily"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"periodic": "61 * * * *"}, "nightly: cron '61"),
        ({"periodic": cron("* * * * *"), "cron_zone": "Paris"}, "nightly: cron zone 'Paris' is not an IANA"),
        ({"periodic": "@daily", "cron_zone": 1}, "nightly: cron_zone must be text"),
        ({"periodic": "@daily", "missed": "some"}, "nightly: missed must be 'all', 'last' or 'none', not 'some'"),
        ({"periodic": "@daily", "missed": ["all"]}, "nightly: missed must be"),
        ({"periodic": "@daily", "missed_limit": 0}, "nightly: missed_limit must be a whole number"),
        ({"periodic": "@daily", "missed_limit": 10_001}, "nightly: missed_limit"),
        ({"periodic": "@daily", "missed_limit": True}, "nightly: missed_limit"),
        ({"cron_zone": "UTC", "missed": "all"}, "nightly: cron_zone, missed without periodic"),
    ],
)
def test_a_declaration_that_cannot_be_kept_is_refused_where_it_stands(
    broker: StubBroker, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(CronError, match=reason) as refused:
        declare(broker, **options)
    assert isinstance(refused.value, ConfigurationError)
    assert "nightly" not in broker.actors


def test_a_periodic_actor_that_needs_arguments_is_refused_by_their_names(broker: StubBroker) -> None:
    def fn(day: str, hour: int = 0, *, dry: bool) -> None: ...

    with pytest.raises(CronError, match="a periodic actor gets no arguments: give day, dry a default"):
        declare(broker, fn, periodic="@daily")


def test_periodiqs_middleware_which_drops_late_ticks_is_refused() -> None:
    broker = StubBroker(middleware=[PeriodiqMiddleware(), Cron()])
    with pytest.raises(CronError, match="remove it"):
        declare(broker, periodic=cron("@daily"))
