"""The doors to the world outside, built from the settings when they are first used, and once a process."""

from email.utils import parseaddr
from functools import cache

from actors.mail.address import AddressRefused, parse
from actors.mail.message import Mailbox
from actors.mail.server import parse as parse_server
from actors.mail.smtp import Transport
from actors.secrets import Vault
from actors.settings import Settings
from actors.webhooks.delivery import Courier
from actors.webhooks.guard import Policy

__all__ = ["courier", "forget", "policy", "sender", "settings", "transport", "vault"]


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
    )


@cache
def courier() -> Courier:
    return Courier(policy=policy(), deadline=settings().webhook_deadline)


def forget() -> None:
    """Read the settings again at the next use. For tests."""
    for door in (settings, sender, transport, vault, policy, courier):
        door.cache_clear()
