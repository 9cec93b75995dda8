"""The addresses that a webhook may never reach (SSRF), and the exceptions an operator can make.

Default-deny: an address passes only when it is plainly public. The ranges follow the IANA special-purpose
registries. Of IPv6 nothing passes but global unicast, and whatever IPv4 address a transition format carries
(mapped, SIIT, NAT64, 6to4, Teredo, ISATAP) must pass too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from actors.hostnames import canonical
from actors.webhooks.carriers import carried
from actors.webhooks.own import is_own

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_DENIED_V4 = tuple(
    IPv4Network(cidr)
    for cidr in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "168.63.129.16/32",  # Azure's WireServer: a public address that only the host itself answers
    )
)
_GLOBAL_V6 = IPv6Network("2000::/3")
_DENIED_V6 = tuple(
    IPv6Network(cidr) for cidr in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)
# Hosts on DNS64 networks see public IPv4 servers here.
_NAT64 = IPv6Network("64:ff9b::/96")

# Each address of a name may take its share of the deadline: a name with a thousand would leave none enough.
MAX_ADDRESSES = 8

# Instance metadata and link-local: no allow-list opens them.
_NEVER = tuple(
    ip_network(cidr)
    for cidr in (
        "0.0.0.0/8",
        "169.254.0.0/16",
        "168.63.129.16/32",
        "100.100.100.200/32",
        "192.0.0.192/32",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "::/128",
        "fe80::/10",
        "ff00::/8",
        "fd00:ec2::/32",
        "fd20:ce::/32",
    )
)


class AddressRefused(ValueError):
    """A URL or an address that no webhook may go to. The text says why, and never repeats the input."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator permits beyond the public Internet, and what of it is forbidden.

    `allowed_networks`: private and yet allowed, also for plain http. `allowed_hosts`: names that may be local or
    single-label (their addresses are vetted like all others). `denied_networks` and `denied_hosts` (with all names
    below them): public and yet forbidden; they win. `ports`: these alone, or None: all but those of other protocols.
    Names are kept in canonical spelling; one that is none raises NameRefused.
    """

    allowed_networks: tuple[Network, ...] = ()
    allowed_hosts: frozenset[str] = frozenset()
    denied_networks: tuple[Network, ...] = ()
    denied_hosts: frozenset[str] = frozenset()
    ports: frozenset[int] | None = None
    is_own: Callable[[Address], bool] = is_own

    def __post_init__(self) -> None:
        for field in ("allowed_hosts", "denied_hosts"):
            object.__setattr__(self, field, frozenset(canonical(name) for name in getattr(self, field)))

    def objection(self, address: Address) -> str | None:
        """Why a connection to `address` is forbidden, or None if it is permitted."""
        if getattr(address, "scope_id", None):
            return "an address with a scope id"
        meant = (address, *carried(address))
        if any(self._closed(each) for each in meant):
            return "a denied address"
        if self.exempts(address):
            return None
        if any(_is_private(each) for each in meant):
            return "a private or reserved address"
        return "an address of this machine" if any(self.is_own(each) for each in meant) else None

    def exempts(self, address: Address) -> bool:
        """True for a private address that the operator has allowed, together with each private one that it carries."""
        inside = carried(address)
        return (
            _within(address, self.allowed_networks)
            and not any(self._closed(each) for each in (address, *inside))
            and all(_within(each, self.allowed_networks) for each in inside if _is_private(each))
        )

    def denies(self, host: str) -> bool:
        """True for a denied name, and for every name below it. `host` in canonical spelling."""
        labels = host.split(".")
        return any(".".join(labels[start:]) in self.denied_hosts for start in range(len(labels)))

    def _closed(self, address: Address) -> bool:
        return _within(address, _NEVER) or _within(address, self.denied_networks)

    def vet(self, answers: Sequence[str], *, plain: bool) -> tuple[Address, ...]:
        """The first eight of a resolver's answers, or AddressRefused if a single one of all is forbidden.

        `plain`: the connection will not be encrypted, which only the operator's own networks may see.
        """
        addresses = tuple(dict.fromkeys(_parsed(answer) for answer in answers))
        if not addresses:
            raise AddressRefused("the name has no address")
        for address in addresses:
            objection = self.objection(address)
            if objection is None and plain and not self.exempts(address):
                objection = "an address that plain http may not reach"
            if objection is not None:
                raise AddressRefused(f"the name resolves to {objection}")
        return addresses[:MAX_ADDRESSES]


def _parsed(answer: str) -> Address:
    try:
        return ip_address(answer)
    except ValueError:
        raise AddressRefused("the resolver answered with something that is no address") from None


def _is_private(address: Address) -> bool:
    """True for all that is not plainly public."""
    if isinstance(address, IPv4Address):
        return _within(address, _DENIED_V4)
    return address not in _NAT64 and (address not in _GLOBAL_V6 or _within(address, _DENIED_V6))


def _within(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks)
