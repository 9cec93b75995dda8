"""The query language: what it takes, what it refuses and where, and that a query is its own line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.errors import ArgumentError
from outbox.query import KEYS, PUBLIC_STATES, Argument, Query, QueryError, last_term, parse

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


def test_every_key_has_its_place() -> None:
    line = (
        'actor:send_mail state:dead queue:mail args.user_id:42 kwargs.x:"y z" error:"timeout" since:2h until:2026-11-25 '
        "id:01A2 failure:AB12cd34ef56 lane:user/7 unique:digest/today key free words"
    )
    assert parse(line) == Query(
        states=("dead",),
        actors=("send_mail",),
        queues=("mail",),
        id="01a2",
        arguments=(Argument("args", ("user_id",), "42"), Argument("kwargs", ("x",), "y z")),
        errors=("timeout",),
        failure="ab12cd34ef56",
        lane="user/7",
        unique="digest/today",
        since=timedelta(hours=2),
        until=datetime(2026, 11, 25, tzinfo=UTC),
        words=("key", "free", "words"),
    )
    assert {term.partition(":")[0].partition(".")[0] for term in str(parse(line)).split() if ":" in term} == set(KEYS)


@pytest.mark.parametrize(
    ("line", "means"),
    [
        ("", Query()),
        ("  \t ", Query()),
        ("state:dead state:retrying state:dead", Query(states=("dead", "retrying"))),
        ("STATE:dead", Query(states=("dead",))),
        ('"state:dead"', Query(words=("state:dead",))),
        (r'"say \"no\" \\"', Query(words=('say "no" \\',))),
        (r"x\temp", Query(words=(r"x\temp",))),
        ("10:30", Query(words=("10:30",))),
        ("args.0:42", Query(arguments=(Argument("args", ("0",), "42"),))),
        ('args.a."b c".d:"', None),
        ('kwargs.a."b. c":""', Query(arguments=(Argument("kwargs", ("a", "b. c"), ""),))),
        ("since:2026-11-25T09:00+01:00", Query(since=datetime(2026, 11, 25, 8, tzinfo=UTC))),
        ("lane:a:b", Query(lane="a:b")),
        ("since:90 since:1m30s", Query(since=timedelta(seconds=90))),
    ],
)
def test_what_a_line_means(line: str, means: Query | None) -> None:
    if means is None:
        with pytest.raises(QueryError):
            parse(line)
    else:
        assert parse(line) == means


@pytest.mark.parametrize(
    ("line", "position", "why"),
    [
        ("state:ded", 0, "scheduled, waiting, pending"),
        ("a state:dead,retrying", 2, "no task has this state"),
        ("actor:", 0, "a value must stand here"),
        ('actor:""', 0, "a value must stand here"),
        ("x colour:red", 2, "there is no such key"),
        ("http://example.org", 0, "quote it"),
        ('error:"open', 6, "not closed"),
        ('error:x"y', 7, "a space must stand here"),
        ('"a"b', 3, "a space must stand here"),
        ("since:soon", 0, "2h, 1d12h, 2026-11-25"),
        ("since:999999d", 0, "hundred years"),
        ("since:2h since:3h", 9, "since is given twice"),
        ("until:0001-01-01", 0, "1970 and 9000"),
        ("until:9999-12-31T23:59-12:00", 0, "1970 and 9000"),
        ("id:xyz", 0, "0-9 and a-f"),
        ("id:" + "0" * 33, 0, "1 to 32"),
        ("failure:ab12", 0, "twelve of the digits"),
        ("args:42", 0, "args.user_id:42"),
        ("state.x:dead", 0, "only args and kwargs"),
        ("a\x00b", 0, "NUL"),
        ("actor:\ud800", 0, "half a character"),
        ("x" * 2001, 2000, "at most 2000 characters"),
        ("x " * 51, 100, "at most 50 terms"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_position_and_what_would_be_right(
    line: str, position: int, why: str
) -> None:
    with pytest.raises(QueryError) as caught:
        parse(line)
    assert (caught.value.position, why in caught.value.why) == (position, True), str(caught.value)
    assert str(caught.value) == f"At character {position + 1} of the query: {caught.value.why}."


@pytest.mark.parametrize(
    "wrong",
    [
        {"states": ("lost",)},
        {"words": ("",)},
        {"since": datetime(2030, 1, 1)},
        {"since": timedelta(-1)},
        {"arguments": (Argument("args", (), "x"),)},
        {"id": "x"},
        {"failure": "ab12"},
        {"lane": "\x00"},
    ],
)
def test_no_query_can_be_made_that_no_line_means(wrong: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        Query(**wrong)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=12)
ODD = TEXT | st.sampled_from(['"', "\\", ":", "a:b", "args.x:1", "state:dead", " ", "\u2028x", "\x1f", "..", "%_", "'"])
MOMENT = st.timedeltas(timedelta(0), timedelta(days=36525)) | st.datetimes(
    datetime(1971, 1, 1), datetime(8998, 1, 1), timezones=st.timezones()
)
QUERIES = st.builds(
    Query,
    states=st.lists(st.sampled_from(PUBLIC_STATES), max_size=3).map(tuple),
    actors=st.lists(ODD, max_size=2).map(tuple),
    queues=st.lists(ODD, max_size=2).map(tuple),
    id=st.none() | st.from_regex(r"\A[0-9a-f]{1,32}\Z"),
    arguments=st.lists(
        st.builds(
            Argument,
            st.sampled_from(["args", "kwargs"]),
            st.lists(ODD, min_size=1, max_size=3).map(tuple),
            ODD | st.just(""),
        ),
        max_size=2,
    ).map(tuple),
    errors=st.lists(ODD, max_size=2).map(tuple),
    failure=st.none() | st.from_regex(r"\A[0-9a-f]{12}\Z"),
    lane=st.none() | ODD,
    unique=st.none() | ODD,
    since=st.none() | MOMENT,
    until=st.none() | MOMENT,
    words=st.lists(ODD, max_size=3).map(tuple),
)


@given(QUERIES)
def test_a_query_is_its_own_line(query: Query) -> None:
    assert parse(str(query)) == query
    assert str(parse(str(query))) == str(query)


@given(QUERIES)
def test_two_queries_together_are_what_their_lines_are_together(query: Query) -> None:
    once = Query(states=query.states, actors=query.actors, words=query.words, errors=query.errors)
    assert query.also(once) == parse(f"{query} {once}")


@given(st.text() | st.lists(ODD | st.sampled_from([f"{key}:" for key in KEYS]), max_size=9).map("".join))
def test_any_text_is_a_query_or_an_error_with_a_position_in_it(text: str) -> None:
    try:
        line = str(parse(text))
    except QueryError as error:
        position = error.position
    else:
        assert str(parse(line)) == line
        position = 0
    assert 0 <= position <= len(text)


def test_a_frozen_query_lets_nothing_in_that_comes_later() -> None:
    assert parse("since:2h").frozen(NOW) == Query(since=NOW - timedelta(hours=2), until=NOW)
    assert parse("until:1h").frozen(NOW).until == NOW - timedelta(hours=1)
    assert parse("until:2030-01-01").frozen(NOW).until == NOW
    assert parse("since:5200w").at(NOW).since == datetime(1970, 1, 1, tzinfo=UTC)
    frozen = Query(states=("dead",)).frozen(NOW)
    assert frozen.frozen(NOW + timedelta(hours=1)) == frozen


@pytest.mark.parametrize(
    ("begun", "parts"),
    [
        ("", ("", "", "")),
        ("sta", ("", "", "sta")),
        ("state:de", ("", "state:", "de")),
        ('error:"a b" actor:', ('error:"a b" ', "actor:", "")),
        ('error:"a b', ("", "error:", '"a b')),
        ("state:dead ", ("state:dead ", "", "")),
    ],
)
def test_the_term_that_is_being_written(begun: str, parts: tuple[str, str, str]) -> None:
    assert last_term(begun) == parts
