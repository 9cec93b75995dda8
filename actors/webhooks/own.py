"""Which addresses are this machine's own: services that trust their own host listen there."""

import errno
import socket
from ipaddress import IPv4Address, IPv6Address

_FOREIGN = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
# Class E and the discard prefix (RFC 6666): no machine has these.
_NOBODYS: dict[int, IPv4Address | IPv6Address] = {4: IPv4Address("240.0.0.1"), 6: IPv6Address("100::1")}


def is_own(address: IPv4Address | IPv6Address) -> bool:
    """True if this machine answers at `address`: a socket can be bound to it. Nothing is sent.

    Too many: with kube-proxy in IPVS mode, and with routes of type `local` (AnyIP), the addresses of services count as
    the host's own: an allow-list exempts them. Interception by TPROXY changes nothing, its routes are not in the local table.
    Too few: where `ip_nonlocal_bind` lets every process bind anything, binding tells nothing and no address is own;
    and the public address of a machine behind NAT is not known to it. Denied networks must then name them.
    """
    return _binds(address) and not _binds(_NOBODYS[address.version])


def _binds(address: IPv4Address | IPv6Address) -> bool:
    try:
        with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind((str(address), 0))
    except OSError as error:
        return error.errno not in _FOREIGN
    return True
