"""The doors to the world outside, built from the settings when they are first used, and once a process."""

from collections.abc import Mapping
from email.utils import parseaddr
from functools import cache
from urllib.parse import urlsplit

from actors.mail.address import Address, AddressRefused, parse
from actors.mail.dkim import Signer
from actors.mail.dkim import signer as signer_of
from actors.mail.message import Mailbox
from actors.mail.return_path import MOST_LOCAL
from actors.mail.server import parse as parse_server
from actors.mail.smtp import Transport
from actors.mail.throttle import DomainLimit
from actors.mail.throttle import parse as parse_limits
from actors.secrets import Vault
from actors.settings import Settings
from actors.webhooks.delivery import Courier
from actors.webhooks.guard import Policy

__all__ = [
    "courier", "domain_limits", "forget", "policy", "public_url", "return_path", "sender", "settings", "signer", "transport", "vault",
]  # fmt: skip


@cache
def settings() -> Settings:
    return Settings()


@cache
def sender() -> Mailbox:
    """Who our mails are from."""
    name, address = parseaddr(settings().mail_from)
    try:
        return Mailbox(parse(address), name)
    except AddressRefused as refusal:
        raise ValueError(f"MAIL_FROM: {refusal}") from None


@cache
def transport() -> Transport:
    """The SMTP server that takes our mail. It connects when it sends."""
    return Transport(parse_server(settings().smtp_url.get_secret_value()), helo=sender().address.domain)


@cache
def signer() -> Signer | None:
    """Who signs our mails (DKIM); None where nobody does."""
    given = settings()
    if given.dkim_key_file is None:
        return None
    domain = given.dkim_domain or sender().address.domain
    return signer_of(given.dkim_key_file, selector=given.dkim_selector, domain=domain)


@cache
def return_path() -> Address | None:
    """Where bounces go, before it names a mail; None: to the sender."""
    if settings().mail_return_path is None:
        return None
    try:
        address = parse(settings().mail_return_path or "")
    except AddressRefused as refusal:
        raise ValueError(f"MAIL_RETURN_PATH: {refusal}") from None
    if address.international or len(address.local) > MOST_LOCAL:
        raise ValueError(f"MAIL_RETURN_PATH: at most {MOST_LOCAL} ASCII characters before the @")
    return address


@cache
def public_url() -> str | None:
    """Where the world reaches the API, without a slash at the end."""
    url = settings().public_url
    if url is None:
        return None
    parts = urlsplit(url)
    plain = url.isascii() and url.isprintable() and not set(url) & set(' <>"')
    if not plain or parts.scheme not in ("https", "http") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("PUBLIC_URL must be an https URL such as https://api.example.com")
    return url.rstrip("/")


@cache
def domain_limits() -> Mapping[str, DomainLimit]:
    """Which domains take only so many mails."""
    return parse_limits(settings().mail_domain_limits)


@cache
def vault() -> Vault:
    key = settings().secret_key
    return Vault(key.get_secret_value() if key else None)


@cache
def policy() -> Policy:
    """Where webhooks may go."""
    return Policy(
        allowed_networks=settings().webhook_allowed_networks,
        allowed_hosts=settings().webhook_allowed_hosts,
        denied_networks=settings().webhook_denied_networks,
        denied_hosts=settings().webhook_denied_hosts,
        ports=settings().webhook_ports,
    )


@cache
def courier() -> Courier:
    return Courier(policy=policy(), deadline=settings().webhook_deadline)


def forget() -> None:
    """Read the settings again at the next use. For tests."""
    for door in (settings, sender, transport, domain_limits, signer, return_path, public_url, vault, policy, courier):
        door.cache_clear()
