"""The SSRF guard's grammar and ranges."""

import json
import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.hostnames import NameRefused
from actors.settings import Settings
from actors.webhooks.address import WebhookURL, parse
from actors.webhooks.carriers import carried
from actors.webhooks.guard import MAX_ADDRESSES, AddressRefused, Policy
from actors.webhooks.own import is_own

SAMPLES = json.loads((Path(__file__).parent / "samples" / "webhook_urls.json").read_text())
PUBLIC = Policy()
LOOPBACK = Policy(allowed_networks=(ip_network("127.0.0.0/8"), ip_network("::1/128")))


def verdict(text: str, policy: Policy = PUBLIC) -> str:
    try:
        parse(text, policy=policy)
    except AddressRefused:
        return "reject"
    return "accept"


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: ascii(sample["input"])[:50])
def test_every_sample_gets_its_verdict(sample: dict[str, str]) -> None:
    assert verdict(sample["input"]) == sample["verdict"], sample["why"]


@pytest.mark.parametrize(
    "url",
    [
        "https://%31%32%37.0.0.1/",
        "https://127.1/",
        "https://2130706433/",
        "https://0177.0.0.1/",
        "https://①②⑦.⓪.⓪.①/",
        "https://９３.184.216.34/",
        "https://1.2.3.4./",
        "https://example.com../",
        "https://example.com:/",
        "https://example.com:0443/a b",
        "https://exam_ple.com/",
        "https://-a.example.com/",
        "https://example.com:6379/",
        "https://example.com:25/",
        "https://example.123/",
        "https://a.0x/",
        "https://xn--a.com/",
        "https:/example.com/",
        "https:example.com",
        "//example.com/",
        "https://example.com/%7f",
        "https://example.com/?a=%1b",
        "https://[::ffff:8.8.8.8]/",
        "https://[fe80::1]/",
        "https://[fec0::1]/",
        "https://[fd00:ec2::254]/",
        "https://[ff02::1]/",
        "https://[100::1]/",
        "https://[2002:7f00:1::]/",
        "https://[::]/",
        "https://168.63.129.16/",
        "https://100.64.0.1/",
        "https://198.18.0.1/",
        "https://255.255.255.255/",
        "https://example.com/" + "a" * 2048,
        "https://example.org?" + "a" * 2028,
        "https://ü.example.com/" + "a" * 2026,
        "https://router.lan/",
        "https://x.home.arpa/",
        "https://x.onion/",
    ],
)
def test_further_ways_around_the_filter_are_refused(url: str) -> None:
    assert verdict(url) == "reject"


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("HTTPS://Hooks.Example.COM:443", "https://hooks.example.com/"),
        ("https://example.com.:8443/a", "https://example.com:8443/a"),
        ("https://example.com?x=1", "https://example.com/?x=1"),
        ("https://faß.de/", "https://xn--fa-hia.de/"),
        ("https://example.org?" + "a" * 2027, "https://example.org/?" + "a" * 2027),
        ("https://[2606:4700:4700:0:0::1111]:8443/", "https://[2606:4700:4700::1111]:8443/"),
    ],
)
def test_a_url_has_one_spelling(url: str, canonical: str) -> None:
    assert str(parse(url, policy=PUBLIC)) == canonical


def test_the_refusal_never_repeats_the_input() -> None:
    with pytest.raises(AddressRefused) as refusal:
        parse("https://user:hunter2@hooks.example.com/", policy=PUBLIC)
    assert "hunter2" not in str(refusal.value)


def test_an_allowed_network_opens_its_addresses_also_for_plain_http() -> None:
    assert verdict("http://127.0.0.1:8080/hook", LOOPBACK) == "accept"
    assert verdict("https://[::1]:8443/hook", LOOPBACK) == "accept"
    assert verdict("https://10.0.0.1/", LOOPBACK) == "reject"
    assert verdict("http://93.184.216.34/", LOOPBACK) == "reject"


def test_no_allow_list_opens_metadata_services() -> None:
    everything = Policy(allowed_networks=(ip_network("0.0.0.0/0"), ip_network("::/0")))
    for address in ("169.254.169.254", "169.254.170.2", "100.100.100.200", "192.0.0.192", "168.63.129.16", "0.0.0.0"):
        assert verdict(f"https://{address}/", everything) == "reject", address
    for address in ("fd00:ec2::254", "fd20:ce::254", "fe80::1", "::"):
        assert verdict(f"https://[{address}]/", everything) == "reject", address


def test_an_allowed_host_may_be_local_yet_its_addresses_are_vetted() -> None:
    policy = Policy(allowed_hosts=frozenset({"receiver"}))
    assert verdict("https://receiver/hook", policy) == "accept"
    with pytest.raises(AddressRefused):
        policy.vet(["10.1.2.3"], plain=False)


@pytest.mark.parametrize(
    "answers",
    [
        ["10.0.0.1"],
        ["93.184.216.34", "127.0.0.1"],
        ["2606:4700::1111", "::1"],
        ["fe80::1%eth0"],
        ["2606:4700::1111%eth0"],
        ["::ffff:93.184.216.34"],
        ["nonsense"],
        [],
    ],
)
def test_one_denied_answer_refuses_them_all(answers: list[str]) -> None:
    with pytest.raises(AddressRefused):
        PUBLIC.vet(answers, plain=False)


def test_plain_http_reaches_only_what_the_operator_allowed() -> None:
    assert LOOPBACK.vet(["127.0.0.1"], plain=True) == (ip_address("127.0.0.1"),)
    with pytest.raises(AddressRefused):
        LOOPBACK.vet(["93.184.216.34"], plain=True)


def test_an_operator_can_deny_public_networks() -> None:
    policy = Policy(denied_networks=(ip_network("93.184.216.0/24"),))
    assert verdict("https://93.184.216.34/", policy) == "reject"
    assert verdict("https://[64:ff9b::5db8:d822]/", policy) == "reject"


FORMATS: dict[str, Callable[[int], int]] = {
    "v4-compatible": lambda four: four,
    "mapped": lambda four: 0xFFFF << 32 | four,
    "SIIT": lambda four: 0xFFFF << 48 | four,
    "NAT64": lambda four: 0x0064FF9B << 96 | four,
    "local NAT64 of 96 bits": lambda four: 0x0064FF9B0001 << 80 | four,
    "local NAT64 of 64 bits": lambda four: 0x0064FF9B0001 << 80 | four << 24,
    "local NAT64 of 56 bits": lambda four: 0x0064FF9B0001 << 80 | (four >> 24) << 64 | (four & 0xFFFFFF) << 32,
    "local NAT64 of 48 bits": lambda four: 0x0064FF9B0001 << 80 | (four >> 16) << 64 | (four & 0xFFFF) << 40,
    "6to4": lambda four: 0x2002 << 112 | four << 80,
    "Teredo": lambda four: 0x20010000 << 96 | 0x41414141 << 64 | (four ^ 0xFFFFFFFF),
    "Teredo's server": lambda four: 0x20010000 << 96 | four << 64 | 0xBEBEBEBE,
    "ISATAP": lambda four: 0x26064700 << 96 | 0x5EFE << 32 | four,
    "ISATAP, unique": lambda four: 0xFE80 << 112 | 0x02005EFE << 32 | four,
}
each_format = pytest.mark.parametrize("carrier", FORMATS.values(), ids=FORMATS)
# 0.0.0.0/8 and what it would spell: `::1` is loopback, and zeros carry nothing.
fours = st.integers(min_value=2**24, max_value=2**32 - 1)
EVERYTHING = Policy(allowed_networks=(ip_network("0.0.0.0/0"), ip_network("::/0")))
CLOSED = [
    "169.254.169.254",
    "169.254.170.2",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
    "224.0.0.1",
    "255.255.255.255",
]


def six(carrier: Callable[[int], int], four: int) -> IPv6Address:
    return IPv6Address(carrier(four))


@each_format
@given(four=fours)
def test_a_carrier_is_read_as_its_ipv4_address(carrier: Callable[[int], int], four: int) -> None:
    assert IPv4Address(four) in carried(six(carrier, four))


@each_format
@given(four=st.one_of(fours, st.sampled_from([int(IPv4Address(each)) for each in CLOSED])))
def test_no_ipv6_spelling_of_a_denied_ipv4_address_passes(carrier: Callable[[int], int], four: int) -> None:
    if PUBLIC.objection(IPv4Address(four)) is not None:
        assert PUBLIC.objection(six(carrier, four)) is not None


@each_format
@pytest.mark.parametrize("closed", CLOSED)
@pytest.mark.parametrize("allowed", ["::/0", "64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0/96"])
def test_no_allow_list_opens_a_closed_ipv4_address_in_an_ipv6_spelling(
    carrier: Callable[[int], int], closed: str, allowed: str
) -> None:
    address = six(carrier, int(IPv4Address(closed)))
    for policy in (EVERYTHING, Policy(allowed_networks=(ip_network(allowed),))):
        assert policy.objection(address) is not None
        assert not policy.exempts(address)


@each_format
@given(four=fours)
def test_an_allow_list_of_ipv6_opens_no_private_ipv4_address(carrier: Callable[[int], int], four: int) -> None:
    policy = Policy(allowed_networks=(ip_network("::/0"),))
    if policy.objection(IPv4Address(four)) is not None:
        assert policy.objection(six(carrier, four)) is not None


@each_format
def test_a_denied_network_is_denied_in_every_spelling(carrier: Callable[[int], int]) -> None:
    policy = Policy(allowed_networks=EVERYTHING.allowed_networks, denied_networks=(ip_network("93.184.216.0/24"),))
    assert policy.objection(six(carrier, int(IPv4Address("93.184.216.34")))) is not None


@pytest.mark.parametrize(
    "address",
    ["::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::", "::169.254.169.254", "::ffff:0:a9fe:a9fe"],
)
def test_the_metadata_service_stays_closed_where_all_of_ipv6_is_allowed(address: str) -> None:
    policy = Policy(allowed_networks=(ip_network("::/0"),))
    assert verdict(f"https://[{address}]/", policy) == "reject"
    with pytest.raises(AddressRefused):
        policy.vet([address], plain=False)


def test_an_operator_can_allow_a_translated_network_with_what_it_carries() -> None:
    local = Policy(allowed_networks=(ip_network("64:ff9b:1::/48"), ip_network("10.0.0.0/8")))
    assert local.objection(ip_address("64:ff9b:1::a00:1")) is None
    assert local.exempts(ip_address("64:ff9b:1::a00:1"))
    assert local.objection(ip_address("64:ff9b:1::c0a8:1")) is not None


class TestOwnAddresses:
    """`is_own` is given: which addresses the machine of a test has is not known."""

    HERE = ip_address("93.184.216.34")

    def policy(self, *allowed: str) -> Policy:
        networks = tuple(ip_network(each) for each in allowed)
        return Policy(allowed_networks=networks, is_own=lambda address: address == self.HERE)

    @pytest.mark.parametrize("host", ["93.184.216.34", "[64:ff9b::5db8:d822]"])
    def test_a_public_address_of_this_machine_is_denied(self, host: str) -> None:
        assert verdict(f"https://{host}/", PUBLIC) == "accept"
        assert verdict(f"https://{host}/", self.policy()) == "reject"

    def test_an_allow_list_exempts_it(self) -> None:
        assert verdict("https://93.184.216.34/", self.policy("93.184.216.34/32")) == "accept"

    def test_what_can_be_bound_is_own_and_what_cannot_is_foreign(self) -> None:
        assert is_own(ip_address("127.0.0.1"))
        assert not is_own(ip_address("93.184.216.34"))
        assert not is_own(ip_address("2606:4700:4700::1111"))

    def test_where_everything_can_be_bound_nothing_is_known_to_be_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(socket.socket, "bind", lambda _socket, _address: None)
        assert not is_own(ip_address("93.184.216.34"))
        assert not is_own(ip_address("127.0.0.1"))


class TestHosts:
    @pytest.mark.parametrize("listed", ["evil.com", "EVIL.com.", "Evil.Com"])
    @pytest.mark.parametrize("host", ["evil.com", "a.evil.com", "a.b.EVIL.com.", "evil.com."])
    def test_a_denied_name_denies_all_below_it_in_every_spelling(self, listed: str, host: str) -> None:
        policy = Policy(denied_hosts=frozenset({listed}), allowed_hosts=frozenset({"evil.com"}))
        assert verdict(f"https://{host}/", policy) == "reject"

    @pytest.mark.parametrize("host", ["notevil.com", "evil.com.org", "com"])
    def test_a_name_that_only_looks_like_it_is_not_denied(self, host: str) -> None:
        assert not Policy(denied_hosts=frozenset({"evil.com"})).denies(host)

    def test_an_international_name_is_denied_in_both_spellings(self) -> None:
        policy = Policy(denied_hosts=frozenset({"Faß.de"}))
        assert verdict("https://xn--fa-hia.de/", policy) == "reject"
        assert verdict("https://a.faß.de/", policy) == "reject"

    @pytest.mark.parametrize("listed", ["Receiver.lan", "receiver.lan.", "RECEIVER.LAN"])
    def test_an_allowed_host_is_matched_however_it_is_spelled(self, listed: str) -> None:
        assert verdict("https://receiver.lan/", Policy(allowed_hosts=frozenset({listed}))) == "accept"

    @pytest.mark.parametrize("listed", ["*.evil.com", "10.0.0.1", "evil.com/x", "", "a..b", "127.1"])
    def test_what_is_no_name_is_refused_in_a_list_of_hosts(self, listed: str) -> None:
        with pytest.raises(NameRefused):
            Policy(denied_hosts=frozenset({listed}))

    def test_settings_name_the_variable_that_holds_no_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WEBHOOK_DENIED_HOSTS", "good.com,10.0.0.1")
        with pytest.raises(ValueError, match="WEBHOOK_DENIED_HOSTS"):
            Settings()

    def test_settings_read_names_in_one_spelling(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WEBHOOK_ALLOWED_HOSTS", "Receiver.lan, receiver2.")
        assert Settings().webhook_allowed_hosts == {"receiver.lan", "receiver2"}


class TestPorts:
    @pytest.mark.parametrize(
        ("port", "expected"), [(443, "accept"), (8443, "accept"), (9443, "reject"), (25, "reject")]
    )
    def test_a_list_of_ports_permits_these_and_no_other(self, port: int, expected: str) -> None:
        assert verdict(f"https://example.com:{port}/", Policy(ports=frozenset({443, 8443}))) == expected

    def test_the_port_that_goes_without_saying_must_be_listed_too(self) -> None:
        assert verdict("https://example.com/", Policy(ports=frozenset({8443}))) == "reject"

    @pytest.mark.parametrize(("value", "ports"), [("443, 8443", {443, 8443}), ("", None)])
    def test_settings_read_a_list_of_ports(
        self, value: str, ports: set[int] | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WEBHOOK_PORTS", value)
        assert Settings().webhook_ports == ports

    @pytest.mark.parametrize("value", ["443,x", "0", "65536", "-1", "1-2"])
    def test_settings_name_the_variable_that_holds_no_port(self, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WEBHOOK_PORTS", value)
        with pytest.raises(ValueError, match="WEBHOOK_PORTS"):
            Settings()


def test_of_many_addresses_eight_are_considered_and_all_are_vetted() -> None:
    many = [f"93.184.216.{n}" for n in range(1, 200)]
    assert PUBLIC.vet(many, plain=False) == tuple(ip_address(each) for each in many[:MAX_ADDRESSES])
    with pytest.raises(AddressRefused):
        PUBLIC.vet([*many, "10.0.0.1"], plain=False)


@given(st.text(max_size=60), st.sampled_from(["", "https://", "https://a.com/", "https://a.com:", "https://["]))
def test_whatever_is_accepted_is_canonical_ascii_and_parses_to_itself(text: str, prefix: str) -> None:
    try:
        url = parse(prefix + text, policy=PUBLIC)
    except AddressRefused:
        return
    assert isinstance(url, WebhookURL)
    assert str(url).isascii()
    assert parse(str(url), policy=PUBLIC) == url
