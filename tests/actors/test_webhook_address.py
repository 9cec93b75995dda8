"""The SSRF guard's grammar and ranges."""

import json
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.webhooks.address import WebhookURL, parse
from actors.webhooks.guard import AddressRefused, Policy

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


@given(st.integers(min_value=0, max_value=2**32 - 1))
def test_no_ipv6_spelling_of_a_private_ipv4_address_passes(number: int) -> None:
    four = ip_address(number)
    if PUBLIC.objection(four) is None:
        return
    carriers = [
        number,  # v4-compatible
        0xFFFF << 32 | number,  # mapped
        0xFFFF << 48 | number,  # SIIT
        0x0064FF9B << 96 | number,  # NAT64
        0x0064FF9B0001 << 80 | number,  # local NAT64
        0x2002 << 112 | number << 80,  # 6to4
        0x20010000 << 96 | (number ^ 0xFFFFFFFF),  # Teredo
        0x5EFE << 32 | number,  # ISATAP
    ]
    for carrier in carriers:
        assert PUBLIC.objection(ip_address(carrier.to_bytes(16, "big"))) is not None


@given(st.text(max_size=60), st.sampled_from(["", "https://", "https://a.com/", "https://a.com:", "https://["]))
def test_whatever_is_accepted_is_canonical_ascii_and_parses_to_itself(text: str, prefix: str) -> None:
    try:
        url = parse(prefix + text, policy=PUBLIC)
    except AddressRefused:
        return
    assert isinstance(url, WebhookURL)
    assert str(url).isascii()
    assert parse(str(url), policy=PUBLIC) == url
