"""What a mail's stored bytes carry: a signature, the way out of its stream, and where its bounce comes back to."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from uuid import uuid4

import dkim
import pytest
from actor_bench import Bench
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from far_smtp import mailroom
from hypothesis import example, given
from hypothesis import strategies as st

from actors import mail, outside
from actors.mail import unsubscribe
from actors.mail.address import parse
from actors.mail.dkim import Signer
from actors.mail.return_path import mail_of, return_path_for
from actors.mail.suppression import Reason, suppress
from actors.secrets import Vault
from actors.tables import Mail

Configure = Callable[..., None]
KEY = rsa.generate_private_key(public_exponent=65537, key_size=1024)
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
VAULT = Vault("0123456789abcdef0123456789abcdef")
URL = "https://api.example.com/shop"


def in_dns(name: bytes, timeout: int = 5) -> bytes:
    assert name == b"s1._domainkey.example.com."
    public = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)


@pytest.fixture
def signed(configured: Configure, tmp_path: Path) -> Configure:
    """Mails are signed; the public key is in the DNS that the tests ask."""
    (tmp_path / "key.pem").write_bytes(PEM)
    configured(DKIM_KEY_FILE=tmp_path / "key.pem", DKIM_SELECTOR="s1", PUBLIC_URL=f"{URL}/")
    return configured


def prepared(bench: Bench, **options: Any) -> Mail:
    with bench.session() as session, session.begin():
        new = mail.prepare(session, **{"to": "ada@example.org", "subject": "Hello", "text": "Hi", **options})
        mail.enqueue_mail(session, new)
    return new


def read(raw: bytes) -> EmailMessage:
    message = message_from_bytes(raw, policy=policy.SMTPUTF8)
    assert isinstance(message, EmailMessage)
    return message


class TestSignature:
    def test_the_stored_bytes_are_signed_and_so_are_both_headers_of_the_way_out(
        self, bench: Bench, signed: Configure
    ) -> None:
        body = prepared(bench, stream="news", reply_to="desk@example.com", html="<p>Жук</p>").body
        assert dkim.verify(body, dnsfunc=in_dns)
        tags = dict(tag.strip().split("=", 1) for tag in read(body)["DKIM-Signature"].split(";"))
        covered = tags["h"].replace(" ", "").split(":")
        assert {"list-unsubscribe", "list-unsubscribe-post", "to", "subject", "date", "message-id"} < set(covered)
        assert covered.count("from") == 2
        assert (tags["d"], tags["a"], tags["c"]) == ("example.com", "rsa-sha256", "relaxed/relaxed")
        assert "x" not in tags
        assert "l" not in tags

    @pytest.mark.parametrize(
        ("was", "becomes"),
        [
            (b"Subject: Hello", b"Subject: Hallo"),
            (b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n", b""),
            (b"\r\nFrom: ", b"\r\nFrom: eve@example.net\r\nFrom: "),
            (b"\r\nTo: ", b"\r\nReply-To: eve@example.net\r\nTo: "),
            (b"Hi\r\n", b"Ho\r\n"),
        ],
    )
    def test_what_is_changed_on_the_way_no_longer_verifies(
        self, bench: Bench, signed: Configure, was: bytes, becomes: bytes
    ) -> None:
        body = prepared(bench, stream="news").body
        assert body.count(was) == 1
        assert not dkim.verify(body.replace(was, becomes), dnsfunc=in_dns)

    def test_what_arrives_verifies(self, bench: Bench, signed: Configure) -> None:
        with mailroom() as (room, port):
            signed(SMTP_URL=f"smtp://127.0.0.1:{port}")
            new = prepared(bench, text=".\r\n..\nfrom here\n" + "Жук " * 300, headers={"X-Shop": "a  b"})
            bench.perform(new.id)
            outside.transport().close()
        assert dkim.verify(room.envelopes[0].content, dnsfunc=in_dns)

    @given(st.text(max_size=100), st.text(max_size=200))
    @example("a  b\t", " \n  x  \n\n\n")
    def test_any_mail_that_is_built_verifies(self, subject: str, text: str) -> None:
        from actors.mail.message import Draft, Mailbox, build

        draft = Draft(
            Mailbox(parse("shop@example.com"), subject[:20]), Mailbox(parse("ada@example.org")), subject, text
        )
        try:
            raw = build(draft, mail_id=uuid4(), date=datetime.now(UTC))
        except (mail.HeaderRefused, mail.MessageRefused):
            return
        key = KEY.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        assert dkim.verify(Signer("example.com", "s1", key).signed(raw), dnsfunc=in_dns)

    def test_a_key_that_cannot_be_used_is_told_with_its_variable(self, configured: Configure, tmp_path: Path) -> None:
        elliptic = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        locked = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
        path = tmp_path / "key.pem"
        for content in (b"", b"no key", elliptic, locked):
            path.write_bytes(content)
            configured(DKIM_KEY_FILE=path)
            with pytest.raises(ValueError, match="DKIM_KEY_FILE must hold"):
                outside.signer()
        configured(DKIM_KEY_FILE=tmp_path / "nowhere")
        with pytest.raises(ValueError, match="DKIM_KEY_FILE cannot be read: No such file"):
            outside.signer()
        path.write_bytes(PEM)
        configured(DKIM_KEY_FILE=path, DKIM_SELECTOR="a b")
        with pytest.raises(ValueError, match="DKIM_SELECTOR"):
            outside.signer()


class TestWayOut:
    def test_a_mail_of_a_stream_carries_a_link_that_names_nobody(self, bench: Bench, signed: Configure) -> None:
        message = read(prepared(bench, stream="news").body)
        assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
        link = re.fullmatch(rf"<{URL}/v1/unsubscribe/([A-Za-z0-9_-]+)>", message["List-Unsubscribe"])
        assert link is not None
        assert unsubscribe.opened(link[1], outside.vault()) == ("ada@example.org", "news")
        assert b"ada" not in base64.urlsafe_b64decode(link[1] + "==")

    def test_a_transactional_mail_carries_it_only_where_that_is_asked(self, bench: Bench, signed: Configure) -> None:
        assert "List-Unsubscribe" not in read(prepared(bench).body)
        assert "List-Unsubscribe" in read(prepared(bench, leavable=True).body)

    def test_a_callers_own_way_out_is_kept(self, bench: Bench, configured: Configure) -> None:
        message = read(prepared(bench, stream="news", headers={"list-unsubscribe": "<mailto:out@example.com>"}).body)
        assert message.get_all("List-Unsubscribe") == ["<mailto:out@example.com>"]

    def test_a_mail_that_nobody_could_leave_is_refused(self, bench: Bench, configured: Configure) -> None:
        with pytest.raises(mail.MessageRefused, match="PUBLIC_URL"):
            prepared(bench, stream="news")

    @pytest.mark.parametrize("stream", ["", "*", "News", "a b", "1st", "x" * 33, "\u017fale"])
    def test_a_stream_has_a_short_plain_name(self, bench: Bench, signed: Configure, stream: str) -> None:
        with pytest.raises(mail.MessageRefused):
            prepared(bench, stream=stream)

    @given(st.text(max_size=400) | st.binary(max_size=200).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
    def test_no_token_opens_that_was_not_made_here(self, token: str) -> None:
        assert unsubscribe.opened(token, VAULT) is None

    def test_a_token_that_was_changed_or_sealed_for_another_purpose_does_not_open(self) -> None:
        token = unsubscribe.token_for("жук@example.org", "news", VAULT)
        assert unsubscribe.opened(token, VAULT) == ("жук@example.org", "news")
        for at in range(len(token) - 1):
            changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
            assert unsubscribe.opened(changed, VAULT) is None
        other = base64.urlsafe_b64encode(VAULT.seal('["ada@example.org", "news"]', owner="endpoint")).decode()
        assert unsubscribe.opened(other.rstrip("="), VAULT) is None


class TestReturnPath:
    def test_the_return_path_names_its_mail(self, bench: Bench, configured: Configure) -> None:
        assert prepared(bench).envelope_sender is None
        configured(MAIL_RETURN_PATH="bounces@mx.example.com")
        new = prepared(bench)
        assert new.envelope_sender is not None
        assert re.fullmatch(r"bounces\+[0-9a-f]{32}\.[a-z2-7]{16}@mx\.example\.com", new.envelope_sender)
        assert mail_of(new.envelope_sender.upper(), outside.vault()) == new.id
        assert len(parse(new.envelope_sender).local) <= 64

    def test_a_return_path_that_was_made_up_names_no_mail(self) -> None:
        true = str(return_path_for(uuid4(), parse("bounces@example.com"), VAULT))
        local, domain = true.split("@")
        other = uuid4().hex
        for address in (
            f"bounces+{other}{local[-17:]}@{domain}", f"{local[:-1]}@{domain}", f"{local}x@{domain}", local,
            true.replace("+", ""), true.replace(".", "", 1), "bounces@example.com", "", f"bounces+{other}.{'a' * 16}@{domain}",
        ):  # fmt: skip
            assert mail_of(address, VAULT) is None
        assert mail_of(f'"x" <{true}>, <{local[:-1]}@x>', VAULT) is not None
        assert mail_of(true, Vault("another key of at least 32 characters")) is None

    @pytest.mark.parametrize(
        ("variable", "value"),
        [
            ("MAIL_RETURN_PATH", "no address"),
            ("MAIL_RETURN_PATH", "fifteen-letters@example.com"),
            ("MAIL_RETURN_PATH", "bоunces@example.com"),
            ("PUBLIC_URL", "api.example.com"),
            ("PUBLIC_URL", "https://"),
            ("PUBLIC_URL", "https://a.example/?x=1"),
            ("PUBLIC_URL", "https://a.example/ x"),
            ("PUBLIC_URL", "javascript:alert(1)"),
        ],
    )
    def test_a_setting_that_makes_no_sense_is_told_with_its_variable(
        self, configured: Configure, variable: str, value: str
    ) -> None:
        configured(**{variable: value})
        with pytest.raises(ValueError, match=variable):
            outside.public_url() if variable == "PUBLIC_URL" else outside.return_path()


def test_one_click_ends_also_what_is_queued_already(bench: Bench, signed: Configure) -> None:
    with mailroom() as (room, port):
        signed(SMTP_URL=f"smtp://127.0.0.1:{port}")
        of_news, of_deals = prepared(bench, stream="news"), prepared(bench, stream="deals")
        link = str(read(of_news.body)["List-Unsubscribe"])
        meant = unsubscribe.opened(link.strip("<>").removeprefix(URL + unsubscribe.PATH), outside.vault())
        assert meant is not None
        with bench.session() as session, session.begin():
            suppress(session, meant[0], stream=meant[1], reason=Reason.UNSUBSCRIBE)
        for each in (of_news, of_deals):
            bench.perform(each.id)
        outside.transport().close()
    assert [envelope.content for envelope in room.envelopes] == [of_deals.body]
    with bench.session() as session:
        assert session.get_one(Mail, of_news.id).status == "suppressed"


def test_a_bounce_of_a_mail_comes_back_to_its_own_address(bench: Bench, configured: Configure) -> None:
    with mailroom() as (room, port):
        configured(SMTP_URL=f"smtp://127.0.0.1:{port}", MAIL_RETURN_PATH="bounces@example.com")
        new = prepared(bench)
        bench.perform(new.id)
        outside.transport().close()
    assert mail_of(str(room.envelopes[0].mail_from), outside.vault()) == new.id


def test_an_answer_goes_where_the_mail_says(bench: Bench, configured: Configure) -> None:
    assert read(prepared(bench, reply_to="desk@example.com").body)["Reply-To"] == "desk@example.com"
    with pytest.raises(mail.AddressRefused):
        prepared(bench, reply_to="desk@example.com, eve@example.net")
