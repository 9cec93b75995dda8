"""The IPv4 addresses inside IPv6 addresses: who may not reach the one may not reach the other."""

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network

_LOW = 2**32 - 1


def _bits(first: int) -> Callable[[int], int]:
    """Reads the 32 bits that start at bit `first`, counted from the left."""
    return lambda number: number >> (96 - first) & _LOW


def _around_the_u_octet(before: int) -> Callable[[int], int]:
    """Reads 32 bits, `before` of them left of bits 64 to 71, which RFC 6052 keeps zero, and the others right of them."""
    after = 32 - before
    return lambda number: (number >> 64 & (2**before - 1)) << after | (number >> (56 - after) & (2**after - 1))


_LAST = _bits(96)
# Prefix by prefix, each place where a translator or a tunnel reads an IPv4 address.
_FORMATS: tuple[tuple[IPv6Network, tuple[Callable[[int], int], ...]], ...] = (
    (IPv6Network("::/96"), (_LAST,)),  # v4-compatible
    (IPv6Network("::ffff:0:0/96"), (_LAST,)),  # mapped: the kernel itself connects to the IPv4 address
    (IPv6Network("::ffff:0:0:0/96"), (_LAST,)),  # SIIT
    (IPv6Network("64:ff9b::/96"), (_LAST,)),  # NAT64
    # NAT64 by the operator's choice (RFC 8215), with a prefix of 96, 64, 56 or 48 bits
    (IPv6Network("64:ff9b:1::/48"), (_LAST, _around_the_u_octet(0), _around_the_u_octet(8), _around_the_u_octet(16))),
    (IPv6Network("2002::/16"), (_bits(16),)),  # 6to4
    (IPv6Network("2001::/32"), (_bits(32),)),  # Teredo's server
    (IPv6Network("2001::/32"), (lambda number: ~number & _LOW,)),  # Teredo's client
)
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})
_NOT_CARRIERS = frozenset({IPv6Address("::"), IPv6Address("::1")})


def carried(address: IPv4Address | IPv6Address) -> tuple[IPv4Address, ...]:
    """Every IPv4 address that `address` can be taken for, by any of the transition formats; none for most.

    What a network made up itself (NAT64 under its own prefix, 6rd) cannot be seen in the address.
    """
    if isinstance(address, IPv4Address) or address in _NOT_CARRIERS:
        return ()
    return tuple(dict.fromkeys(_read(address)))


def _read(address: IPv6Address) -> Iterator[IPv4Address]:
    number = int(address)
    for network, places in _FORMATS:
        if address in network:
            found = [place(number) for place in places]
            # One place of several holds the address; 0.0.0.0/8 is what the others read from zeros.
            yield from (IPv4Address(four) for four in found if len(places) == 1 or four >> 24)
    if number >> 32 & _LOW in _ISATAP:
        yield IPv4Address(number & _LOW)
