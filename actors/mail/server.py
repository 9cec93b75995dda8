"""Which SMTP server takes our mail, and how it is spoken to."""

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from urllib.parse import SplitResult, unquote, urlsplit


class ServerRefused(ValueError):
    """SMTP_URL cannot be used. The text never contains the password."""


class Security(StrEnum):
    PLAIN = "smtp"
    STARTTLS = "smtp+starttls"
    TLS = "smtps"


_DEFAULT_PORTS = {Security.PLAIN: 25, Security.STARTTLS: 587, Security.TLS: 465}


@dataclass(frozen=True, slots=True)
class Server:
    """`STARTTLS` means required: there is no mode that falls back to clear text."""

    security: Security
    host: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """As operators know it: no user, no password."""
        return f"{self.security}://{self.host}:{self.port}"


def parse(url: str) -> Server:
    """The server of `smtp://`, `smtp+starttls://` or `smtps://[user:password@]host[:port]`, or ServerRefused."""
    try:
        parts = urlsplit(url)
        security = Security(parts.scheme)
        port = parts.port or _DEFAULT_PORTS[security]
    except ValueError:
        raise ServerRefused(
            "SMTP_URL must be smtp://, smtp+starttls:// or smtps://, a host and perhaps a port"
        ) from None
    if not parts.hostname or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ServerRefused("SMTP_URL must name a host, and nothing after it but a port")
    user, password = _credentials(parts)
    if user is not None and security is Security.PLAIN and not _is_loopback(parts.hostname):
        raise ServerRefused("SMTP_URL would send the password in clear text: use smtp+starttls:// or smtps://")
    return Server(security, parts.hostname, port, user, password)


def _credentials(parts: SplitResult) -> tuple[str | None, str | None]:
    if not parts.username:
        return None, None
    user, password = unquote(parts.username), unquote(parts.password or "")
    if not (user + password).isascii() or not (user + password).isprintable():
        raise ServerRefused("user and password of SMTP_URL must be printable ASCII")
    return user, password


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
