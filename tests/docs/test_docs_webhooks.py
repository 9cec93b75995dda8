"""docs/webhooks.md, held against the data that it describes."""

from typing import get_args

from pages import page, rows

from actors.webhooks import health, schedule
from actors.webhooks.outcomes import RETRY_AFTER_CEILING, TABLE
from service.deliveries import Status
from service.endpoints import NewEndpoint


def test_the_table_of_answers_is_that_of_the_code() -> None:
    told = [[_written(statuses), ruling.value, meaning] for statuses, ruling, meaning in TABLE]
    assert rows("webhooks", "status")[: len(told)] == told


def _written(statuses: range) -> str:
    first, last = statuses.start, statuses.stop - 1
    return str(first) if first == last else f"{first}–{last}"


def test_every_status_of_a_delivery_is_explained() -> None:
    assert [row[0].strip("`") for row in rows("webhooks", "status of a delivery")] == list(get_args(Status))


def test_every_setting_of_an_endpoint_is_told_with_its_default() -> None:
    told = {name.strip("` "): row[1].strip("`") for row in rows("webhooks", "member") for name in row[0].split(",")}
    assert set(told) == set(NewEndpoint.model_fields)
    for name in ("concurrency", "fifo", "other_4xx", "signature"):
        assert told[name] == str(NewEndpoint.model_fields[name].default).replace("False", "false")


def test_the_schedule_is_that_of_the_code() -> None:
    steps = [f"{_short(int(step.total_seconds()))}" for step in schedule.DEFAULT]
    told = f"{', '.join(steps[:-1])} and {steps[-1]}"
    assert f"at once, then after {told}" in " ".join(page("webhooks").split())
    assert schedule.JITTER == 0.2
    assert _short(int(RETRY_AFTER_CEILING.total_seconds())) == "24 h"
    assert (health.FAILURES, health.SLOW.total_seconds()) == (10, 2)


def _short(seconds: int) -> str:
    if seconds % 3600 == 0:
        return f"{seconds // 3600} h"
    return f"{seconds // 60} min" if seconds % 60 == 0 else f"{seconds} s"
