"""What we send is understood by the servers that the world runs, and arrives as it was stored, octet for octet."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email import message_from_bytes, policy
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import pytest
import trustme

from actors.mail.address import Address, parse
from actors.mail.bounces import read_report
from actors.mail.message import Draft, Mailbox, build
from actors.mail.replies import HeldBack, Outcome, Permanent, Phase, Sent, TransportTrouble
from actors.mail.return_path import return_path_for
from actors.mail.server import Security, Server
from actors.mail.smtp import Transport
from actors.secrets import Vault
from tests.mta.servers import GONE, MOST_OCTETS, Mta, missing, running

pytestmark = [pytest.mark.mta, pytest.mark.timeout(120)]

SHOP = parse("shop@example.com")
ADA = parse("ada@example.org")

Send = Callable[..., Outcome]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module", params=["postfix", "opensmtpd", "exim"])
def mta(request: pytest.FixtureRequest, authority: trustme.CA) -> Iterator[Mta]:
    if why := missing(request.param):
        pytest.skip(why)
    # Not pytest's own: that is closed to the users whom the servers become.
    with TemporaryDirectory(prefix="mta-") as name:
        directory, certificate = Path(name) / "server", Path(name) / "certificate.pem"
        directory.mkdir()
        Path(name).chmod(0o755)
        authority.issue_cert("127.0.0.1", key_type=trustme.KeyType.RSA).private_key_and_cert_chain_pem.write_to_path(
            str(certificate)
        )
        certificate.chmod(0o600)
        with running(request.param, directory, certificate) as mta:
            yield mta


@pytest.fixture
def transport(mta: Mta) -> Iterator[Transport]:
    transport = Transport(Server(Security.PLAIN, "127.0.0.1", mta.port), helo="shop.example.com")
    yield transport
    transport.close()


def mail(text: str, *, to: Address = ADA) -> bytes:
    draft = Draft(Mailbox(SHOP), Mailbox(to), subject="Hello", text=text)
    return build(draft, mail_id=uuid4(), date=datetime.now(UTC))


def send(transport: Transport, message: bytes, *, to: Address = ADA, goes: bool = True) -> Outcome:
    return transport.send(message, sender=SHOP, recipient=to, before_dot=lambda: goes)


def token_of(message: bytes) -> bytes:
    return message.partition(b"Message-ID: ")[2].partition(b"\r\n")[0]


def assert_arrived(mta: Mta, message: bytes) -> None:
    """Behind the headers that the server put before it; its own line ends are those of a file."""
    assert mta.await_mail(token_of(message)).endswith(b"\n" + message.replace(b"\r\n", b"\n"))


def test_a_mail_arrives_as_it_was_stored(mta: Mta, transport: Transport) -> None:
    message = mail("Grüße,\n\nZeile\n")
    outcome = send(transport, message)
    assert isinstance(outcome, Sent), outcome
    assert outcome.reply.code == 250
    assert_arrived(mta, message)


def test_dots_and_empty_lines_arrive_as_they_are(mta: Mta, transport: Transport) -> None:
    text = ".\n..\n.a\n\n\n.\nMAIL FROM:<eve@example.net>\n.\n"
    message = mail(text)
    assert isinstance(send(transport, message), Sent)
    assert_arrived(mta, message)
    read = message_from_bytes(mta.await_mail(token_of(message)), policy=policy.default)
    assert read.get_content() == text


@pytest.mark.parametrize("length", [997, 998])
def test_the_longest_lines_arrive_whole(mta: Mta, transport: Transport, length: int) -> None:
    message = mail("Hi") + b"." + b"x" * (length - 1) + b"\r\n" + b"y" * length + b"\r\n"
    assert isinstance(send(transport, message), Sent)
    assert_arrived(mta, message)


def test_a_text_of_one_long_line_is_read_back_as_it_was_written(mta: Mta, transport: Transport) -> None:
    text = "x" * 5000 + "é" * 5000 + "\n"
    message = mail(text)
    assert isinstance(send(transport, message), Sent)
    read = message_from_bytes(mta.await_mail(token_of(message)), policy=policy.default)
    assert read.get_content().splitlines() == text.splitlines()


def test_a_mail_of_several_blocks_arrives_as_it_was_stored(mta: Mta, transport: Transport) -> None:
    message = mail(".dot at a line's start\n" * 8000)
    assert 2 * 65_536 < len(message) < MOST_OCTETS
    assert isinstance(send(transport, message), Sent)
    assert_arrived(mta, message)


def test_a_mail_beyond_the_servers_size_is_refused_for_good(mta: Mta, transport: Transport) -> None:
    outcome = send(transport, mail("x\n" * MOST_OCTETS))
    assert isinstance(outcome, Permanent), outcome
    assert outcome.reply.phase is Phase.MAIL


def test_an_unknown_recipient_is_refused_for_good_and_the_next_mail_goes_out(mta: Mta, transport: Transport) -> None:
    nobody = parse("nobody.here@example.org")
    outcome = send(transport, mail("Hi", to=nobody), to=nobody)
    assert isinstance(outcome, Permanent), outcome
    assert outcome.reply.phase is Phase.RCPT
    assert isinstance(send(transport, mail("Hi")), Sent)


def test_what_comes_back_names_the_mail_and_says_that_it_failed(mta: Mta, transport: Transport) -> None:
    vault, mail_id, nobody = Vault("0123456789abcdef0123456789abcdef"), uuid4(), parse(f"nobody@{GONE}")
    draft = Draft(Mailbox(SHOP), Mailbox(nobody), subject="Hello", text="Hi")
    message = build(draft, mail_id=mail_id, date=datetime.now(UTC))
    path = return_path_for(mail_id, parse("bounces@example.com"), vault)
    assert isinstance(transport.send(message, sender=path, recipient=nobody, before_dot=lambda: True), Sent)
    event = read_report(mta.await_mail(token_of(message)), vault)
    assert (event.kind, event.of, event.named) == ("bounced", mail_id, mail_id)
    assert event.status is not None
    assert event.status.startswith("5.")


def test_a_mail_that_is_held_back_before_its_end_never_arrives(mta: Mta, transport: Transport) -> None:
    never, later = mail("x\n" * 60_000), mail("later")
    assert isinstance(send(transport, never, goes=False), HeldBack)
    assert isinstance(send(transport, later), Sent)
    mta.await_mail(token_of(later))
    assert not [each for each in mta.delivered() if token_of(never) in each]


def test_several_mails_go_over_one_connection(mta: Mta, transport: Transport) -> None:
    messages = [mail(f"number {n}") for n in range(5)]
    outcomes = [send(transport, message) for message in messages]
    assert {type(outcome) for outcome in outcomes} == {Sent}
    for message in messages:
        assert_arrived(mta, message)


def test_starttls_secures_the_conversation_or_nothing_is_said(mta: Mta, authority: trustme.CA) -> None:
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    transport = Transport(Server(Security.STARTTLS, "127.0.0.1", mta.port), helo="shop.example.com", tls=trusting)
    messages = [mail("secret"), mail("secret too")]
    outcomes = [send(transport, message) for message in messages]
    transport.close()
    if not mta.speaks_tls:
        assert {type(outcome) for outcome in outcomes} == {TransportTrouble}
        return
    assert {type(outcome) for outcome in outcomes} == {Sent}, outcomes
    for message in messages:
        assert_arrived(mta, message)
        assert b"ESMTPS" in mta.await_mail(token_of(message)).partition(b"\nFrom: ")[0].upper()


def test_an_international_address_is_understood_or_refused_with_a_reason(mta: Mta, transport: Transport) -> None:
    to = parse("жук@example.org")
    message = mail("Hi", to=to)
    outcome = send(transport, message, to=to)
    if mta.speaks_utf8:
        assert isinstance(outcome, Sent), outcome
        assert_arrived(mta, message)
    else:
        assert isinstance(outcome, Permanent)
        assert "SMTPUTF8" in outcome.reply.text
