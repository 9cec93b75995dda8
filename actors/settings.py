"""Settings of what leaves the house: read once, when the first mail or webhook needs them."""

from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from actors.hostnames import canonical

__all__ = ["Settings"]


def _listed(value: Any) -> Any:
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


def _networks(value: Any) -> Any:
    return tuple(ip_network(item) if isinstance(item, str) else item for item in _listed(value))


def _names(value: Any) -> Any:
    return frozenset(canonical(item) if isinstance(item, str) else item for item in _listed(value))


def _ports(value: Any) -> Any:
    return _listed(value) or None


def _seconds(value: Any) -> Any:
    return timedelta(seconds=float(value)) if isinstance(value, str) else value


Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(_networks)]
Names = Annotated[frozenset[str], NoDecode, BeforeValidator(_names)]
Ports = Annotated[frozenset[Annotated[int, Field(ge=1, le=65535)]] | None, NoDecode, BeforeValidator(_ports)]
Duration = Annotated[timedelta, BeforeValidator(_seconds)]


class Settings(BaseSettings):
    """Everything that can be set. Durations are seconds in the environment, `timedelta` in the code; empty is not set."""

    model_config = SettingsConfigDict(extra="ignore", populate_by_name=True, env_ignore_empty=True)

    smtp_url: SecretStr = Field(
        default=SecretStr("smtp://localhost:25"),
        validation_alias="SMTP_URL",
        description="smtp://, smtp+starttls:// or smtps://, with user and password",
    )
    mail_from: str = Field(
        default="noreply@example.com",
        validation_alias="MAIL_FROM",
        description="sender of every mail: an address, or a name and <an address>",
    )
    mail_return_path: str | None = Field(
        default=None,
        validation_alias="MAIL_RETURN_PATH",
        description="address that bounces go to: bounces@example.com becomes bounces+<a mail's token>@example.com",
    )
    public_url: str | None = Field(
        default=None,
        validation_alias="PUBLIC_URL",
        description="where the world reaches this API; links to unsubscribe begin with it",
    )
    dkim_key_file: str | None = Field(
        default=None,
        validation_alias="DKIM_KEY_FILE",
        description="RSA key in PEM; with it every mail is signed (DKIM)",
    )
    dkim_selector: str = Field(
        default="mail", validation_alias="DKIM_SELECTOR", description="name of the key below _domainkey in the DNS"
    )
    dkim_domain: str | None = Field(
        default=None, validation_alias="DKIM_DOMAIN", description="domain that signs; that of MAIL_FROM, if unset"
    )
    mail_uncertain_wait: Duration = Field(
        default=timedelta(minutes=15),
        ge=timedelta(0),
        validation_alias="MAIL_UNCERTAIN_WAIT",
        description="seconds until a mail that may have arrived is sent a second and last time",
    )
    mail_domain_limits: str = Field(
        default="",
        validation_alias="MAIL_DOMAIN_LIMITS",
        description="domains that take only so many mails, such as gmail.com=20/s:10 (rate and mails at once)",
    )
    secret_key: SecretStr | None = Field(
        default=None,
        validation_alias="SECRET_KEY",
        description="encrypts secrets at rest: at least 32 random characters, the same for every process",
    )
    webhook_allowed_networks: Networks = Field(
        default=(),
        validation_alias="WEBHOOK_ALLOWED_NETWORKS",
        description="CIDRs that are private and yet allowed, also over plain http",
    )
    webhook_denied_networks: Networks = Field(
        default=(),
        validation_alias="WEBHOOK_DENIED_NETWORKS",
        description="CIDRs that are public and yet forbidden",
    )
    webhook_allowed_hosts: Names = Field(
        default=frozenset(),
        validation_alias="WEBHOOK_ALLOWED_HOSTS",
        description="local names that endpoints may have; their addresses are vetted like all others",
    )
    webhook_denied_hosts: Names = Field(
        default=frozenset(),
        validation_alias="WEBHOOK_DENIED_HOSTS",
        description="names that no endpoint may have, with all names below them",
    )
    webhook_ports: Ports = Field(
        default=None,
        validation_alias="WEBHOOK_PORTS",
        description="the only ports that endpoints may have, such as 443,8443; else all but those of other protocols",
    )
    webhook_deadline: Duration = Field(
        default=timedelta(seconds=15),
        gt=timedelta(0),
        le=timedelta(seconds=60),
        validation_alias="WEBHOOK_DEADLINE",
        description="the longest that one attempt may take, from name lookup to the end of the answer",
    )
    operator_mail: str | None = Field(
        default=None,
        validation_alias="OPERATOR_MAIL",
        description="who is told of endpoints that were disabled, where the endpoint itself names nobody",
    )
    mail_days: int = Field(
        default=30, ge=1, validation_alias="MAIL_DAYS", description="days that mails are kept once their tasks ended"
    )
    webhook_days: int = Field(
        default=30,
        ge=1,
        validation_alias="WEBHOOK_DAYS",
        description="days that deliveries and their bodies are kept once their tasks ended; nothing older is replayed",
    )
    receipt_days: int = Field(
        default=365, ge=1, validation_alias="RECEIPT_DAYS", description="days that rendered receipts are kept"
    )
