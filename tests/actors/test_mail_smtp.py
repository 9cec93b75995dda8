"""Conversations with SMTP servers, real ones on loopback, regular and hostile."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from uuid import uuid4

import pytest
import trustme
from far_smtp import DRIP, DROP, HANG, Mailroom, mailroom, raw_server

from actors.mail.address import Address, parse
from actors.mail.message import Draft, Mailbox, build
from actors.mail.replies import (
    HeldBack,
    Outcome,
    Permanent,
    Phase,
    Reply,
    Sent,
    Temporary,
    Throttled,
    TransportTrouble,
    Uncertain,
    asked_wait,
    judge,
)
from actors.mail.server import Security, Server, ServerRefused
from actors.mail.server import parse as parse_server
from actors.mail.smtp import Patience, Transport
from tests.awaiting import await_that

SHOP = parse("shop@example.com")
ADA = parse("ada@example.org")
SHORT = Patience(
    connect=timedelta(milliseconds=500),
    command=timedelta(milliseconds=500),
    block=timedelta(milliseconds=500),
    dot=timedelta(milliseconds=700),
    quit=timedelta(milliseconds=200),
)


def yes() -> bool:
    return True


def mail(text: str = "Hi", *, to: Address = ADA) -> bytes:
    draft = Draft(Mailbox(SHOP), Mailbox(to), subject="Hello", text=text)
    return build(draft, mail_id=uuid4(), date=datetime.now(UTC))


def plain(port: int) -> Server:
    return Server(Security.PLAIN, "127.0.0.1", port)


@contextmanager
def transport(server: Server, **options: object) -> Iterator[Transport]:
    opened = Transport(server, helo="example.com", **{"patience": SHORT, **options})  # type: ignore[arg-type]
    try:
        yield opened
    finally:
        opened.close()


def send(
    server: Server,
    message: bytes | None = None,
    *,
    to: Address = ADA,
    before_dot: Callable[[], bool] = yes,
    **options: object,
) -> Outcome:
    with transport(server, **options) as opened:
        return opened.send(message or mail(to=to), sender=SHOP, recipient=to, before_dot=before_dot)


class TestDelivery:
    def test_the_stored_bytes_arrive_and_the_reply_is_the_evidence(self) -> None:
        message = mail("Zeile\n.\n..dots\nGrüße\n" + "x" * 200_000)
        with mailroom() as (room, port):
            outcome = send(plain(port), message)
        assert outcome == Sent(Reply(Phase.DOT, 250, "2.0.0 OK: queued as ABC123"))
        assert room.envelopes[0].content == message
        assert (room.envelopes[0].mail_from, room.envelopes[0].rcpt_tos) == ("shop@example.com", ["ada@example.org"])

    def test_the_size_is_announced(self) -> None:
        message = mail()
        with mailroom() as (room, port):
            send(plain(port), message)
        assert f"SIZE={len(message)}" in room.envelopes[0].mail_options

    def test_a_mail_beyond_the_servers_size_is_refused_before_it_is_sent(self) -> None:
        with mailroom(data_size_limit=1000) as (room, port):
            outcome = send(plain(port), mail("x" * 2000))
        assert isinstance(outcome, Permanent)
        assert room.envelopes == []

    def test_an_international_address_is_spoken_in_utf_8(self) -> None:
        to = parse("жук@example.org")
        with mailroom(enable_SMTPUTF8=True) as (room, port):
            outcome = send(plain(port), to=to)
        assert isinstance(outcome, Sent), outcome
        assert room.envelopes[0].rcpt_tos == ["жук@example.org"]

    def test_a_server_without_smtputf8_is_a_permanent_and_explained_failure(self) -> None:
        with mailroom(enable_SMTPUTF8=False) as (_, port):
            outcome = send(plain(port), to=parse("жук@example.org"))
        assert isinstance(outcome, Permanent)
        assert "SMTPUTF8" in outcome.reply.text

    def test_an_international_mail_after_a_plain_one_and_back_on_one_connection(self) -> None:
        to = parse("жук@example.org")
        with mailroom(enable_SMTPUTF8=True) as (room, port), transport(plain(port)) as opened:
            for recipient in (ADA, to, ADA):
                assert isinstance(
                    opened.send(mail(to=recipient), sender=SHOP, recipient=recipient, before_dot=yes), Sent
                )
        assert [e.rcpt_tos[0] for e in room.envelopes] == [str(ADA), str(to), str(ADA)]
        assert room.connections == 1


class TestReplies:
    @pytest.mark.parametrize(
        ("phase", "reply", "expected"),
        [
            ("EHLO", "421 closing", TransportTrouble),
            ("EHLO", "550 who are you", TransportTrouble),
            ("MAIL", "421 closing", TransportTrouble),
            ("MAIL", "450 later", TransportTrouble),
            ("MAIL", "451 later", TransportTrouble),
            ("MAIL", "530 authenticate first", TransportTrouble),
            ("MAIL", "550 5.7.1 sender refused", TransportTrouble),
            ("MAIL", "552 too big", Permanent),
            ("MAIL", "554 5.3.4 too big", Permanent),
            ("RCPT", "421 closing", Temporary),
            ("RCPT", "450 4.2.0 greylisted", Temporary),
            ("RCPT", "451 4.7.1 later", Temporary),
            ("RCPT", "452 mailbox full", Temporary),
            ("RCPT", "550 5.1.1 no such user", Permanent),
            ("RCPT", "551 moved", Permanent),
            ("RCPT", "553 bad mailbox", Permanent),
            ("RCPT", "550 frequency limited", Throttled),
            ("RCPT", "454 Throttling failure: Maximum sending rate exceeded", Throttled),
            ("DATA", "421 closing", Temporary),
            ("DATA", "451 later", Temporary),
            ("DATA", "554 no valid recipients", Permanent),
            ("DATA", "250 what", Temporary),
            ("DOT", "250 ok", Sent),
            ("DOT", "251 ok", Sent),
            ("DOT", "421 closing", Temporary),
            ("DOT", "451 4.3.0 disk full", Temporary),
            ("DOT", "452 later", Temporary),
            ("DOT", "550 5.7.1 spam", Permanent),
            ("DOT", "552 too big", Permanent),
            ("DOT", "554 5.6.0 refused", Permanent),
            ("DOT", "454 Throttling failure", Throttled),
            ("DOT", "554 5.7.1 too many messages", Throttled),
            ("DOT", "354 pardon", Uncertain),
            ("DOT", "gibberish", Uncertain),
            ("RCPT", "gibberish", Temporary),
        ],
    )
    def test_the_phase_and_the_code_decide(self, phase: str, reply: str, expected: type[Outcome]) -> None:
        replies = {phase: reply} | ({"HELO": reply} if phase == "EHLO" else {})
        with raw_server(**replies) as server:
            outcome = send(plain(server.port))
        assert type(outcome) is expected
        assert outcome.reply.phase == Phase(phase.lower())
        if reply[:3].isdigit():
            assert outcome.reply.code == int(reply[:3])
            assert outcome.reply.text == reply[4:]

    @pytest.mark.parametrize(
        ("phase", "expected", "at"),
        [
            ("greeting", TransportTrouble, Phase.GREETING),
            ("EHLO", TransportTrouble, Phase.EHLO),
            ("MAIL", TransportTrouble, Phase.MAIL),
            ("RCPT", Temporary, Phase.RCPT),
            ("DATA", Temporary, Phase.DATA),
            ("DOT", Uncertain, Phase.DOT),
        ],
    )
    @pytest.mark.parametrize("end", [DROP, HANG, DRIP])
    def test_a_lost_or_silent_server_is_judged_by_its_phase(
        self, phase: str, expected: type[Outcome], at: Phase, end: str
    ) -> None:
        with raw_server(**{phase: end}) as server:
            started = time.monotonic()
            outcome = send(plain(server.port))
            took = time.monotonic() - started
        assert type(outcome) is expected
        assert (outcome.reply.phase, outcome.reply.code) == (at, None)
        assert took < 10

    def test_a_connection_lost_in_the_middle_of_the_body_accepted_nothing(self) -> None:
        with raw_server(BODY=DROP) as server:
            outcome = send(plain(server.port), mail("x" * 900_000 * 20))  # more than the two sockets can hold
        assert type(outcome) is Temporary
        assert outcome.reply.phase is Phase.BODY
        assert server.bodies == []

    def test_a_server_that_reads_no_body_accepted_nothing(self) -> None:
        with raw_server(BODY=HANG) as server:
            outcome = send(plain(server.port), mail("x" * 900_000 * 20))
        assert type(outcome) is Temporary
        assert outcome.reply.phase is Phase.BODY
        assert server.bodies == []

    def test_a_reply_without_an_end_is_none(self) -> None:
        with raw_server(RCPT="250-" + "x" * 1000 + "\r\n250-more" * 20_000) as server:
            outcome = send(plain(server.port))
        assert type(outcome) is Temporary
        assert "longer" in outcome.reply.text

    def test_after_the_dot_the_server_has_the_whole_mail_though_no_reply_came(self) -> None:
        message = mail()
        with raw_server(DOT=DROP) as server:
            assert type(send(plain(server.port), message)) is Uncertain
        assert server.bodies == [message]

    def test_the_final_dot_has_a_patience_of_its_own(self) -> None:
        with raw_server(DOT=HANG) as server:
            started = time.monotonic()
            outcome = send(plain(server.port))
            took = time.monotonic() - started
        assert type(outcome) is Uncertain
        assert 0.7 <= took < 10

    @pytest.mark.parametrize("greeting", ["554 go away", "421 later", "gibberish"])
    def test_a_greeting_that_refuses_is_the_transports_trouble(self, greeting: str) -> None:
        with raw_server(greeting=greeting) as server:
            outcome = send(plain(server.port))
        assert type(outcome) is TransportTrouble
        assert outcome.reply.phase is Phase.GREETING

    @pytest.mark.parametrize("reply", ["555 5.5.4 unsupported", "550 5.6.7 not with me"])
    def test_an_international_mail_that_the_server_does_not_understand_is_refused_alone(self, reply: str) -> None:
        with raw_server(EHLO="250-here\r\n250-8BITMIME\r\n250 SMTPUTF8", MAIL=reply) as server:
            assert type(send(plain(server.port), to=parse("жук@example.org"))) is Permanent
            assert type(send(plain(server.port))) is TransportTrouble

    def test_no_server_is_the_transports_trouble(self) -> None:
        with raw_server() as server:
            pass
        outcome = send(plain(server.port))
        assert type(outcome) is TransportTrouble
        assert outcome.reply.phase is Phase.CONNECT
        assert type(send(Server(Security.PLAIN, "no-such-host.invalid", 25))) is TransportTrouble

    def test_a_reply_is_cleaned_and_cut_before_it_is_kept(self) -> None:
        with raw_server(RCPT="550 a\x00b" + "y" * 5000) as server:
            outcome = send(plain(server.port))
        assert "\x00" not in outcome.reply.text
        assert len(outcome.reply.text.encode()) <= 1000

    @pytest.mark.parametrize(
        ("text", "wait"),
        [
            ("4.7.1 Greylisted, try again in 300 seconds", timedelta(seconds=310)),
            ("please retry after 5 minutes", timedelta(minutes=5, seconds=10)),
            ("try again in 99999 minutes", timedelta(hours=1)),
            ("try again later", None),
            ("user 300 unknown", None),
        ],
    )
    def test_a_wait_that_the_server_names_is_understood(self, text: str, wait: timedelta | None) -> None:
        assert asked_wait(text) == wait
        assert judge(Reply(Phase.MAIL, 451, text)) == TransportTrouble(Reply(Phase.MAIL, 451, text), wait)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def certified(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


class TestSecurity:
    def test_implicit_tls(self, authority: trustme.CA, trusting: ssl.SSLContext) -> None:
        with mailroom(implicit_tls=certified(authority, "127.0.0.1")) as (room, port):
            outcome = send(Server(Security.TLS, "127.0.0.1", port), tls=trusting)
        assert isinstance(outcome, Sent), outcome
        assert len(room.envelopes) == 1

    def test_starttls(self, authority: trustme.CA, trusting: ssl.SSLContext) -> None:
        with mailroom(tls_context=certified(authority, "127.0.0.1"), require_starttls=True) as (room, port):
            outcome = send(Server(Security.STARTTLS, "127.0.0.1", port), tls=trusting)
        assert isinstance(outcome, Sent), outcome
        assert room.secured == [True]

    def test_a_server_that_no_longer_offers_starttls_gets_no_mail(self, trusting: ssl.SSLContext) -> None:
        with mailroom() as (room, port):
            outcome = send(Server(Security.STARTTLS, "127.0.0.1", port), tls=trusting)
        assert type(outcome) is TransportTrouble
        assert outcome.reply.phase is Phase.TLS
        assert room.envelopes == []

    @pytest.mark.parametrize("security", [Security.TLS, Security.STARTTLS])
    def test_another_hosts_certificate_is_refused(
        self, authority: trustme.CA, trusting: ssl.SSLContext, security: Security
    ) -> None:
        context = certified(authority, "other.example.com")
        options = {"implicit_tls": context} if security is Security.TLS else {"tls_context": context}
        with mailroom(**options) as (room, port):
            outcome = send(Server(security, "127.0.0.1", port), tls=trusting)
        assert type(outcome) is TransportTrouble
        assert outcome.reply.phase is Phase.TLS
        assert "certificate" in outcome.reply.text
        assert room.envelopes == []

    @pytest.mark.parametrize("security", [Security.TLS, Security.STARTTLS])
    def test_an_unknown_authority_is_refused_by_default(self, authority: trustme.CA, security: Security) -> None:
        context = certified(authority, "127.0.0.1")
        options = {"implicit_tls": context} if security is Security.TLS else {"tls_context": context}
        with mailroom(**options) as (room, port):
            outcome = send(Server(security, "127.0.0.1", port))
        assert type(outcome) is TransportTrouble
        assert room.envelopes == []

    @pytest.mark.parametrize(("password", "expected"), [("s3cret:/@", Sent), ("wrong", TransportTrouble)])
    def test_login(
        self, authority: trustme.CA, trusting: ssl.SSLContext, password: str, expected: type[Outcome]
    ) -> None:
        room = Mailroom()
        with mailroom(
            room=room,
            tls_context=certified(authority, "127.0.0.1"),
            authenticator=room.authenticate,
            auth_required=True,
        ) as (_, port):
            outcome = send(Server(Security.STARTTLS, "127.0.0.1", port, "ada", password), tls=trusting)
        assert type(outcome) is expected
        assert room.logins[0] == (b"ada", password.encode())
        if expected is TransportTrouble:
            assert outcome.reply.phase is Phase.AUTH
            assert outcome.reply.code == 535

    @pytest.mark.parametrize("auth", ["454 4.7.0 later", "534 5.7.9 too weak", "535 5.7.8 no", DROP, HANG, DRIP])
    def test_a_failed_login_is_the_transports_trouble(self, auth: str) -> None:
        with raw_server(AUTH=auth) as server:
            outcome = send(Server(Security.PLAIN, "127.0.0.1", server.port, "ada", "x"))
        assert type(outcome) is TransportTrouble
        assert outcome.reply.phase is Phase.AUTH
        assert outcome.reply.code == (int(auth[:3]) if auth[:3].isdigit() else None)
        assert server.said("MAIL") == 0

    @pytest.mark.parametrize("ehlo", ["421 closing", "550 who are you", DROP, HANG, DRIP])
    def test_the_greeting_after_starttls_is_judged_as_the_first_one(
        self, authority: trustme.CA, trusting: ssl.SSLContext, ehlo: str
    ) -> None:
        with raw_server(tls=certified(authority, "127.0.0.1"), EHLO2=ehlo, HELO=ehlo) as server:
            outcome = send(Server(Security.STARTTLS, "127.0.0.1", server.port), tls=trusting)
        assert type(outcome) is TransportTrouble
        assert outcome.reply.phase is Phase.EHLO
        assert server.said("STARTTLS") == 1

    @pytest.mark.parametrize("starttls", ["454 4.7.0 not now", "501 what", DROP, HANG, DRIP])
    def test_starttls_that_is_refused_or_lost_sends_nothing_in_the_clear(
        self, trusting: ssl.SSLContext, starttls: str
    ) -> None:
        with raw_server(STARTTLS=starttls) as server:
            outcome = send(Server(Security.STARTTLS, "127.0.0.1", server.port), tls=trusting)
        assert type(outcome) is TransportTrouble
        assert outcome.reply.phase is Phase.TLS
        assert (server.said("AUTH"), server.said("MAIL")) == (0, 0)

    @pytest.mark.parametrize("tls", [DROP, HANG, "\x16\x03\x01"])
    @pytest.mark.parametrize("security", [Security.TLS, Security.STARTTLS])
    def test_a_handshake_that_hangs_or_breaks_is_the_transports_trouble(
        self, trusting: ssl.SSLContext, security: Security, tls: str
    ) -> None:
        with raw_server(**({"greeting": tls} if security is Security.TLS else {"TLS": tls})) as server:
            outcome = send(Server(security, "127.0.0.1", server.port), tls=trusting)
        assert type(outcome) is TransportTrouble
        assert outcome.reply.phase in (Phase.CONNECT, Phase.TLS)
        assert server.said("MAIL") == 0

    def test_what_was_said_before_tls_is_forgotten(self, authority: trustme.CA, trusting: ssl.SSLContext) -> None:
        smuggled = "220 go on\r\n250-here\r\n250 SIZE 1"
        with raw_server(tls=certified(authority, "127.0.0.1"), STARTTLS=smuggled) as server:
            outcome = send(Server(Security.STARTTLS, "127.0.0.1", server.port), tls=trusting)
        assert isinstance(outcome, Sent), outcome
        assert len(server.bodies) == 1

    def test_a_server_that_does_not_know_auth_is_the_transports_trouble(self) -> None:
        with raw_server(EHLO="250 here") as server:
            outcome = send(Server(Security.PLAIN, "127.0.0.1", server.port, "ada", "x"))
        assert type(outcome) is TransportTrouble
        assert outcome.reply.phase is Phase.AUTH


class TestReuse:
    def test_a_thread_keeps_its_connection_and_resets_it_between_mails(self) -> None:
        with raw_server() as server, transport(plain(server.port)) as opened:
            for _ in range(3):
                assert isinstance(opened.send(mail(), sender=SHOP, recipient=ADA, before_dot=yes), Sent)
        assert server.connections == 1
        assert server.commands.count("RSET") == 2

    def test_a_connection_that_the_server_closed_meanwhile_is_replaced(self) -> None:
        with raw_server(RSET=DROP) as server, transport(plain(server.port)) as opened:
            outcomes = [opened.send(mail(), sender=SHOP, recipient=ADA, before_dot=yes) for _ in range(2)]
        assert [type(o) for o in outcomes] == [Sent, Sent]
        assert (server.connections, len(server.bodies)) == (2, 2)

    def test_a_kept_connection_lost_before_the_envelope_is_replaced_at_once(self) -> None:
        with raw_server() as server, transport(plain(server.port)) as opened:
            opened.send(mail(), sender=SHOP, recipient=ADA, before_dot=yes)
            server.replies["MAIL"] = DROP
            outcome = opened.send(mail(), sender=SHOP, recipient=ADA, before_dot=yes)
        assert type(outcome) is TransportTrouble
        assert server.connections == 2

    @pytest.mark.parametrize("reply", ["421 too many mails", "451 later", "550 no", DROP])
    def test_a_kept_connection_that_takes_no_more_mails_is_replaced_before_that_is_trouble(self, reply: str) -> None:
        with raw_server() as server, transport(plain(server.port)) as opened:
            opened.send(mail(), sender=SHOP, recipient=ADA, before_dot=yes)
            server.replies["MAIL"] = reply
            assert type(opened.send(mail(), sender=SHOP, recipient=ADA, before_dot=yes)) is TransportTrouble
            assert server.connections == 2
            del server.replies["MAIL"]
            assert isinstance(opened.send(mail(), sender=SHOP, recipient=ADA, before_dot=yes), Sent)
        assert server.connections == 3

    def test_a_connection_takes_a_hundred_mails_at_most(self) -> None:
        with raw_server() as server, transport(plain(server.port)) as opened:
            message = mail()
            for _ in range(101):
                assert isinstance(opened.send(message, sender=SHOP, recipient=ADA, before_dot=yes), Sent)
        assert server.connections == 2

    @pytest.mark.parametrize("doubt", ["450 later", "550 no", "gibberish", DROP])
    def test_a_connection_in_doubt_is_not_used_again(self, doubt: str) -> None:
        with raw_server(RCPT=doubt) as server, transport(plain(server.port)) as opened:
            opened.send(mail(), sender=SHOP, recipient=ADA, before_dot=yes)
            del server.replies["RCPT"]
            assert isinstance(opened.send(mail(), sender=SHOP, recipient=ADA, before_dot=yes), Sent)
        assert server.connections == 2

    def test_an_idle_connection_is_not_used_again(self) -> None:
        patience = Patience(idle=timedelta(0))
        with raw_server() as server, transport(plain(server.port), patience=patience) as opened:
            for _ in range(2):
                opened.send(mail(), sender=SHOP, recipient=ADA, before_dot=yes)
        assert server.connections == 2

    def test_threads_do_not_share_a_connection(self) -> None:
        with mailroom() as (room, port), transport(plain(port), patience=Patience()) as opened:
            outcomes: list[Outcome] = []

            def work() -> None:
                for _ in range(5):
                    outcomes.append(opened.send(mail(), sender=SHOP, recipient=ADA, before_dot=yes))
                opened.close()

            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert {type(o) for o in outcomes} == {Sent}
        assert (room.connections, len(room.envelopes)) == (4, 20)


class TestBeforeTheDot:
    @pytest.mark.parametrize("octets", [10, 65_536 * 3])
    def test_a_mail_that_is_held_back_was_never_whole(self, octets: int) -> None:
        with raw_server() as server:
            outcome = send(plain(server.port), mail("x" * octets), before_dot=lambda: False)
            assert type(outcome) is HeldBack
            await_that(lambda: server.ended)
        assert server.bodies == []
        assert not server.received[0].endswith(b".\r\n")

    def test_an_error_hangs_up_and_the_connection_is_not_used_again(self) -> None:
        def broken() -> bool:
            raise RuntimeError("no database")

        with raw_server() as server, transport(plain(server.port)) as opened:
            with pytest.raises(RuntimeError):
                opened.send(mail(), sender=SHOP, recipient=ADA, before_dot=broken)
            assert isinstance(opened.send(mail(), sender=SHOP, recipient=ADA, before_dot=yes), Sent)
        assert (server.connections, len(server.bodies)) == (2, 1)
        assert "QUIT" not in bytes(server.received[0]).decode()

    @pytest.mark.parametrize("end", ["MAIL", "RCPT", "DATA"])
    def test_it_is_asked_only_when_all_the_rest_was_taken(self, end: str) -> None:
        asked: list[str] = []
        with raw_server(**{end: "550 no"}) as server:
            send(plain(server.port), before_dot=lambda: asked.append(end) is None)
        assert asked == []

    @pytest.mark.parametrize("length", [65_535, 65_536, 65_537, 131_072])
    def test_the_end_is_whole_in_the_last_block_whatever_the_length(self, length: int) -> None:
        message = mail()
        message += b"x" * (length - len(message) - 2) + b"\r\n"
        with raw_server() as server:
            seen: list[bytes] = []
            outcome = send(
                plain(server.port), message, before_dot=lambda: seen.append(bytes(server.received[0])) is None
            )
        assert isinstance(outcome, Sent)
        assert server.bodies == [message]
        assert not seen[0].endswith(b".")


class TestServerURL:
    @pytest.mark.parametrize(
        ("url", "server"),
        [
            ("smtp://127.0.0.1:1025", Server(Security.PLAIN, "127.0.0.1", 1025)),
            ("smtp://mail.example.com", Server(Security.PLAIN, "mail.example.com", 25)),
            (
                "smtp+starttls://u:p%40%3A@mail.example.com/",
                Server(Security.STARTTLS, "mail.example.com", 587, "u", "p@:"),
            ),
            ("smtps://[::1]", Server(Security.TLS, "::1", 465)),
            ("smtp://u:p@localhost", Server(Security.PLAIN, "localhost", 25, "u", "p")),
        ],
    )
    def test_the_three_modes(self, url: str, server: Server) -> None:
        assert parse_server(url) == server

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "http://a",
            "smtp://",
            "smtp://:25",
            "smtp://a:x",
            "smtp://a:99999",
            "smtp://a/path",
            "smtp://a?x",
            "smtps://ü:hunter2@a",
            "smtp://u:hunter2@mail.example.com",
            "smtps://u:hunter2%0d%0a@a",
        ],
    )
    def test_what_cannot_be_used_is_refused_without_repeating_the_password(self, url: str) -> None:
        with pytest.raises(ServerRefused) as refusal:
            parse_server(url)
        assert "hunter2" not in str(refusal.value)

    def test_the_password_does_not_show_in_the_repr(self) -> None:
        assert "hunter2" not in repr(parse_server("smtps://u:hunter2@a"))


def test_what_a_real_server_received_reads_as_it_was_written() -> None:
    with mailroom() as (room, port):
        send(plain(port), mail("Grüße\n.\nend"))
    content = room.envelopes[0].content
    assert isinstance(content, bytes)
    message = message_from_bytes(content, policy=policy.default)
    assert message.get_content().splitlines() == ["Grüße", ".", "end"]
