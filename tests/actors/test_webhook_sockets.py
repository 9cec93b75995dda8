"""What a delivery connects to, seen at the sockets: each connect and each lookup of this process is recorded."""

from __future__ import annotations

import json
import socket
import ssl
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import trustme
from far_http import Endpoint, answering, endpoint, headers_of, status

from actors.webhooks.address import parse
from actors.webhooks.delivery import Answered, Courier, Unreachable
from actors.webhooks.guard import AddressRefused, Policy
from actors.webhooks.own import is_own
from actors.webhooks.wire import Phase

SAMPLES = json.loads((Path(__file__).parent / "samples" / "webhook_urls.json").read_text())
ONE = Policy(allowed_networks=(ip_network("127.0.0.1/32"),))
DEADLINE = timedelta(seconds=2)
HAS_IPV6 = is_own(ip_address("::1"))


@dataclass
class Seen:
    """`connects`: to whom, in order. `lookups`: of which names."""

    connects: list[tuple[str, int]] = field(default_factory=list)
    lookups: list[str] = field(default_factory=list)


_watching: list[Seen] = []


def _audit(event: str, args: tuple[Any, ...]) -> None:
    """Sees what any thread asks of the kernel, by whichever function. Nothing of a test leaves this machine."""
    if not _watching or event not in ("socket.connect", "socket.getaddrinfo"):
        return
    if event == "socket.getaddrinfo":
        _watching[-1].lookups.append(str(args[0]))
        return
    _, address = args
    _watching[-1].connects.append(address[:2])
    if not address[0].startswith("127.") and address[0] not in ("::1", "0.0.0.0", "::", "::ffff:127.0.0.1"):
        raise OSError("the network is not reached from here")


sys.addaudithook(_audit)  # it stays for the life of the process, and is silent outside `watched`


@contextmanager
def watched() -> Iterator[Seen]:
    _watching.append(Seen())
    try:
        yield _watching[-1]
    finally:
        _watching.pop()


class Answers:
    """A resolver that gives each of its answers once, then the last again and again."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    def __call__(self, _host: str, /, *, within: timedelta) -> Sequence[str]:
        self.asked += 1
        return self.answers[min(self.asked, len(self.answers)) - 1]


@pytest.fixture(scope="module")
def far() -> Iterator[Endpoint]:
    """It listens on every spelling of this machine, and nobody may ever connect to it."""
    with endpoint(answering(status(200)), host="::" if HAS_IPV6 else "0.0.0.0") as everywhere:
        yield everywhere


def deliver(text: str, *, policy: Policy, resolver: Answers | None = None) -> Answered | Unreachable | None:
    """The whole road of a URL, as an actor goes it: None when it is refused at the door."""
    try:
        url = parse(text, policy=policy)
    except AddressRefused:
        return None
    courier = Courier(policy=policy, deadline=DEADLINE, resolver=resolver or Answers(["127.0.0.1"]))
    return courier.post(url, headers={}, body=b"{}")


def test_the_recorder_sees_every_way_to_connect() -> None:
    with endpoint(answering(status(200)), host="::" if HAS_IPV6 else "0.0.0.0") as listening, watched() as seen:
        with socket.create_connection(("localhost", listening.port)), socket.socket() as sock:
            sock.connect_ex(("127.0.0.1", listening.port))
        for host in ("::1", "::ffff:127.0.0.1") if HAS_IPV6 else ():
            with socket.create_connection((host, listening.port)):
                pass
    assert "localhost" in seen.lookups
    expected = ["127.0.0.1", "::1", "::ffff:127.0.0.1"] if HAS_IPV6 else ["127.0.0.1"]
    assert [host for host, _ in seen.connects][-len(expected) :] == expected


V4_SPELLINGS = [
    "127.0.0.1", "127.0.0.2", "127.1", "127.0.1", "0", "0.0.0.0", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1",
    "017700000001", "127.0.0.1.", "①②⑦.⓪.⓪.①", "127。0。0。1", "１２７.0.0.1", "%31%32%37.0.0.1", "localhost", "localhost.",
    "LOCALHOST", "a.localhost", "*", "169.254.169.254", "10.0.0.1", "192.168.0.1", "100.100.100.200", "192.0.0.192",
]  # fmt: skip
V6_SPELLINGS = [
    "::1", "0:0:0:0:0:0:0:1", "0000:0000:0000:0000:0000:0000:0000:0001", "::", "::ffff:127.0.0.1", "::ffff:7f00:1",
    "0:0:0:0:0:ffff:127.0.0.1", "::127.0.0.1", "::7f00:1", "::ffff:0:127.0.0.1", "::ffff:0:7f00:1", "::5efe:127.0.0.1",
    "fe80::5efe:7f00:1", "2606:4700::5efe:7f00:1", "2606:4700::200:5efe:7f00:1", "64:ff9b::127.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b:1::7f00:1", "2002:7f00:1::", "2001::80ff:fffe", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::", "::169.254.169.254", "::ffff:0:a9fe:a9fe", "fe80::1", "fec0::1", "fd00:ec2::254", "fd20:ce::254",
    "ff02::1", "100::1",
]  # fmt: skip
V6_WIDE = Policy(allowed_networks=(ip_network("::/0"),))
METADATA = [each for each in (*V4_SPELLINGS, *V6_SPELLINGS) if "169.254" in each or "a9fe" in each]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@pytest.mark.parametrize("host", [*V4_SPELLINGS, *V6_SPELLINGS])
def test_no_spelling_of_a_denied_address_is_connected_to(host: str, far: Endpoint) -> None:
    with watched() as seen:
        result = deliver(f"https://{_bracketed(host)}:{far.port}/", policy=Policy())
    assert not isinstance(result, Answered)
    assert (seen.connects, seen.lookups, far.connections) == ([], [], 0)


@pytest.mark.parametrize("answer", ["127.0.0.1", "0.0.0.0", "169.254.169.254", *V6_SPELLINGS])
@pytest.mark.parametrize("beside", [[], ["93.184.216.34"], ["2606:4700:4700::1111"]], ids=["alone", "v4", "v6"])
@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
def test_one_denied_answer_of_a_name_means_no_connect_at_all(
    answer: str, beside: list[str], first: bool, far: Endpoint
) -> None:
    answers = Answers([answer, *beside] if first else [*beside, answer])
    with watched() as seen:
        result = deliver(f"https://mixed.example.com:{far.port}/", policy=Policy(), resolver=answers)
    assert isinstance(result, Unreachable)
    assert result.phase is Phase.VET
    assert (seen.connects, seen.lookups, far.connections) == ([], [], 0)


@pytest.mark.parametrize("host", METADATA)
def test_metadata_is_not_connected_to_where_all_of_ipv6_is_allowed(host: str) -> None:
    with watched() as seen:
        deliver(f"http://{_bracketed(host)}/latest/meta-data/", policy=V6_WIDE)
        deliver("http://metadata.example.com/", policy=V6_WIDE, resolver=Answers([host]))
    assert seen.connects == []


@pytest.mark.parametrize(
    "sample", [each for each in SAMPLES if each["verdict"] == "reject"], ids=lambda s: ascii(s["input"])[:50]
)
def test_no_refused_sample_is_connected_to(sample: dict[str, str]) -> None:
    with watched() as seen:
        assert deliver(sample["input"], policy=Policy()) is None
    assert seen == Seen()


def test_a_resolver_that_changes_its_mind_is_asked_once_an_attempt(far: Endpoint) -> None:
    rebinding = Answers(["93.184.216.34"], ["127.0.0.1"])
    courier = Courier(policy=Policy(), deadline=DEADLINE, resolver=rebinding)
    url = parse(f"https://rebind.example.com:{far.port}/", policy=Policy())
    with watched() as seen:
        first = courier.post(url, headers={}, body=b"{}")
        assert (seen.connects, rebinding.asked) == ([("93.184.216.34", far.port)], 1)
        second = courier.post(url, headers={}, body=b"{}")
    assert isinstance(first, Unreachable)
    assert isinstance(second, Unreachable)
    assert (first.phase, second.phase) == (Phase.CONNECT, Phase.VET)
    assert (len(seen.connects), seen.lookups, far.connections) == (1, [], 0)


def test_at_most_eight_addresses_of_a_name_are_tried() -> None:
    with watched() as seen:
        deliver(
            "https://many.example.com/", policy=Policy(), resolver=Answers([f"93.184.216.{n}" for n in range(1, 50)])
        )
    assert seen.connects == [(f"93.184.216.{n}", 443) for n in range(1, 9)]


def test_an_allowed_delivery_connects_to_the_pinned_address_and_says_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("hooks.example.com").configure_cert(tls)
    names: list[str | None] = []
    tls.sni_callback = lambda _socket, name, _context: names.append(name)
    seen: list[bytes] = []
    with endpoint(answering(status(200))) as proxy, endpoint(answering(status(204), seen=seen), tls=tls) as far:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        courier = Courier(policy=ONE, deadline=DEADLINE, tls=trusting, resolver=Answers(["127.0.0.1"]))
        # The request is built from what the parser made of this, never from the text.
        url = parse(f"HTTPS://Hooks.Example.COM.:{far.port}?a=%20", policy=ONE)
        with watched() as process:
            result = courier.post(url, headers={}, body=b"{}")
        assert proxy.connections == 0
    assert isinstance(result, Answered), result
    assert process == Seen(connects=[("127.0.0.1", far.port)])
    assert names == ["hooks.example.com"]
    assert seen[0].startswith(b"POST /?a=%20 HTTP/1.1\r\n")
    assert headers_of(seen[0])["host"] == f"hooks.example.com:{far.port}"


@pytest.mark.skipif(not HAS_IPV6, reason="this machine has no ::1")
def test_an_allowed_ipv6_address_is_connected_to_as_such() -> None:
    policy = Policy(allowed_networks=(ip_network("::1/128"),))
    with endpoint(answering(status(204)), host="::1") as far, watched() as seen:
        result = deliver(f"http://[0:0::1]:{far.port}/", policy=policy)
    assert isinstance(result, Answered), result
    assert seen == Seen(connects=[("::1", far.port)])


def test_a_redirect_to_a_denied_address_is_not_connected_to() -> None:
    with endpoint(answering(status(302, "Location: http://169.254.169.254/latest/"))) as far, watched() as seen:
        result = deliver(f"http://127.0.0.1:{far.port}/", policy=ONE)
    assert isinstance(result, Answered)
    assert seen == Seen(connects=[("127.0.0.1", far.port)])
