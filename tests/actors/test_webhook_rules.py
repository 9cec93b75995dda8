"""Custom headers, the outcome table, Retry-After and the schedule."""

import json
import random
import statistics
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.webhooks import headers
from actors.webhooks.delivery import Answered, Unreachable
from actors.webhooks.headers import HeaderRefused
from actors.webhooks.outcomes import TABLE, Delivered, Gone, Outcome, Policy, Refused, Retry, Ruling, judge, retry_after
from actors.webhooks.schedule import DEFAULT, next_wait
from actors.webhooks.wire import Phase

NAMES = json.loads((Path(__file__).parent / "samples" / "webhook_header_names.json").read_text())
NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
DAY = timedelta(hours=24)


@pytest.mark.parametrize("sample", NAMES, ids=lambda sample: ascii(sample["name"])[:40])
def test_every_header_name_gets_its_verdict(sample: dict[str, str]) -> None:
    try:
        headers.check({sample["name"]: "x"})
    except HeaderRefused:
        assert sample["verdict"] == "reject"
    else:
        assert sample["verdict"] == "accept"


@pytest.mark.parametrize("name", ["WEBHOOK-ID", "svix-id", "Proxy-Authorization", "X-Real-IP", "TE", "Sec-Fetch-Site"])
def test_reserved_names_are_refused_in_any_case(name: str) -> None:
    with pytest.raises(HeaderRefused):
        headers.check({name: "x"})


@pytest.mark.parametrize("value", ["", " x", "x ", "a\r\nb", "a\nb", "a\x00b", "ä", "a\tb", "x" * 4097])
def test_values_that_could_split_or_smuggle_are_refused(value: str) -> None:
    with pytest.raises(HeaderRefused) as refusal:
        headers.check({"X-Api-Key": value})
    assert not value.strip() or value not in str(refusal.value)


def test_the_number_and_the_size_of_headers_are_bounded() -> None:
    with pytest.raises(HeaderRefused):
        headers.check({f"X-{n}": "x" for n in range(21)})
    with pytest.raises(HeaderRefused):
        headers.check({f"X-{n}": "x" * 4000 for n in range(3)})
    with pytest.raises(HeaderRefused):
        headers.check({"X-A": "1", "x-a": "2"})


def answered(status: int, retry: str | None = None) -> Answered:
    return Answered(status=status, excerpt="", retry_after=retry, phase=Phase.BODY, duration=timedelta())


def outcome(status: int, retry: str | None = None, *, other_4xx: Policy = "refuse") -> Outcome:
    return judge(answered(status, retry), now=NOW, other_4xx=other_4xx)


def test_the_table_covers_every_status_as_documented() -> None:
    expected: dict[int, type[Outcome]] = dict.fromkeys(range(1000), Refused)
    expected |= dict.fromkeys(range(200, 300), Delivered)
    expected |= dict.fromkeys([408, 425, 429, *range(500, 600)], Retry)
    expected[410] = Gone
    assert {status: type(outcome(status)) for status in range(1000)} == expected


def test_the_owner_decides_about_the_4xx_that_the_table_leaves_open_and_about_no_other() -> None:
    differing = {s for s in range(1000) if type(outcome(s)) is not type(outcome(s, other_4xx="retry"))}
    assert differing == set(range(400, 500)) - {408, 410, 425, 429}
    assert {type(outcome(s, other_4xx="retry")) for s in differing} == {Retry}
    assert outcome(404, "60", other_4xx="retry") == Retry(outcome(404).reason, timedelta(seconds=60))


def test_every_status_has_a_row_of_the_table() -> None:
    assert all(any(status in statuses for statuses, _, _ in TABLE) for status in range(1000))
    assert {ruling for _, ruling, _ in TABLE} == set(Ruling)


@pytest.mark.parametrize("failures", range(len(DEFAULT)))
def test_each_step_is_drawn_around_its_length(failures: int) -> None:
    draw, step = random.Random(7), DEFAULT[failures]
    waits = [next_wait(DEFAULT, failures=failures, retry_after=None, draw=draw) for _ in range(500)]
    parts = [wait / step for wait in waits if wait is not None]
    assert len(parts) == 500
    assert 0.8 <= min(parts) < 0.82
    assert 1.18 < max(parts) <= 1.2
    assert abs(statistics.mean(parts) - 1) < 0.02


@pytest.mark.parametrize(("asked", "least"), [(None, 4), (timedelta(), 4), (timedelta(seconds=90), 90), (DAY, 86_400)])
def test_what_the_endpoint_asks_for_only_lengthens_a_wait(asked: timedelta | None, least: int) -> None:
    wait = next_wait(DEFAULT, failures=0, retry_after=asked, draw=random.Random(7))
    assert wait is not None
    assert timedelta(seconds=least) <= wait <= max(timedelta(seconds=6), asked or timedelta())


def test_after_its_last_step_a_delivery_is_tried_no_more_whatever_the_endpoint_asks_for() -> None:
    assert next_wait(DEFAULT, failures=len(DEFAULT), retry_after=DAY, draw=random.Random(7)) is None
    assert next_wait([timedelta(seconds=1)], failures=1, retry_after=None, draw=random.Random(7)) is None


def test_no_answer_is_a_retry_that_names_the_phase() -> None:
    lost = Unreachable(Phase.TLS, "the certificate was not accepted", timedelta(seconds=1))
    assert judge(lost, now=NOW) == Retry("tls: the certificate was not accepted", None)


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        ("0", timedelta()),
        (" 120 ", timedelta(seconds=120)),
        ("86401", DAY),
        ("9" * 5000, DAY),
        (format_datetime(NOW + timedelta(minutes=5), usegmt=True), timedelta(minutes=5)),
        (format_datetime(NOW - timedelta(minutes=5), usegmt=True), timedelta()),
        (format_datetime(NOW + timedelta(days=400), usegmt=True), DAY),
        ("Sunday, 22-Nov-26 12:00:30 GMT", timedelta(seconds=30)),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_read_in_both_forms_and_bounded(value: str | None, wait: timedelta | None) -> None:
    assert retry_after(value, now=NOW) == wait


def test_retry_after_counts_for_every_retried_status_and_for_no_other() -> None:
    for status in (408, 425, 429, 500, 503):
        assert outcome(status, "60") == Retry(outcome(status).reason, timedelta(seconds=60))
    assert outcome(400, "60") == outcome(400)


@given(st.text(max_size=80))
def test_no_retry_after_text_can_raise_or_leave_the_bounds(value: str) -> None:
    wait = retry_after(value, now=NOW)
    assert wait is None or timedelta() <= wait <= DAY
