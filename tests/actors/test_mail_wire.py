"""What the server receives is what was validated, octet for octet, whatever was asked for: no header becomes two, no
address a parameter, no body a second mail."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from uuid import UUID

import pytest
from far_smtp import RawServer, raw_server
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actors.mail.address import AddressRefused, parse
from actors.mail.headers import HeaderRefused
from actors.mail.message import Attachment, Draft, Mailbox, MessageRefused, build
from actors.mail.replies import Sent
from actors.mail.server import Security, Server
from actors.mail.smtp import Patience, Transport
from tests.awaiting import await_that

SHOP = parse("shop@example.com")
ADA = parse("ada@example.org")
MAIL_ID = UUID("01890000-0000-7000-8000-000000000001")
OF_EVERY_MAIL = [
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
]
SMTPUTF8 = "250-here\r\n250-SMTPUTF8\r\n250-8BITMIME\r\n250 SIZE 40000000"

nasty = st.text(
    st.one_of(
        st.sampled_from("\r\n\x00\t .:;,<>()@\"\\'-=?_%\x0b\x0c\x1c\x85\u2028\u2029\ud800é漢aB1"), st.characters()
    ),
    max_size=60,
)
injections = st.sampled_from(
    [
        "a\r\nBcc: eve@example.net",
        "a\nBcc: eve@example.net",
        "a\rBcc: eve@example.net",
        "a\r\n\r\nanother body",
        "a\u2028Bcc: eve@example.net",
        "\r\n.\r\nMAIL FROM:<eve@example.net>\r\nRCPT TO:<eve@example.net>\r\nDATA\r\n",
        "\n.\nMAIL FROM:<eve@example.net>\n",
        "\n.\r\nQUIT\r\n",
        "\r.\r\nRSET\r\n",
        "\r\n.\n.\r\r\n",
        "=?utf-8?q?a=0D=0ABcc:_eve?=",
    ]
)
texts = nasty | injections | st.builds("{}{}{}".format, nasty, injections, nasty)
quick = settings(max_examples=60, deadline=None)


@pytest.fixture(scope="module")
def server() -> Iterator[RawServer]:
    with raw_server(EHLO=SMTPUTF8) as server:
        yield server


def received(server: RawServer, message: bytes, *, recipient: str = "ada@example.org") -> bytes:
    """All octets of the one connection that this mail took."""
    before = server.ended
    patience = Patience(command=timedelta(seconds=10), quit=timedelta(seconds=10))
    transport = Transport(Server(Security.PLAIN, "127.0.0.1", server.port), helo="example.com", patience=patience)
    outcome = transport.send(message, sender=SHOP, recipient=parse(recipient), before_dot=lambda: True)
    transport.close()
    assert isinstance(outcome, Sent)
    await_that(lambda: server.ended > before)
    return bytes(server.received[-1])


def conversation(message: bytes, *, recipient: str = "ada@example.org", options: str = "") -> bytes:
    """The only one that this mail may lead to."""
    lines = [b"." + line if line.startswith(b".") else line for line in message.split(b"\r\n")]
    said = (
        f"ehlo example.com\r\nMAIL FROM:<shop@example.com> SIZE={len(message)}{options}\r\n"
        f"RCPT TO:<{recipient}>\r\nDATA\r\n"
    )
    return said.encode() + b"\r\n".join(lines) + b".\r\nQUIT\r\n"


def header_names(message: bytes) -> list[str]:
    """As a reader sees them who takes CR and LF each for the end of a line."""
    head = message.partition(b"\r\n\r\n")[0]
    return [line.partition(b":")[0].decode() for line in re.split(rb"\r\n|\r|\n", head) if line[:1] not in b" \t"]


def built(**says: object) -> bytes | None:
    """The mail, or None where it is refused."""
    draft = {"sender": Mailbox(SHOP), "to": Mailbox(ADA), "subject": "Hello", "text": "Hi", **says}
    try:
        return build(Draft(**draft), mail_id=MAIL_ID, date=datetime(2026, 1, 1, tzinfo=UTC))  # type: ignore[arg-type]
    except (AddressRefused, HeaderRefused, MessageRefused):
        return None


def assert_arrives_as_it_is(server: RawServer, message: bytes) -> None:
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)|\x00", message)
    assert received(server, message) == conversation(message)


class TestTheWire:
    @quick
    @given(name=texts, value=texts)
    @example(name="X-A: b\r\nBcc", value="x")
    @example(name="X-A", value="a\r\nBcc: eve@example.net")
    def test_a_header_of_any_name_and_value_is_refused_or_is_one(
        self, server: RawServer, name: str, value: str
    ) -> None:
        message = built(headers={name: value})
        if message is None:
            return
        assert sorted(header_names(message)) == sorted([*OF_EVERY_MAIL, name])
        assert sorted(message_from_bytes(message, policy=policy.default).keys()) == sorted([*OF_EVERY_MAIL, name])
        assert_arrives_as_it_is(server, message)

    @quick
    @given(value=st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=200))
    def test_what_a_header_may_hold_it_holds(self, server: RawServer, value: str) -> None:
        message = built(headers={"X-Note": value})
        assert message is not None
        assert sorted(header_names(message)) == sorted([*OF_EVERY_MAIL, "X-Note"])
        assert_arrives_as_it_is(server, message)

    @quick
    @given(subject=texts, name=texts)
    def test_a_subject_and_a_name_are_refused_or_each_one_header(
        self, server: RawServer, subject: str, name: str
    ) -> None:
        message = built(subject=subject, to=Mailbox(ADA, name))
        if message is None:
            return
        assert header_names(message) == OF_EVERY_MAIL
        assert_arrives_as_it_is(server, message)

    @quick
    @given(filename=texts, content=st.binary(max_size=200))
    @example(filename='a"; name="b', content=b"")
    @example(filename="a\r\nContent-Type: text/html", content=b"")
    def test_a_file_of_any_name_is_refused_or_one_part(self, server: RawServer, filename: str, content: bytes) -> None:
        message = built(attachments=[Attachment(filename, "application/pdf", content)])
        if message is None:
            return
        parts = list(message_from_bytes(message, policy=policy.default).iter_parts())
        assert [part.get_content_type() for part in parts] == ["text/plain", "application/pdf"]
        assert parts[1].get_payload(decode=True) == content
        assert {*parts[1].keys()} == {"Content-Type", "Content-Transfer-Encoding", "Content-Disposition"}
        assert_arrives_as_it_is(server, message)

    @quick
    @given(text=texts, html=st.none() | texts)
    @example(text="\r\n.\r\n", html=None)
    @example(text=".", html="..\n.\n")
    def test_a_body_of_any_text_is_refused_or_one_mail(self, server: RawServer, text: str, html: str | None) -> None:
        message = built(text=text, html=html)
        if message is None:
            return
        bodies = len(server.bodies)
        assert_arrives_as_it_is(server, message)
        assert len(server.bodies) == bodies + 1

    @quick
    @given(
        text=texts
        | st.emails()
        | st.builds("{}@{}".format, nasty, st.sampled_from(["example.org", "bücher.example", "a b.example"]))
        | st.builds("ada@example.org{}".format, texts)
        | st.builds("{}ada@example.org".format, texts)
    )
    @example(text="b@x.org> NOTIFY=NEVER")
    @example(text="a@x.org,b@y.org")
    @example(text="жук@example.org")
    def test_an_address_is_refused_or_the_whole_of_the_command(self, server: RawServer, text: str) -> None:
        try:
            address = parse(text)
        except AddressRefused:
            return
        message = built(to=Mailbox(address))
        assert message is not None
        options = " BODY=8BITMIME SMTPUTF8" if address.international else ""
        assert received(server, message, recipient=text) == conversation(
            message, recipient=str(address), options=options
        )
        assert not set(str(address)) & set('\r\n\x00 <>,;:()[]"\\')


@quick
@given(lines=st.lists(st.sampled_from([b"", b".", b"..", b".a", b"a.", b"QUIT", b"a" * 900]), max_size=200))
def test_lines_with_dots_arrive_as_they_are_wherever_a_block_ends(server: RawServer, lines: list[bytes]) -> None:
    message = b"Subject: x\r\n\r\n" + b"".join(line + b"\r\n" for line in lines)
    assert received(server, message) == conversation(message)
