"""Endpoints and their secrets. A secret leaves this module in clear only when it is new, and to sign."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import func, or_, select, update
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from actors import outside
from actors.tables import Endpoint, EndpointSecret
from actors.webhooks import headers as custom_headers
from actors.webhooks.address import parse
from actors.webhooks.event_types import check_patterns
from actors.webhooks.signing import SigningKey, generate_secret, parse_secret

OVERLAP = timedelta(hours=24)
MAX_OVERLAP = timedelta(days=7)

#: The sealed secrets that sign for an endpoint now, the newest first; a column beside `Endpoint`'s.
VALID_SECRETS = (
    select(func.array_agg(aggregate_order_by(EndpointSecret.sealed, EndpointSecret.id.desc())))
    .where(EndpointSecret.endpoint_id == Endpoint.id)
    .where(or_(EndpointSecret.expires_at.is_(None), EndpointSecret.expires_at > func.clock_timestamp()))
    .correlate(Endpoint)
    .scalar_subquery()
)


def create_endpoint(
    session: Session,
    *,
    url: str,
    event_types: Sequence[str],
    description: str = "",
    headers: Mapping[str, str] | None = None,
) -> tuple[Endpoint, str]:
    """A new, enabled endpoint and its secret, which cannot be read again.

    Raises AddressRefused, EventTypeRefused, HeaderRefused, or SecretKeyMissing without SECRET_KEY.
    """
    endpoint = Endpoint(
        id=uuid7(),
        url=str(parse(url, policy=outside.policy())),
        event_types=check_patterns(event_types),
        description=description,
        headers=custom_headers.check(headers or {}),
        secrets=[],
    )
    session.add(endpoint)
    return endpoint, _add_secret(endpoint)


def change_endpoint(
    endpoint: Endpoint,
    *,
    url: str | None = None,
    event_types: Sequence[str] | None = None,
    description: str | None = None,
    headers: Mapping[str, str] | None = None,
    enabled: bool | None = None,
) -> None:
    """Change what is given, by the rules of `create_endpoint`. Nothing is changed if one of them is refused."""
    new_url = None if url is None else str(parse(url, policy=outside.policy()))
    new_types = None if event_types is None else check_patterns(event_types)
    new_headers = None if headers is None else custom_headers.check(headers)
    endpoint.url = new_url or endpoint.url
    endpoint.event_types = new_types or endpoint.event_types
    endpoint.headers = endpoint.headers if new_headers is None else new_headers
    endpoint.description = endpoint.description if description is None else description
    if enabled is True:
        enable(endpoint)
    elif enabled is False:
        disable(endpoint, reason="disabled by its owner")
    endpoint.updated_at = func.clock_timestamp()


def enable(endpoint: Endpoint) -> None:
    endpoint.enabled, endpoint.disabled_at, endpoint.disabled_reason = True, None, None


def disable(endpoint: Endpoint, *, reason: str) -> None:
    """Deliver nothing more to it. The first reason stays."""
    if endpoint.enabled:
        endpoint.enabled, endpoint.disabled_at, endpoint.disabled_reason = False, func.clock_timestamp(), reason


def disable_gone(session: Session, endpoint_id: UUID, *, reason: str) -> None:
    """As `disable`, by id. Call it before the delivery's row is changed: that is the order in which a deletion locks."""
    now = func.clock_timestamp()
    disabled = update(Endpoint).where(Endpoint.id == endpoint_id).where(Endpoint.enabled)
    session.execute(
        disabled.values(enabled=False, disabled_at=now, disabled_reason=reason, updated_at=now),
        execution_options={"synchronize_session": False},
    )


def rotate_secret(session: Session, endpoint: Endpoint, *, overlap: timedelta = OVERLAP) -> str:
    """A new secret. For the time of `overlap` (at most seven days) the ones before sign too."""
    if not timedelta() <= overlap <= MAX_OVERLAP:
        raise ValueError("the overlap lies between nothing and seven days")
    until = datetime.now(UTC) + overlap
    for secret in list(endpoint.secrets):
        if secret.expires_at is not None and secret.expires_at <= datetime.now(UTC):
            session.delete(secret)
        elif secret.expires_at is None or secret.expires_at > until:
            secret.expires_at = until
    return _add_secret(endpoint)


def signing_keys(endpoint_id: UUID, sealed: Sequence[bytes]) -> list[SigningKey]:
    """The keys in sealed secrets of an endpoint."""
    vault = outside.vault()
    return [parse_secret(vault.open(each, owner=_owner(endpoint_id))) for each in sealed]


def _add_secret(endpoint: Endpoint) -> str:
    secret = generate_secret()
    sealed = outside.vault().seal(secret, owner=_owner(endpoint.id))
    endpoint.secrets.append(EndpointSecret(id=uuid7(), sealed=sealed))
    return secret


def _owner(endpoint_id: UUID) -> str:
    return f"endpoint {endpoint_id}"
