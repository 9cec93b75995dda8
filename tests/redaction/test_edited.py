"""An edit keeps what was shown as redacted and left so, and guesses no value."""

from __future__ import annotations

from typing import Any

import pytest

from outbox.errors import ArgumentError
from outbox.operate import kept
from outbox.redaction import Redaction

OLD = {"password": "hunter2", "url": "amqp://ann:pw@host/", "list": [{"token": "a"}, {"token": "b"}], "n": 1}
R = "[redacted]"
SHOWN = Redaction().value(OLD)


def test_what_was_left_as_it_was_shown_is_what_it_was() -> None:
    shown = {"password": R, "url": f"amqp://{R}@host/", "list": [{"token": R}, {"token": R}], "n": 2}
    assert kept(shown, OLD, SHOWN) == {**OLD, "n": 2}


@pytest.mark.parametrize(
    "edited",
    [
        {"renamed": R},
        {"url": f"amqp://{R}@elsewhere/"},
        {"list": [{"token": R}]},
        {"list": [{"token": R}, {"token": R}, {"token": R}]},
        {"n": f"{R}?"},
        {"n": R},
        [R],
    ],
    ids=[
        "another name",
        "changed beside it",
        "one of two",
        "one more",
        "of a number",
        "of what was shown",
        "of another kind",
    ],
)
def test_where_no_value_is_sure_none_is_guessed(edited: Any) -> None:
    with pytest.raises(ArgumentError, match="give the whole value"):
        kept(edited, OLD, SHOWN)


def test_whatever_is_given_whole_is_taken() -> None:
    assert kept({"password": "new", "list": [], "more": {"a": None}}, OLD, SHOWN) == {
        "password": "new",
        "list": [],
        "more": {"a": None},
    }


def test_what_changed_places_is_not_taken_for_what_stood_there() -> None:
    with pytest.raises(ArgumentError, match="give the whole value"):
        kept(["plain", R], [f"obk_{'x' * 20}", "plain"], [R, "plain"])
