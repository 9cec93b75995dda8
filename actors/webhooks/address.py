"""The URL of a webhook endpoint, parsed once and strictly.

Parsers disagree about backslashes, tabs, percent signs and numbers in hosts, and each disagreement is a way around
an address filter. So one grammar reads the input, everything it does not know is refused, and the request is built
from the value that comes out, never from the string that went in.
"""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from actors.hostnames import NameRefused, ascii_name, canonical, ends_in_a_number
from actors.webhooks.guard import Address, AddressRefused, Policy

MAX_LENGTH = 2048

_URL = re.compile(r"(?P<scheme>[A-Za-z]+)://(?P<authority>[^/?#]*)(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?")
_AUTHORITY = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[^\[\]:@%]+))(?::(?P<port>[0-9]{1,5}))?")
_TARGET = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?]|%[0-9A-Fa-f]{2})*")
_ENCODED_CONTROL = re.compile(r"%(?:[01][0-9A-Fa-f]|7[Ff])")
_QUAD = re.compile(r"(?:0|[1-9][0-9]{0,2})(?:\.(?:0|[1-9][0-9]{0,2})){3}")

# Names that never belong to the public DNS (RFC 6761, 6762, 7686, 8375, 9476; .internal by ICANN).
_LOCAL_SUFFIXES = frozenset(
    {"alt", "arpa", "corp", "example", "home", "internal", "intranet", "invalid", "lan", "local"}
    | {"localhost", "onion", "private", "test"}
)
_DEFAULT_PORTS = {"https": 443, "http": 80}
# The ports that browsers refuse (WHATWG fetch), and those of infrastructure that speaks or tolerates HTTP.
_REFUSED_PORTS = frozenset(
    {0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104}
    | {109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515}
    | {526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049}
    | {3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080}
    | {445, 1433, 2375, 2376, 2379, 2380, 3306, 3389, 4369, 5432, 5671, 5672, 6379, 6443, 9200, 9300, 10250}
    | {11211, 15671, 15672, 25672, 27017}
)


@dataclass(frozen=True, slots=True)
class WebhookURL:
    """A URL that a webhook may be sent to, in one canonical spelling.

    `host`: a lower-case A-label name without trailing dot, or an address without brackets. `target`: path and query,
    pure ASCII. `literal`: the address, when the host is one.
    """

    scheme: str
    host: str
    port: int
    target: str
    literal: Address | None

    @property
    def plain(self) -> bool:
        return self.scheme == "http"

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if isinstance(self.literal, IPv6Address) else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host_header}{self.target}"


def parse(text: str, *, policy: Policy) -> WebhookURL:
    """The URL in `text`, or AddressRefused. What it becomes is accepted again. Names are not resolved here: each
    connection vets their answers."""
    match = _URL.fullmatch(_screened(text))
    if match is None:
        raise AddressRefused("not an absolute URL without fragment")
    scheme = match["scheme"].lower()
    if scheme not in _DEFAULT_PORTS:
        raise AddressRefused("only https URLs are accepted")
    authority = _AUTHORITY.fullmatch(match["authority"])
    if authority is None:
        raise AddressRefused("the host is missing or malformed, or carries a user name")
    host, literal = _host(authority, policy)
    _check_reach(scheme, literal, policy)
    port = _port(authority["port"], scheme, policy)
    url = WebhookURL(scheme, host, port, _target(match["path"], match["query"]), literal)
    if len(str(url)) > MAX_LENGTH:  # an A-label or a path of "/" can make it longer
        raise AddressRefused(f"the URL, as it is kept, must have at most {MAX_LENGTH} characters")
    return url


def _screened(text: str) -> str:
    if not text or len(text) > MAX_LENGTH:
        raise AddressRefused(f"the URL must have 1 to {MAX_LENGTH} characters")
    if any(c <= " " or c in "\\\x7f" or 0xD800 <= ord(c) <= 0xDFFF for c in text):
        raise AddressRefused("the URL holds a space, a control character or a backslash")
    return text


def _host(authority: re.Match[str], policy: Policy) -> tuple[str, Address | None]:
    if authority["v6"] is not None:
        try:
            six = IPv6Address(authority["v6"])
        except AddressValueError:
            raise AddressRefused("not an IPv6 address") from None
        return str(six), six
    try:
        if ends_in_a_number(ascii_name(authority["name"])):
            return _dotted_quad(authority["name"])
        name = canonical(authority["name"])
    except NameRefused as refusal:
        raise AddressRefused(str(refusal)) from None
    _check_name(name, policy)
    return name, None


def _dotted_quad(name: str) -> tuple[str, Address | None]:
    # Resolvers read 127.1, 0x7f.1 and 2130706433 as addresses too: a host that ends in a number is a plain quad.
    if not name.isascii() or not _QUAD.fullmatch(name):
        raise AddressRefused("a numeric host must be a plain dotted quad")
    try:
        four = IPv4Address(name)
    except AddressValueError:
        raise AddressRefused("not an IPv4 address") from None
    return str(four), four


def _check_name(name: str, policy: Policy) -> None:
    if policy.denies(name):
        raise AddressRefused("the host is denied")
    if name in policy.allowed_hosts:
        return
    labels = name.split(".")
    if len(labels) < 2 or labels[-1] in _LOCAL_SUFFIXES:
        raise AddressRefused("not a public host name")


def _check_reach(scheme: str, literal: Address | None, policy: Policy) -> None:
    if literal is not None and (objection := policy.objection(literal)) is not None:
        raise AddressRefused(f"the host is {objection}")
    if scheme == "http":
        exempt = policy.exempts(literal) if literal is not None else bool(policy.allowed_networks)
        if not exempt:
            raise AddressRefused("only https URLs are accepted")


def _port(digits: str | None, scheme: str, policy: Policy) -> int:
    port = _DEFAULT_PORTS[scheme] if digits is None else int(digits)
    permitted = port not in _REFUSED_PORTS if policy.ports is None else port in policy.ports
    if port > 65535 or not permitted:
        raise AddressRefused("the port is not permitted")
    return port


def _target(path: str | None, query: str | None) -> str:
    target = (path or "/") + (query or "")
    if not _TARGET.fullmatch(target):
        raise AddressRefused("path or query hold characters that must be percent-encoded")
    if _ENCODED_CONTROL.search(target):
        raise AddressRefused("path or query hold an encoded control character")
    return target
