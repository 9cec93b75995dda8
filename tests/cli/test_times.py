"""How people write time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from outbox.cli.times import ago, ahead, duration, in_words, instant

NOW = datetime(2030, 5, 17, 12, 30, tzinfo=UTC).astimezone()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("2h", 7200), ("1d12h", 129600), ("1w", 604800), ("250ms", 0.25), ("45", 45), ("1.5h", 5400)],
)  # fmt: skip
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == timedelta(seconds=seconds)
    assert ago(text, NOW) == NOW - timedelta(seconds=seconds)
    assert ahead(text, NOW) == NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "h", "2x", "2 h", "-2h", "1h-", "99999999999999d", "1e3s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a duration|too long"):
        duration(text)


def test_instants() -> None:
    assert instant("2030-01-31T09:00+01:00", NOW) == datetime(2030, 1, 31, 8, tzinfo=UTC)
    assert instant("2030-01-31", NOW) == datetime(2030, 1, 31).astimezone()
    assert instant("yesterday 09:00", NOW) == datetime(2030, 5, 16, 9).astimezone()
    assert instant("Tomorrow", NOW) == datetime(2030, 5, 18).astimezone()


@pytest.mark.parametrize("text", ["soon", "yesterday 25:00", "2030-13-01", "", "9" * 5000])
def test_what_is_no_instant(text: str) -> None:
    with pytest.raises(ValueError, match=r"not an instant|hour must be|too long"):
        ago(text, NOW)


@pytest.mark.parametrize("text", ["200000w", "900000000d"])
def test_what_lies_beyond_the_calendar(text: str) -> None:
    with pytest.raises(ValueError, match="too long"):
        ago(text, NOW)


def test_spans_in_words() -> None:
    spans = (0.0004, 0.35, 4.2, 192, 18_120, 1_051_200)
    assert [in_words(timedelta(seconds=s)) for s in spans] == ["0.4 ms", "350 ms", "4.2 s", "3m 12s", "5h 2m", "12d 4h"]
