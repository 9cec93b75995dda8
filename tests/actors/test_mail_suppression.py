"""Addresses that get no mail: how they are found, how long, and what a refusal says about them."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

import pytest
from actor_bench import Bench
from sqlalchemy import select, text

from actors.mail.replies import Phase, Reply
from actors.mail.suppression import (
    EVERY,
    Reason,
    key_of,
    lift,
    note_refusal,
    suppress,
    suppressed,
)
from actors.tables import Suppression

ADA = "ada@example.org"


@pytest.mark.parametrize(
    ("kept", "asked"),
    [
        ("Ada@example.org", "aDA@example.org"),
        ("stra\u00dfe@example.org", "STRASSE@example.org"),
        ("e\u0301@x.org", "\u00c9@x.org"),
    ],
)
def test_an_address_is_found_in_whatever_spelling(bench: Bench, kept: str, asked: str) -> None:
    assert key_of(kept) == key_of(asked)
    with bench.session() as session, session.begin():
        suppress(session, kept, reason=Reason.MANUAL)
        assert suppressed(session, asked, "news")


def test_a_suppression_counts_for_its_stream_or_for_all(bench: Bench) -> None:
    with bench.session() as session, session.begin():
        suppress(session, ADA, stream="news", reason=Reason.UNSUBSCRIBE)
        assert suppressed(session, ADA, "news")
        assert not suppressed(session, ADA, "transactional")
        suppress(session, ADA, stream=EVERY, reason=Reason.COMPLAINT)
        assert suppressed(session, ADA, "transactional")
        assert not suppressed(session, "eve@example.org", "news")


def test_an_expired_suppression_counts_no_more(bench: Bench) -> None:
    with bench.session() as session, session.begin():
        suppress(session, ADA, reason=Reason.HARD_BOUNCE, lasting=timedelta(days=-1))
        assert not suppressed(session, ADA, "news")
        suppress(session, ADA, reason=Reason.HARD_BOUNCE, lasting=timedelta(days=1))
        assert suppressed(session, ADA, "news")


def test_said_twice_the_longer_holds(bench: Bench) -> None:
    with bench.session() as session, session.begin():
        for lasting in (timedelta(days=2), timedelta(days=1)):
            suppress(session, ADA, reason=Reason.MANUAL, lasting=lasting)
        left = session.scalar(select(Suppression.expires_at - text("clock_timestamp()")))
        assert left > timedelta(days=1, hours=23)
        suppress(session, ADA, reason=Reason.MANUAL)
        suppress(session, ADA, reason=Reason.MANUAL, lasting=timedelta(days=-1))
        assert session.scalar(select(Suppression.expires_at)) is None


def test_a_reason_that_is_lifted_leaves_the_others(bench: Bench) -> None:
    with bench.session() as session, session.begin():
        suppress(session, ADA, reason=Reason.MANUAL)
        suppress(session, ADA, reason=Reason.COMPLAINT)
        assert lift(session, ADA.upper(), stream=EVERY, reason=Reason.MANUAL)
        assert not lift(session, ADA, stream=EVERY, reason=Reason.MANUAL)
        assert suppressed(session, ADA, "news")


@pytest.mark.parametrize(
    ("phase", "code", "said", "spared"),
    [
        (Phase.RCPT, 550, "5.1.1 no such user", True),
        (Phase.RCPT, 550, "5.1.2 no such domain", True),
        (Phase.RCPT, 553, "5.1.3 what is that", True),
        (Phase.RCPT, 556, "5.1.10 null MX", True),
        (Phase.RCPT, 550, "5.2.1 disabled", True),
        (Phase.RCPT, 550, "5.1.1", True),
        (Phase.RCPT, 550, "5.7.1 5.1.1 you are blocked", False),
        (Phase.RCPT, 550, "5.1.11 unknown", False),
        (Phase.RCPT, 550, "5.2.2 mailbox full", False),
        (Phase.RCPT, 550, "no such user", False),
        (Phase.RCPT, 450, "5.1.1 perhaps later", False),
        (Phase.RCPT, None, "5.1.1", False),
        (Phase.MAIL, 550, "5.1.1 bad sender", False),
        (Phase.DOT, 554, "5.1.1 somebody", False),
    ],
)
def test_only_a_refusal_that_says_nobody_is_there_spares_the_address(
    bench: Bench, phase: Phase, code: int | None, said: str, spared: bool
) -> None:
    with bench.session() as session, session.begin():
        assert note_refusal(session, SimpleNamespace(recipient=ADA), Reply(phase, code, said)) is spared
        assert suppressed(session, ADA, "transactional") is spared
        if spared:
            left = session.scalar(select(Suppression.expires_at - text("clock_timestamp()")))
            assert timedelta(days=29) < left <= timedelta(days=30)
