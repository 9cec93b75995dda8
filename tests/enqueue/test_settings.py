"""Settings that make no sense are refused when they are read, by name."""

from __future__ import annotations

from datetime import timedelta

import pytest

from outbox import Settings


@pytest.mark.parametrize("name", ["Shop", "a.b", "a b", 'a"b', "1st", "x" * 41, "", "schön", "a-b", "a;drop table x"])
def test_a_schema_s_name_is_plain_small_and_in_lower_case(name: str) -> None:
    """It stands in the statements as it is, and PostgreSQL reads it in lower case there."""
    with pytest.raises(ValueError, match=r"OUTBOX_SCHEMA|schema_name"):
        Settings(schema_name=name)


def test_a_schema_comes_from_the_environment_or_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings(schema_name="shop").schema_name == "shop"
    monkeypatch.setenv("OUTBOX_SCHEMA", "shop_outbox")
    assert Settings().schema_name == "shop_outbox"


def test_a_misspelt_setting_is_refused_in_the_code_and_other_people_s_variables_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValueError, match="relay_bacth"):
        Settings(relay_bacth=5)  # type: ignore[call-arg]
    monkeypatch.setenv("OUTBOX_SOMETHING_ELSE", "1")
    Settings()


def test_durations_are_seconds_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTBOX_LEASE", "2.5")
    assert Settings().lease == timedelta(seconds=2.5)
    monkeypatch.setenv("OUTBOX_LEASE", "soon")
    with pytest.raises(ValueError, match="lease"):
        Settings()


@pytest.mark.parametrize("seconds", ["0.999", "0", "-10"])
def test_a_lease_under_a_second_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch, seconds: str) -> None:
    """Its beats would follow each other faster than a busy machine can prove them."""
    monkeypatch.setenv("OUTBOX_LEASE", seconds)
    with pytest.raises(ValueError, match=r"lease\n.*greater than or equal to 1 second"):
        Settings()
    monkeypatch.setenv("OUTBOX_LEASE", "1")
    assert Settings().lease == timedelta(seconds=1)
