"""Reports of mail servers: what each says, which mail it is about, and what follows from it."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID, uuid4

import pytest
from actor_bench import Bench
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import select

from actors.mail.address import parse
from actors.mail.bounces import Event, ReportRefused, keep, read_report
from actors.mail.return_path import return_path_for
from actors.mail.suppression import suppressed
from actors.secrets import Vault
from actors.tables import Mail, MailEvent, Suppression

SAMPLES = Path(__file__).parent / "samples" / "bounces"
VAULT = Vault("0123456789abcdef0123456789abcdef")
BOUNCES = parse("bounces@example.com")
ID = UUID("0199a5b0-0000-7000-8000-000000000001")

#: What each sample tells: kind, status, and whether the address is to be spared.
SAYS = {
    "postfix_no_such_user": ("bounced", "5.1.1", True),
    "gmail_no_such_user": ("bounced", "5.1.1", True),
    "exchange_no_such_user": ("bounced", "5.1.10", True),
    "exim_status_says_nothing": ("bounced", "5.1.1", True),
    "no_status_at_all": ("bounced", "5.1.2", True),
    "mailbox_disabled": ("bounced", "5.2.1", True),
    "relayed_and_failed": ("bounced", "5.1.1", True),
    "mailbox_full": ("bounced", "5.2.2", False),
    "blocked_as_spam": ("bounced", "5.7.1", False),
    "given_up_after_days": ("bounced", "4.4.1", False),
    "delayed": ("deferred", "4.2.2", False),
    "delivered": ("delivered", "2.0.0", False),
    "unknown_action": ("unknown", "5.1.1", False),
    "qmail": ("unknown", None, False),
    "vacation": ("autoresponded", None, False),
    "complaint": ("complained", None, False),
    "complaint_without_return_path": ("complained", None, False),
    "opt_out": ("unsubscribed", None, False),
    "not_spam": ("unknown", None, False),
}
#: Those that say which mail they are about, and prove nothing.
UNPROVED = {"complaint_without_return_path"}


def sample(name: str, mail_id: UUID = ID, return_path: str | None = None) -> bytes:
    path = return_path or str(return_path_for(mail_id, BOUNCES, VAULT))
    text = (SAMPLES / f"{name}.eml").read_text("utf-8")
    return text.replace("{return_path}", path).replace("{message_id}", f"<{mail_id}@example.com>").encode()


def test_every_sample_has_its_verdict() -> None:
    assert {path.stem for path in SAMPLES.glob("*.eml")} == set(SAYS)


@pytest.mark.parametrize("crlf", [False, True])
@pytest.mark.parametrize("name", SAYS)
def test_a_report_is_read_and_its_mail_is_found(name: str, crlf: bool) -> None:
    raw = sample(name).replace(b"\n", b"\r\n") if crlf else sample(name)
    event = read_report(raw, VAULT)
    assert (event.kind, event.status, event.hard) == SAYS[name]
    assert event.of == (None if name in UNPROVED else ID)


@pytest.mark.parametrize("name", set(SAYS) - {"qmail", "vacation"})
def test_a_report_to_an_address_that_was_made_up_only_names_its_mail(name: str) -> None:
    forged = read_report(sample(name, return_path=f"bounces+{ID.hex}.{'a' * 16}@example.com"), VAULT)
    assert (forged.of, forged.named) == (None, ID)


def test_the_servers_words_are_kept() -> None:
    assert read_report(sample("mailbox_full"), VAULT).detail == "smtp; 552 5.2.2 Over quota"


@pytest.mark.parametrize(
    "raw",
    [
        b'Content-Type: multipart/report; a="' + b';"' * 5000,
        b"Content-Type: multipart/mixed\n" + b"  ; x=y\n" * 1000,
        b"".join(
            b'Content-Type: multipart/mixed; boundary="%d"\n\n--%d\n' % (number, number) for number in range(2000)
        ),
        b'X: y\rContent-Type: multipart/report; a="' + b";" * 100_000,
        b"".join(b'Content-Type: multipart/mixed; boundary="%d"\n\n--%d\n' % (number, number) for number in range(300))
        + b"\n" * 100_000,
    ],
    ids=["quotes", "folded", "nested", "after a bare CR", "nested, and many lines"],
)
def test_a_report_that_is_made_to_be_slow_is_refused(raw: bytes) -> None:
    with pytest.raises(ReportRefused):
        read_report(raw, VAULT)


@given(st.binary(max_size=400), st.sampled_from(sorted(SAYS)), st.integers(0, 2000), st.integers(0, 300))
@example(b"", "complaint", 0, 0)
@example(b"Content-Type: text/plain\n\n", "complaint", 500, 60)
def test_whatever_comes_is_read_or_refused(noise: bytes, name: str, at: int, length: int) -> None:
    raw = sample(name)
    for report in (noise, raw[:at] + noise + raw[at + length :]):
        try:
            event = read_report(report, VAULT)
        except ReportRefused:
            continue
        assert event.of in (None, ID)
        assert "\x00" not in (event.detail or "")


@pytest.fixture
def mail_id(bench: Bench) -> UUID:
    """A mail of the stream `news` that was sent."""
    new = uuid4()
    with bench.session() as session, session.begin():
        session.add(
            Mail(
                id=new, sender="shop@example.com", recipient="ada@example.org", subject="", message_id="", body=b"",
                stream="news", status="uncertain",
            )
        )  # fmt: skip
    return new


def told(bench: Bench, id: str, event: Event) -> tuple[bool, str, list[tuple[str, str]]]:
    """Whether it was acted upon, the mail's status, and what its recipient gets no more, for which reason."""
    with bench.session() as session, session.begin():
        kept = keep(session, id, event)
    with bench.session() as session:
        found = session.execute(select(Suppression.stream, Suppression.reason)).all()
        return kept.acted_upon, session.scalars(select(Mail.status)).one(), [(row.stream, row.reason) for row in found]


@pytest.mark.parametrize(
    ("name", "status", "suppressions"),
    [
        ("postfix_no_such_user", "bounced", [("*", "hard_bounce")]),
        ("mailbox_full", "bounced", []),
        ("blocked_as_spam", "bounced", []),
        ("delayed", "uncertain", []),
        ("delivered", "uncertain", []),
        ("complaint", "uncertain", [("*", "complaint")]),
        ("complaint_without_return_path", "uncertain", []),
        ("opt_out", "uncertain", [("news", "unsubscribe")]),
        ("vacation", "uncertain", []),
    ],
)
def test_what_follows_from_a_report(
    bench: Bench, mail_id: UUID, name: str, status: str, suppressions: list[tuple[str, str]]
) -> None:
    event = read_report(sample(name, mail_id), VAULT)
    assert told(bench, "1", event) == (name not in UNPROVED, status, suppressions)


def test_a_forged_report_is_kept_and_nothing_follows(bench: Bench, mail_id: UUID) -> None:
    event = read_report(sample("postfix_no_such_user", mail_id, "bounces@example.com"), VAULT)
    assert told(bench, "1", event) == (False, "uncertain", [])
    with bench.session() as session:
        kept = session.scalars(select(MailEvent)).one()
        assert (kept.mail_id, kept.kind, kept.status) == (mail_id, "bounced", "5.1.1")


def test_an_event_counts_once(bench: Bench, mail_id: UUID) -> None:
    event = read_report(sample("complaint", mail_id), VAULT)
    assert told(bench, "1", event)[0]
    with bench.session() as session, session.begin():
        session.query(Suppression).delete()
    assert told(bench, "1", event) == (False, "uncertain", [])


def test_an_event_of_a_mail_that_is_gone_is_kept(bench: Bench, mail_id: UUID) -> None:
    event = read_report(sample("complaint", uuid4()), VAULT)
    assert told(bench, "1", event) == (False, "uncertain", [])
    with bench.session() as session:
        assert session.scalars(select(MailEvent.mail_id)).one() is None
        assert not suppressed(session, "ada@example.org", "news")
