"""An e-mail address, validated once and strictly.

SMTP clients parse addresses again and each in its own way: `a@x.com,b@y.com` reaches only the first, and
`b@x> NOTIFY=NEVER` becomes a command parameter. So what is accepted here is a plain mailbox and nothing else,
and what goes over the wire is built from the value that comes out.
"""

from dataclasses import dataclass

from email_validator import EmailNotValidError, validate_email

MAX_LENGTH = 254


class AddressRefused(ValueError):
    """Not an address that mail is sent to. The text says why, and never repeats the input."""


@dataclass(frozen=True, slots=True)
class Address:
    """A mailbox: `local` as given (NFC), `domain` in lower case as A-labels."""

    local: str
    domain: str

    @property
    def international(self) -> bool:
        """True if the relay must speak SMTPUTF8 to take this address."""
        return not self.local.isascii()

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}"


def parse(text: str) -> Address:
    """The address in `text`, or AddressRefused. No display name, comment, quoting, literal, list or white space."""
    if not text.isprintable() or any(c in ' "(),:;<>[\\]' for c in text):
        raise AddressRefused("the address holds a character that has no place in a plain address")
    if text.startswith("-"):
        raise AddressRefused("the address starts with '-'")
    try:
        valid = validate_email(text, strict=True, check_deliverability=False, allow_quoted_local=False)
    except EmailNotValidError as refusal:
        raise AddressRefused(_without_input(refusal)) from None
    address = Address(valid.local_part, valid.ascii_domain.lower())
    if len(str(address).encode()) > MAX_LENGTH:
        raise AddressRefused(f"the address is longer than {MAX_LENGTH} octets")
    return address


def _without_input(refusal: EmailNotValidError) -> str:
    # Some of its messages quote the offending characters or domain: those get a plain text instead.
    text = str(refusal)
    plain = text.isascii() and "'" not in text and '"' not in text and ":" not in text
    return text if plain else "the address is not valid"
