"""Names of hosts, in one spelling."""

import re

import idna

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


class NameRefused(ValueError):
    """Not a host name. The text says why, and never repeats the input."""


def canonical(name: str) -> str:
    """The name as lower-case A-labels without trailing dot, or NameRefused. What resolvers read as an address is no name."""
    name = ascii_name(name)
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise NameRefused("not a valid host name")
    if ends_in_a_number(name):
        raise NameRefused("an address, not a host name")
    return name


def ascii_name(name: str) -> str:
    """UTS 46 maps what users type, IDNA 2008 decides what a label may hold; ASCII is not looked at further."""
    try:
        if not name.isascii():
            name = idna.encode(name, uts46=True, std3_rules=True).decode("ascii")
        name = name.lower().removesuffix(".")
        for label in name.split("."):
            if label.startswith("xn--"):
                idna.ulabel(label)
    except UnicodeError:
        raise NameRefused("not a valid international domain name") from None
    return name


def ends_in_a_number(name: str) -> bool:
    """True for what resolvers may take for an IPv4 address: 127.1, 0x7f.1, 2130706433."""
    return _NUMBER.fullmatch(name.rpartition(".")[2]) is not None
