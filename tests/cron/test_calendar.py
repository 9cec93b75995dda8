"""When a cron expression fires: by hand-made cases, and against a slow calendar that asks every minute."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import islice, pairwise, takewhile
from zoneinfo import ZoneInfo

import pendulum
import periodiq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outbox.calendar import Calendar, calendar_of
from outbox.errors import ConfigurationError

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def fires(spec: str, zone: str, start: str, end: str) -> list[str]:
    """Local times with their offset, of the fires in (start, end]; both UTC."""
    found = takewhile(lambda at: at <= utc(end), Calendar(spec, zone).after(utc(start)))
    return [at.astimezone(ZoneInfo(zone)).strftime("%d %H:%M%z") for at in found]


def first_dates(spec: str, start: str, count: int) -> list[str]:
    return [f"{at:%a %Y-%m-%d %H:%M}" for at in islice(Calendar(spec).after(utc(start)), count)]


# ---------------------------------------------------------------------- what an expression means


@pytest.mark.parametrize(
    "spec",
    ["0 9 * * 0", "0 9 * * 7", "0 9 * * sun", "0 9 * * SUN", "0 9 * * 0,7", "0 9 * * 7-7"],
)
def test_sunday_is_0_and_7_and_sun(spec: str) -> None:
    assert first_dates(spec, "2026-01-01", 2) == ["Sun 2026-01-04 09:00", "Sun 2026-01-11 09:00"]


@pytest.mark.parametrize("spec", ["0 0 * * sat,sun", "0 0 * * 6,0", "0 0 * * 6-7", "0 0 * * sat-sun", "0 0 * * 6-0"])
def test_a_weekend_has_both_its_days(spec: str) -> None:
    assert first_dates(spec, "2026-01-01", 3) == [
        "Sat 2026-01-03 00:00",
        "Sun 2026-01-04 00:00",
        "Sat 2026-01-10 00:00",
    ]


def test_days_up_to_sunday_include_it() -> None:
    assert first_dates("0 0 * * fri-sun", "2026-01-01", 4) == [
        "Fri 2026-01-02 00:00",
        "Sat 2026-01-03 00:00",
        "Sun 2026-01-04 00:00",
        "Fri 2026-01-09 00:00",
    ]


@pytest.mark.parametrize(
    ("alias", "same"),
    [
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 jan *"),
        ("@monthly", "0 0 1 * *"),
        ("@weekly", "0 0 * * sun"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@hourly", "0 * * * *"),
        (" @Weekly ", "0 0 * * 7"),
    ],
)
def test_an_alias_is_short_for_its_expression(alias: str, same: str) -> None:
    assert first_dates(alias, "2026-01-01", 5) == first_dates(same, "2026-01-01", 5)


def test_months_and_days_have_names() -> None:
    assert first_dates("30 6 * jan,JUL mon", "2026-01-25", 3) == [
        "Mon 2026-01-26 06:30",
        "Mon 2026-07-06 06:30",
        "Mon 2026-07-13 06:30",
    ]


def test_of_two_restricted_day_fields_either_may_match() -> None:
    assert first_dates("0 0 13 * fri", "2026-01-30", 4) == [
        "Fri 2026-02-06 00:00",
        "Fri 2026-02-13 00:00",
        "Fri 2026-02-20 00:00",
        "Fri 2026-02-27 00:00",
    ]
    assert first_dates("0 0 15 * fri", "2026-01-02", 3) == [
        "Fri 2026-01-09 00:00",
        "Thu 2026-01-15 00:00",
        "Fri 2026-01-16 00:00",
    ]


def test_leap_days_wait_for_their_year() -> None:
    assert first_dates("0 12 29 2 *", "2026-01-01", 2) == ["Tue 2028-02-29 12:00", "Sun 2032-02-29 12:00"]
    assert first_dates("0 12 29 2 *", "2097-01-01", 1) == ["Fri 2104-02-29 12:00"]


def test_the_31st_skips_short_months() -> None:
    assert first_dates("0 0 31 * *", "2026-01-31", 2) == ["Tue 2026-03-31 00:00", "Sun 2026-05-31 00:00"]


def test_after_means_later_than_the_instant_itself() -> None:
    calendar = Calendar("*/5 * * * *")
    assert next(calendar.after(utc("2026-01-01T10:05"))) == utc("2026-01-01T10:10")
    assert next(calendar.after(utc("2026-01-01T10:04:59.999999"))) == utc("2026-01-01T10:05")
    assert next(calendar.after(utc("2026-01-01T10:05:00.000001"))) == utc("2026-01-01T10:10")


def test_an_instant_may_come_in_any_zone_and_fires_go_out_in_utc() -> None:
    paris = utc("2026-07-01T12:00").astimezone(ZoneInfo("Europe/Paris"))
    fire = next(Calendar("0 9 * * *", "America/New_York").after(paris))
    assert fire == utc("2026-07-01T13:00")
    assert fire.tzinfo is UTC


@pytest.mark.parametrize(
    "spec",
    [
        "", "nonsense", "* * * *", "* * * * * *", "0 0 0 * *", "60 * * * *", "* 24 * * *", "* * 32 * *", "* * * 13 *",
        "* * * * 8", "*/0 * * * *", "5-1 * * * *", "* * * * fri-wed", "0 0 30 2 *", "0 0 31 4,6 *", "@reboot", "@never",
        "1,,2 * * * *", "- * * * *", "* * * foo *", "* * * * x", "-1 * * * *", "1.5 * * * *", "9" * 5000 + " * * * *",
        "\x00 * * * *", "²L * * * *",
    ],
)  # fmt: skip
def test_an_expression_that_means_nothing_is_refused(spec: str) -> None:
    with pytest.raises(ConfigurationError, match="cron "):
        Calendar(spec)


@given(st.text(max_size=40) | st.from_regex(r"[-*/,#0-9LWa-z ]{1,30}", fullmatch=True))
def test_any_text_is_either_a_calendar_or_refused(spec: str) -> None:
    try:
        assert next(Calendar(spec, "Europe/Paris").after(utc("2026-01-01"))) > utc("2026-01-01")
    except ConfigurationError:
        pass


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "Europe", "../../etc/passwd", "/etc/passwd", "\x00", "x" * 5000])
def test_a_zone_that_does_not_exist_is_refused(zone: str) -> None:
    with pytest.raises(ConfigurationError, match="is not an IANA time zone"):
        calendar_of("* * * * *", zone)


# ---------------------------------------------------------------------- clocks move forward


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("30 2 * * *", ["28 02:30+0100", "29 03:00+0200", "30 02:30+0200"]),
        ("0 2 * * *", ["28 02:00+0100", "29 03:00+0200", "30 02:00+0200"]),
        ("0 3 * * *", ["28 03:00+0100", "29 03:00+0200", "30 03:00+0200"]),
        ("59 1 * * *", ["28 01:59+0100", "29 01:59+0100", "30 01:59+0200"]),
        ("30 2 29 3 *", ["29 03:00+0200"]),
        ("30 2 * * sun", ["29 03:00+0200"]),
        ("0,30 2 29 * *", ["29 03:00+0200"]),
        ("0,30 2,3 29 * *", ["29 03:00+0200", "29 03:30+0200"]),
        ("*/20 2 29 * *", ["29 03:00+0200"]),
        ("0 */8,2 29 * *", ["29 00:00+0100", "29 03:00+0200", "29 08:00+0200", "29 16:00+0200"]),
    ],
)  # fmt: skip
def test_a_time_in_the_gap_of_paris_fires_once_right_after_it(spec: str, expected: list[str]) -> None:
    assert fires(spec, "Europe/Paris", "2026-03-27T23:00", "2026-03-30T21:59") == expected


def test_what_fires_every_hour_goes_on_hour_by_hour_through_the_gap() -> None:
    assert fires("30 * * * *", "Europe/Paris", "2026-03-28T23:59", "2026-03-29T02:59") == [
        "29 01:30+0100",
        "29 03:30+0200",
        "29 04:30+0200",
    ]
    assert fires("30 0-23 * * *", "Europe/Paris", "2026-03-28T23:59", "2026-03-29T01:59") == [
        "29 01:30+0100",
        "29 03:30+0200",
    ]


def test_a_gap_of_half_an_hour_loses_nothing() -> None:
    around = ("Australia/Lord_Howe", "2026-10-03T13:30", "2026-10-03T17:00")
    assert fires("15 2 * * *", *around) == ["04 02:30+1100"]
    assert fires("45 2 * * *", *around) == ["04 02:45+1100"]
    assert fires("*/20 3 * * *", *around) == ["04 03:00+1100", "04 03:20+1100", "04 03:40+1100"]
    assert fires("*/30 * * * *", *around)[:5] == [
        "04 00:30+1030",
        "04 01:00+1030",
        "04 01:30+1030",
        "04 02:30+1100",
        "04 03:00+1100",
    ]


def test_a_gap_at_midnight_loses_neither_the_day_nor_its_first_hour() -> None:
    around = ("Africa/Cairo", "2026-04-23T12:00", "2026-04-24T20:00")
    assert fires("0 0 * * *", *around) == ["24 01:00+0300"]
    assert fires("*/30 1 * * fri", *around) == ["24 01:00+0300", "24 01:30+0300"]


def test_a_day_that_a_zone_left_out_fires_at_the_next_ones_beginning() -> None:
    assert fires("0 9 * * *", "Pacific/Apia", "2011-12-29T12:00", "2012-01-01T12:00") == [
        "29 09:00-1000",
        "31 00:00+1400",
        "31 09:00+1400",
        "01 09:00+1400",
    ]


# ---------------------------------------------------------------------- clocks move back


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("30 1 * * *", ["31 01:30-0400", "01 01:30-0400", "02 01:30-0500"]),
        ("0 1 * * *", ["31 01:00-0400", "01 01:00-0400", "02 01:00-0500"]),
        ("0 2 * * *", ["31 02:00-0400", "01 02:00-0500", "02 02:00-0500"]),
        ("30 1 1 11 *", ["01 01:30-0400"]),
        ("0,30 1 * * sun", ["01 01:00-0400", "01 01:30-0400"]),
    ],
)
def test_a_fixed_time_in_the_repeated_hour_of_new_york_fires_once(spec: str, expected: list[str]) -> None:
    assert fires(spec, "America/New_York", "2026-10-31T04:00", "2026-11-03T04:59") == expected


@pytest.mark.parametrize("seen", ["2026-11-01T05:30", "2026-11-01T05:45", "2026-11-01T06:00", "2026-11-01T06:15"])
def test_a_scheduler_that_looks_during_the_repeated_hour_does_not_fire_it_again(seen: str) -> None:
    assert fires("30 1 * * *", "America/New_York", seen, "2026-11-02T12:00") == ["02 01:30-0500"]


def test_a_starred_minute_or_hour_fires_in_both_passes_of_the_repeated_hour() -> None:
    around = ("America/New_York", "2026-11-01T04:59", "2026-11-01T07:00")
    assert fires("*/30 * * * *", *around) == [
        "01 01:00-0400",
        "01 01:30-0400",
        "01 01:00-0500",
        "01 01:30-0500",
        "01 02:00-0500",
    ]
    assert fires("15 * * * *", *around) == ["01 01:15-0400", "01 01:15-0500"]
    assert fires("*/30 1 * * *", *around) == ["01 01:00-0400", "01 01:30-0400", "01 01:00-0500", "01 01:30-0500"]


def test_a_repeated_half_hour_is_told_apart_too() -> None:
    around = ("Australia/Lord_Howe", "2026-04-04T13:00", "2026-04-04T16:00")
    assert fires("45 1 * * *", *around) == ["05 01:45+1100"]
    assert fires("*/15 1 * * *", *around) == [
        "05 01:00+1100",
        "05 01:15+1100",
        "05 01:30+1100",
        "05 01:45+1100",
        "05 01:30+1030",
        "05 01:45+1030",
    ]


def test_utc_has_no_such_days() -> None:
    for day in ("2026-03-29", "2026-10-25"):
        found = fires("30 2 * * *", "UTC", f"{day}T00:00", f"{day}T23:59")
        assert found == [f"{day[-2:]} 02:30+0000"]


# ---------------------------------------------------------------------- beside periodiq's own


def periodiq_fires(spec: str, zone: str, start: str, end: str) -> list[str]:
    """What periodiq's own scheduler sends, if it never sleeps too long: it wakes for a date, then asks whether it is one."""
    own, at = periodiq.cron(spec), pendulum.instance(utc(start)).in_timezone(zone)
    found = []
    while (at := own.next_valid_date(at)) <= utc(end):
        if own.validate(at):
            found.append(at.strftime("%d %H:%M%z"))
    return found


SPRING, AUTUMN = ("2026-03-27T23:00", "2026-03-30T21:59"), ("2026-10-23T22:00", "2026-10-26T22:59")


def test_on_common_days_both_say_the_same_so_these_tests_can_fail() -> None:
    for spec in ("0 9 * * *", "0 8-9 * * mon-fri", "30 2 13 * *", "0 9 * * 7"):
        around = (spec, "Europe/Paris", "2026-01-10T00:00", "2026-01-20T00:00")
        assert periodiq_fires(*around) == fires(*around) != []


@pytest.mark.parametrize("spec", ["0 0 * * 0", "0 0 * * sun", "0 0 * * SUN", "@weekly"])
def test_a_sunday_that_periodiq_never_fires_is_fired(spec: str) -> None:
    january = ("UTC", "2026-01-01T00:00", "2026-01-20T00:00")
    assert periodiq_fires(spec, *january) == []
    assert fires(spec, *january) == ["04 00:00+0000", "11 00:00+0000", "18 00:00+0000"]


def test_a_weekend_of_which_periodiq_fires_the_saturday_has_its_sunday() -> None:
    january = ("0 0 * * sat,sun", "UTC", "2026-01-01T00:00", "2026-01-12T00:00")
    assert periodiq_fires(*january) == ["03 00:00+0000", "10 00:00+0000"]
    assert fires(*january) == ["03 00:00+0000", "04 00:00+0000", "10 00:00+0000", "11 00:00+0000"]


def test_the_first_of_several_minutes_that_periodiq_skips_after_a_look_between_two_of_them_is_fired() -> None:
    morning = ("*/20 8 * * *", "UTC", "2026-01-12T07:05", "2026-01-12T09:00")
    assert periodiq_fires(*morning) == ["12 08:20+0000", "12 08:40+0000"]
    assert fires(*morning) == ["12 08:00+0000", "12 08:20+0000", "12 08:40+0000"]


@pytest.mark.parametrize(
    ("spec", "around", "periodiqs", "ours"),
    [
        (
            "0 9 * * *",  # hours after the change, and yet
            SPRING,
            ["28 09:00+0100", "30 09:00+0200"],
            ["28 09:00+0100", "29 09:00+0200", "30 09:00+0200"],
        ),
        (
            "30 2 * * *",
            SPRING,
            ["28 02:30+0100", "30 02:30+0200"],
            ["28 02:30+0100", "29 03:00+0200", "30 02:30+0200"],
        ),
        (
            "30 2 * * *",
            AUTUMN,
            ["24 02:30+0200", "25 02:30+0200", "25 02:30+0100", "26 02:30+0100"],
            ["24 02:30+0200", "25 02:30+0200", "26 02:30+0100"],
        ),
    ],
)
def test_a_day_that_periodiq_skips_or_fires_twice_when_clocks_change_is_fired_once(
    spec: str, around: tuple[str, str], periodiqs: list[str], ours: list[str]
) -> None:
    assert periodiq_fires(spec, "Europe/Paris", *around) == periodiqs
    assert fires(spec, "Europe/Paris", *around) == ours


# ---------------------------------------------------------------------- against a slow calendar

CHANGES = [
    ("Europe/Paris", "2026-03-29T01:00"),
    ("Europe/Paris", "2026-10-25T01:00"),
    ("America/New_York", "2026-03-08T07:00"),
    ("America/New_York", "2026-11-01T06:00"),
    ("Australia/Lord_Howe", "2026-04-04T15:00"),
    ("Australia/Lord_Howe", "2026-10-03T15:30"),
    ("Africa/Cairo", "2026-04-23T22:00"),
    ("Africa/Cairo", "2026-10-29T21:00"),
    ("America/Havana", "2026-11-01T05:00"),
    ("America/Santiago", "2026-09-06T04:00"),
    ("Pacific/Apia", "2011-12-30T10:00"),
    ("Africa/Casablanca", "2026-02-15T02:00"),
    ("Asia/Kathmandu", "1985-12-31T18:30"),
    ("UTC", "2026-03-29T01:00"),
]


class Spec:
    """An expression together with the sets that it means, so that the slow calendar need not parse it."""

    def __init__(self, minutes: set[int] | None, hours: set[int] | None, days: set[int] | None, week: set[int] | None):
        self.minutes, self.hours, self.days, self.week = minutes, hours, days, week

    def __str__(self) -> str:
        def text(values: set[int] | None) -> str:
            return "*" if values is None else ",".join(map(str, sorted(values)))

        return f"{text(self.minutes)} {text(self.hours)} {text(self.days)} * {text(self.week)}"

    __repr__ = __str__

    def matches(self, local: datetime) -> bool:
        return (
            (self.minutes is None or local.minute in self.minutes)
            and (self.hours is None or local.hour in self.hours)
            and self._on(local.date())
        )

    def _on(self, day: date) -> bool:
        by_date = self.days is None or day.day in self.days
        by_week = self.week is None or bool({day.isoweekday(), day.isoweekday() % 7} & self.week)
        both_restricted = self.days is not None and self.week is not None
        return by_date or by_week if both_restricted else by_date and by_week

    @property
    def every_hour(self) -> bool:
        return self.hours is None or len(self.hours) == 24

    @property
    def follows_real_time(self) -> bool:
        return self.minutes is None or self.every_hour


def slow(spec: Spec, zone: str, start: datetime, end: datetime) -> list[datetime]:
    """The fires in (start, end] by asking each minute, real or on the wall."""
    clocks = ZoneInfo(zone)
    found = set()
    at = (start - 3 * DAY).replace(second=0, microsecond=0)
    before = at.astimezone(clocks)
    while at <= end:
        local = at.astimezone(clocks)
        if spec.matches(local.replace(tzinfo=None)) and (spec.follows_real_time or not local.fold):
            found.add(at)
        skipped, wall = [], before.replace(tzinfo=None) + MINUTE
        while wall < local.replace(tzinfo=None):
            skipped.append(wall)
            wall += MINUTE
        if not spec.every_hour and any(map(spec.matches, skipped)):
            found.add(at)
        before, at = local, at + MINUTE
    return sorted(at for at in found if start < at <= end)


def some(low: int, high: int) -> st.SearchStrategy[set[int] | None]:
    return st.none() | st.sets(st.integers(low, high), min_size=1, max_size=6)


SPECS = st.builds(
    Spec,
    st.none() | st.sets(st.integers(0, 11).map(lambda n: n * 5), min_size=1, max_size=4),
    st.none() | st.sets(st.integers(0, 4), min_size=1, max_size=5) | st.just(set(range(24))),
    some(1, 31),
    some(0, 7),
)


@settings(max_examples=150, deadline=None)
@given(
    spec=SPECS, change=st.sampled_from(CHANGES), offset=st.integers(-36 * 60, 6 * 60), second=st.sampled_from([0, 30])
)
def test_around_every_change_of_clocks_no_fire_is_lost_or_doubled(
    spec: Spec, change: tuple[str, str], offset: int, second: int
) -> None:
    zone, at = change
    start = utc(at) + offset * MINUTE + timedelta(seconds=second)
    end = start + 2 * DAY
    found = list(takewhile(lambda fire: fire <= end, Calendar(str(spec), zone).after(start)))
    assert found == slow(spec, zone, start, end)


@settings(max_examples=60, deadline=None)
@given(spec=SPECS, change=st.sampled_from(CHANGES), looked=st.lists(st.integers(0, 2880), min_size=1, max_size=8))
def test_it_does_not_matter_how_often_a_scheduler_looks(spec: Spec, change: tuple[str, str], looked: list[int]) -> None:
    zone, at = change
    calendar, start = Calendar(str(spec), zone), utc(at) - DAY
    end = start + 2 * DAY
    at_once = list(takewhile(lambda fire: fire <= end, calendar.after(start)))
    looks = [start, *sorted(start + n * MINUTE for n in looked), end]
    pieces = [
        fire
        for seen, now in pairwise(looks)
        for fire in takewhile(lambda fire, now=now: fire <= now, calendar.after(seen))  # type: ignore[misc]
    ]
    assert pieces == at_once
