"""What people are not shown: values by the names they stand under, and secrets by their form, at any depth."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outbox.redaction import NAMES, REDACTED, Redaction

USUAL = Redaction()
SECRET = "hunter2-zq7marker"


@pytest.mark.parametrize(
    "name",
    [
        *NAMES,
        "smtp_password",
        "SMTP-Password",
        "apiKey",
        "API_KEY",
        "apikey",
        "x-api-key",
        "userTokens",
        "Set-Cookie",
        "secret_2",
        "password1",
        "accesstoken",
        "clientsecret",
        "db_pwd",
    ],
)
def test_values_under_such_names_are_hidden_in_any_spelling(name: str) -> None:
    assert USUAL.value({name: SECRET, "other": 1}) == {name: REDACTED, "other": 1}


@pytest.mark.parametrize("name", ["user_id", "secretary", "tokenizer", "passwordless", "email", "keyboard", "", "1"])
def test_names_that_only_sound_alike_are_shown(name: str) -> None:
    assert USUAL.value({name: SECRET}) == {name: SECRET}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("connect to amqp://ann:hunter2@host/", "connect to amqp://[redacted]@host/"),
        ("redis://:hunter2@host", "redis://[redacted]@host"),
        ("Authorization: Bearer abcdefgh.123", "Authorization: Bearer [redacted]"),
        ("key obk_Abcdefgh12345", "key [redacted]"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw is", "[redacted] is"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc_def", "[redacted]"),
        ("see https://example.org/a@b and ann@example.org", "see https://example.org/a@b and ann@example.org"),
        ("at 10:30 it failed", "at 10:30 it failed"),
        ("redis://:p@hunter2@host", "redis://[redacted]@host"),
        ("http://host:8080/users?mail=ann@example.org", "http://host:8080/users?mail=ann@example.org"),
        ("bearer \t abcdefgh12", "bearer \t [redacted]"),
        ("Authorization: Basic YTpiYTpi", "Authorization: Basic [redacted]"),
        ("connect(password=hunter2, user=ann)", "connect(password=[redacted], user=ann)"),
        ("https://x/?access_token=abc&a=1", "https://x/?access_token=[redacted]&a=1"),
        ("User(name='ann', smtp_password='hunter 2')", "User(name='ann', smtp_password='[redacted]')"),
        ('{"api_key": "k", "a": 1}', '{"api_key": "[redacted]", "a": 1}'),
        ("token: expired", "token: expired"),
        ("a basic understanding of tokens", "a basic understanding of tokens"),
    ],
)
def test_secrets_that_are_known_by_their_form_are_hidden_in_any_text(text: str, shown: str) -> None:
    assert USUAL.text(text) == shown


def test_rules_add_names_and_places_and_take_names_away() -> None:
    rules = Redaction(["salary", "login:1", "-token", " ", ""])
    assert rules.value({"salary": 1, "token": 2, "password": 3}) == {
        "salary": REDACTED,
        "token": 2,
        "password": REDACTED,
    }
    assert rules.args("login", ["ann", SECRET]) == ["ann", REDACTED]
    assert rules.args("other", ["ann", "x"]) == ["ann", "x"]


def test_without_any_name_all_is_shown() -> None:
    assert Redaction([f"-{name}" for name in NAMES]).value({"password": SECRET}) == {"password": SECRET}


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def planted(draw: st.DrawFn) -> Any:
    """JSON with the secret under one of the names, somewhere in it."""
    value: Any = {draw(st.sampled_from(NAMES)): draw(st.just(SECRET) | st.just([SECRET]) | st.just({"a": SECRET}))}
    for _ in range(draw(st.integers(0, 4))):
        around = draw(anything)
        value = [around, value] if draw(st.booleans()) else {"x": value, "y": around}
    return value


@settings(max_examples=150, deadline=None)
@given(planted())
def test_a_planted_secret_is_nowhere_in_what_is_shown(value: Any) -> None:
    assert SECRET in json.dumps(value)
    assert SECRET not in json.dumps(USUAL.value(value))
    assert SECRET not in json.dumps(USUAL.args("actor", [value]))


def test_no_text_takes_long_to_look_through() -> None:
    began = time.process_time()
    for piece in ("eyJ-", "://a:", "bearer ", "password='", "authorization ", "obk_", "a_", ":@"):
        USUAL.text(piece * (200_000 // len(piece)))
    assert time.process_time() - began < 2
