"""Addresses, headers and the bytes of a mail."""

import json
import re
from datetime import UTC, datetime
from email import message_from_bytes, message_from_string, policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.utils import parseaddr
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actors.mail import headers
from actors.mail.address import AddressRefused, parse
from actors.mail.headers import HeaderRefused
from actors.mail.message import Attachment, Draft, Mailbox, MessageRefused, build

SAMPLES = Path(__file__).parent / "samples"
ADDRESSES = json.loads((SAMPLES / "mail_addresses.json").read_text())
HEADERS = json.loads((SAMPLES / "mail_headers.json").read_text())
MAIL_ID = UUID("0199a5b0-0000-7000-8000-000000000001")
DATE = datetime(2026, 11, 22, 12, 30, tzinfo=UTC)
SHOP = Mailbox(parse("shop@example.com"), "The Shop")
ADA = Mailbox(parse("ada@example.org"))
ANY_TEXT = st.text(st.characters(), max_size=200)


def drafted(**changes: object) -> Draft:
    return Draft(**{"sender": SHOP, "to": ADA, "subject": "Hello", "text": "Hi", **changes})  # type: ignore[arg-type]


def built(**changes: object) -> bytes:
    return build(drafted(**changes), mail_id=MAIL_ID, date=DATE)


def read(raw: bytes) -> EmailMessage:
    message = message_from_bytes(raw, policy=policy.SMTPUTF8)
    assert isinstance(message, EmailMessage)
    return message


class TestAddresses:
    @pytest.mark.parametrize("sample", ADDRESSES, ids=lambda sample: ascii(sample["input"])[:50])
    def test_every_sample_gets_its_verdict(self, sample: dict[str, str]) -> None:
        try:
            parse(sample["input"])
        except AddressRefused:
            assert sample["verdict"] == "reject", sample["why"]
        else:
            assert sample["verdict"] == "accept", sample["why"]

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "a@x.com,b@y.com",
            "b@x.com> NOTIFY=NEVER",
            "b@x.com> SIZE=1",
            "a\u2028@example.com",
            "a\u00a0b@example.com",
            "a\\b@example.com",
            "a@@example.com",
            "a@b@example.com",
            "a@example..com",
            "a@127.0.0.1",
            "\ud800@example.com",
            "a@\ud800.com",
            "a@exa\u200bmple.com",
            "a" * 60 + "@" + "b" * 60 + "." + "c" * 60 + "." + "d" * 60 + "." + "e" * 60 + ".com",
        ],
    )
    def test_further_ways_to_a_second_recipient_or_parameter_are_refused(self, text: str) -> None:
        with pytest.raises(AddressRefused):
            parse(text)

    def test_an_international_domain_becomes_ascii_and_needs_no_extension(self) -> None:
        address = parse("Ada@MÜNCHEN.de")
        assert str(address) == "Ada@xn--mnchen-3ya.de"
        assert not address.international
        assert parse("ü@example.com").international

    def test_the_refusal_never_repeats_the_input(self) -> None:
        for sample in ADDRESSES:
            if sample["verdict"] == "reject" and len(sample["input"]) > 3:
                with pytest.raises(AddressRefused) as refusal:
                    parse(sample["input"])
                assert sample["input"] not in str(refusal.value)

    @given(st.one_of(st.text(max_size=40), st.from_regex(r"[ -~\u00fc]{1,10}@[ -~]{1,10}\.com")))
    def test_whatever_is_accepted_stays_itself_and_fits_between_angle_brackets(self, text: str) -> None:
        try:
            address = parse(text)
        except AddressRefused:
            return
        assert parse(str(address)) == address
        assert not re.search(r'[\s<>,;:"()\\]', str(address))


class TestHeaders:
    @pytest.mark.parametrize("sample", HEADERS, ids=lambda s: ascii(s["name"] + ": " + s["value"])[:40])
    def test_every_sample_gets_its_verdict(self, sample: dict[str, str]) -> None:
        try:
            headers.check(sample["name"], sample["value"])
        except HeaderRefused:
            assert sample["verdict"] == "reject"
        else:
            assert sample["verdict"] == "accept"

    @pytest.mark.parametrize(
        "name", ["to", "BCC", "Message-Id", "X A", "", "X" * 77, "Ж", "Resent-To", "DKIM-Signature"]
    )
    def test_structural_and_malformed_names_are_refused(self, name: str) -> None:
        with pytest.raises(HeaderRefused):
            headers.check(name, "x")

    def test_a_custom_header_cannot_repeat_one_that_is_there(self) -> None:
        with pytest.raises(HeaderRefused):
            built(headers={"Subject": "again"})

    @given(ANY_TEXT)
    @example("x\r\nBcc: eve@example.net")
    @example("x\n\nbody")
    def test_no_subject_can_add_a_header_or_change_another(self, subject: str) -> None:
        try:
            raw = built(subject=subject)
        except HeaderRefused:
            return
        message = read(raw)
        assert message.keys() == read(built()).keys()
        assert message["To"] == "ada@example.org"
        assert message.get_content().strip() == "Hi"

    @given(ANY_TEXT)
    @example('Eve" <eve@example.net>, "x')
    @example("a, " * 60)
    @example("Ж, <eve@example.net>" * 9)
    def test_no_display_name_can_add_a_recipient(self, name: str) -> None:
        try:
            raw = built(to=Mailbox(ADA.address, name))
        except (HeaderRefused, MessageRefused):
            return
        assert [a.addr_spec for a in read(raw)["To"].addresses] == ["ada@example.org"]

    @given(ANY_TEXT, ANY_TEXT)
    @example('a"; name="b', "Eve <eve@example.net>, x")
    @example("a\r\nX: y", "\r\nBcc: eve@example.net")
    @example("a;b=c", "=?utf-8?q?=0d=0a?=")
    def test_no_file_name_or_name_to_answer_can_add_a_header_or_a_part(self, filename: str, name: str) -> None:
        attachment = Attachment(filename, "text/plain", b"content")
        try:
            message = read(built(attachments=[attachment], reply_to=Mailbox(ADA.address, name)))
        except (HeaderRefused, MessageRefused):
            return
        assert set(message.keys()) == {*read(built()).keys(), "Reply-To"} - {"Content-Transfer-Encoding"}
        assert [address.addr_spec for address in message["Reply-To"].addresses] == ["ada@example.org"]
        (back,) = message.iter_attachments()
        assert set(back.keys()) == {"Content-Type", "Content-Transfer-Encoding", "Content-Disposition"}
        assert (back.get_content_type(), back.get_payload(decode=True)) == ("text/plain", b"content")

    @given(ANY_TEXT, ANY_TEXT)
    @example("X-A: b\r\nBcc", "x")
    @example("X-A", "b\r\n\r\nbody")
    def test_no_header_can_add_another_or_reach_the_body(self, name: str, value: str) -> None:
        try:
            message = read(built(headers={name: value}))
        except HeaderRefused:
            return
        assert set(message.keys()) == {*read(built()).keys(), name}
        assert message.get_content().strip() == "Hi"


class TestBytes:
    def test_the_same_draft_gives_the_same_bytes(self) -> None:
        everything = {"html": "<p>Hi</p>", "attachments": [Attachment("a.pdf", "application/pdf", b"%PDF")]}
        assert built(**everything) == built(**everything)

    def test_the_message_id_and_the_date_are_the_mails_own(self) -> None:
        message = read(built())
        assert message["Message-ID"] == f"<{MAIL_ID}@example.com>"
        assert message["Date"].datetime == DATE

    def test_text_html_and_attachments_are_read_back(self) -> None:
        pdf = bytes(range(256)) * 10
        message = read(
            built(
                subject="Grüße — Жук",
                text="Grüße\r\n.\r\nFrom here\rend",
                html="<p>" + "é" * 2000 + "</p>",
                attachments=[
                    Attachment("Rechnung Жук.pdf", "application/pdf", pdf),
                    Attachment("a.txt", "text/plain", b"bare\rcr and\nlf\n"),
                ],
            )
        )
        assert message["Subject"] == "Grüße — Жук"
        plain, html = message.get_body(("plain",)), message.get_body(("html",))
        assert plain is not None
        assert html is not None
        assert plain.get_content().splitlines() == ["Grüße", ".", "From here", "end"]
        assert html.get_content().strip() == "<p>" + "é" * 2000 + "</p>"
        first, second = message.iter_attachments()
        assert (first.get_filename(), first.get_payload(decode=True)) == ("Rechnung Жук.pdf", pdf)
        assert second.get_payload(decode=True) == b"bare\rcr and\nlf\n"

    def test_the_bytes_are_seven_bit_unless_an_address_needs_utf_8(self) -> None:
        assert built(subject="Жук", text="Жук", html="<b>Жук").isascii()
        international = built(to=Mailbox(parse("жук@example.com")))
        assert "жук@example.com".encode() in international
        # BytesParser does not decode what RFC 6532 allows in headers.
        message = message_from_string(international.decode(), policy=policy.SMTPUTF8)
        assert message["To"].addresses[0].addr_spec == "жук@example.com"

    @pytest.mark.parametrize(
        "attachment",
        [
            Attachment("", "application/pdf", b""),
            Attachment("a\r\nb", "application/pdf", b""),
            Attachment("../a", "application/pdf", b""),
            Attachment('a"b', "application/pdf", b""),
            Attachment("a", "application", b""),
            Attachment("a\u202efdp.exe", "application/pdf", b""),
            Attachment("a\u200b", "application/pdf", b""),
            Attachment("a", "multipart/mixed", b""),
            Attachment("a", "message/rfc822", b""),
            Attachment("a", "text/plain\r\nX: y", b""),
            Attachment("a", "text/plain; charset=x", b""),
        ],
    )
    def test_an_attachment_with_a_dangerous_name_or_type_is_refused(self, attachment: Attachment) -> None:
        with pytest.raises(MessageRefused):
            built(attachments=[attachment])

    @pytest.mark.parametrize("changes", [{"text": None}, {"text": "a\x00b"}, {"text": "\ud800"}, {"html": "\x00"}])
    def test_a_body_that_cannot_be_sent_is_refused(self, changes: dict[str, object]) -> None:
        with pytest.raises(MessageRefused):
            built(**changes)

    def test_a_mail_beyond_the_size_limit_is_refused(self) -> None:
        with pytest.raises(MessageRefused, match="larger"):
            built(attachments=[Attachment("a", "application/pdf", bytes(16 * 1024 * 1024))])

    @given(st.text(st.characters(codec="utf-8", exclude_characters="\x00")), st.binary(max_size=300))
    @example("=20 trailing \t\n.\n..\n=\n" + "=" * 100 + " " * 100 + "\nend ", b"")
    @example("é" * 76 + "\n" + "x" * 998, b"x")
    @example("茶" * 500, b"")
    def test_bodies_and_attachments_are_read_back_as_they_were_written(self, text: str, octets: bytes) -> None:
        attachment = Attachment("Жук.bin", "application/octet-stream", octets)
        message = read(built(text=text, html=text, attachments=[attachment]))
        expected = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n") + "\n"
        for kind in ("plain", "html"):
            body = message.get_body((kind,))
            assert body is not None
            assert body.get_payload(decode=True) == expected.replace("\n", "\r\n").encode()
        (back,) = message.iter_attachments()
        assert (back.get_filename(), back.get_payload(decode=True)) == ("Жук.bin", octets)

    @given(st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=300))
    @example("=?utf-8?q?=41?=")
    @example("x" * 1000)
    @example(" ".join("Ж" * 20))
    @example("two  spaces " * 20 + "end")
    @example("words and words " * 20 + "end")
    @example('Dr. Who, (the) "second" <a@b>')
    @example("x" * 79)
    def test_a_subject_and_a_name_are_read_back_as_they_were_written(self, subject: str) -> None:
        raw = built(subject=subject, to=Mailbox(ADA.address, subject))
        assert read(raw)["Subject"] == subject
        # The older of Python's readers: the newer one adds a space at the seams of encoded words in names.
        name, address = parseaddr(message_from_bytes(raw, policy=policy.compat32)["To"])
        assert (str(make_header(decode_header(name))), address) == (subject, "ada@example.org")

    @given(ANY_TEXT, ANY_TEXT, ANY_TEXT, st.binary(max_size=100))
    @example("a\r.\rb", "\n..\n", "x" * 5000, b"\r.\r\n")
    def test_no_input_puts_a_bare_cr_or_lf_on_the_wire(self, subject: str, text: str, html: str, octets: bytes) -> None:
        try:
            raw = built(
                subject=subject, text=text, html=html, attachments=[Attachment("a", "application/octet-stream", octets)]
            )
        except (HeaderRefused, MessageRefused):
            return
        assert not re.search(rb"(?<!\r)\n|\r(?!\n)|\x00", raw)
        assert max(map(len, raw.split(b"\r\n"))) <= 998
        assert raw.endswith(b"\r\n")


@pytest.mark.parametrize(
    "name", ["X-SMTPAPI", "x-mc-bccaddress", "X-Mailgun-Recipient-Variables", "X-MSYS-API", "X-PM-Tag"]
)
def test_no_header_tells_a_provider_of_other_recipients(name: str) -> None:
    with pytest.raises(headers.HeaderRefused, match="set by the service"):
        headers.check(name, "{}")
