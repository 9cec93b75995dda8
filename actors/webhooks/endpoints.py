"""Endpoints and their secrets. A secret leaves this module in clear only when it is new, and to sign."""

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, TypedDict, Unpack, cast
from uuid import UUID

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from actors import outside
from actors.tables import Endpoint, EndpointSecret
from actors.webhooks import headers as custom_headers
from actors.webhooks import health, rate
from actors.webhooks.address import parse
from actors.webhooks.event_types import check_patterns
from actors.webhooks.outcomes import Policy
from actors.webhooks.signing import AsymmetricKey, SigningKey, generate_key_pair, generate_secret, parse_secret

OVERLAP = timedelta(hours=24)
MAX_OVERLAP = timedelta(days=7)
MAX_SECRETS = 5

#: How deliveries are signed: `v1` with a secret that both sides know, `v1a` with a key pair whose private half stays here.
Signature = Literal["v1", "v1a"]


class Given(TypedDict, total=False):
    """What an endpoint's owner says about it, once checked for size. None stands for the default."""

    description: str
    headers: Mapping[str, str]
    metadata: dict[str, str]
    concurrency: int
    rate_per_second: float | None
    fifo: bool
    schedule: list[timedelta] | None
    other_4xx: Policy
    notify: str | None


class Changes(Given, total=False):
    """What changes; what is not named stays. `missed_since` can only be taken back: its owner needs no replay."""

    url: str
    event_types: Sequence[str]
    enabled: bool
    missed_since: None


class TooManySecrets(ValueError):
    """An endpoint that has rotated too often lately. The text says what to do."""


_UNEXPIRED = or_(EndpointSecret.expires_at.is_(None), EndpointSecret.expires_at > func.clock_timestamp())

#: The sealed secrets that sign for an endpoint now, the newest first; a column beside `Endpoint`'s.
VALID_SECRETS = (
    select(func.array_agg(aggregate_order_by(EndpointSecret.sealed, EndpointSecret.id.desc())))
    .where(EndpointSecret.endpoint_id == Endpoint.id)
    .where(_UNEXPIRED)
    .correlate(Endpoint)
    .scalar_subquery()
)


def create_endpoint(
    session: Session, *, url: str, event_types: Sequence[str], signature: Signature = "v1", **given: Unpack[Given]
) -> tuple[Endpoint, str]:
    """A new, enabled endpoint, and what its owner verifies with: a `whsec_` secret, which cannot be read again, or the
    public half of a key pair, `whpk_`.

    Raises AddressRefused, EventTypeRefused, HeaderRefused, or SecretKeyMissing without SECRET_KEY.
    """
    endpoint_id = uuid7()
    wanted = cast(Changes, {"url": url, "event_types": event_types, **given})
    endpoint = Endpoint(id=endpoint_id, **_checked(endpoint_id, wanted))
    session.add(endpoint)
    return endpoint, _add_secret(session, endpoint_id, signature)


def change_endpoint(session: Session, endpoint: Endpoint, **changes: Unpack[Changes]) -> None:
    """Change what is given, by the rules of `create_endpoint`. Nothing is changed if one of them is refused.

    Limits and order count for what is enqueued from now on; all else from the next attempt on.
    """
    checked = _checked(endpoint.id, changes)
    moved = checked.get("url", endpoint.url) != endpoint.url
    paced = checked.get("rate_per_second", endpoint.rate_per_second) != endpoint.rate_per_second
    for column, value in checked.items():
        setattr(endpoint, column, value)
    if changes.get("enabled") is True:
        enable(endpoint)
    elif changes.get("enabled") is False:
        disable(endpoint, reason="disabled by its owner")
    if "missed_since" in changes:
        endpoint.missed_since = None
    if moved or "enabled" in changes:
        health.forget(session, endpoint.id)
    if moved or paced or "enabled" in changes:
        rate.begin_anew(session, endpoint.id)
    endpoint.updated_at = func.clock_timestamp()


def enable(endpoint: Endpoint) -> None:
    """Deliver to it again. Since when it missed something stays known: the earlier of the two times."""
    known = [at for at in (endpoint.missed_since, endpoint.disabled_at) if at is not None]
    endpoint.missed_since = min(known, default=None)
    endpoint.enabled, endpoint.disabled_at, endpoint.disabled_reason = True, None, None


def disable(endpoint: Endpoint, *, reason: str) -> None:
    """Deliver nothing more to it. The first reason stays."""
    if endpoint.enabled:
        endpoint.enabled, endpoint.disabled_at, endpoint.disabled_reason = False, func.clock_timestamp(), reason


def disable_by_id(session: Session, endpoint_id: UUID, *, url: str, reason: str) -> Endpoint | None:
    """As `disable`. None if somebody else did it before, or it is not at this URL any more."""
    now = func.clock_timestamp()
    disabled = (
        update(Endpoint)
        .where(Endpoint.id == endpoint_id)
        .where(Endpoint.enabled, Endpoint.url == url, Endpoint.deleted_at.is_(None))
        .values(enabled=False, disabled_at=now, disabled_reason=reason, updated_at=now)
        .returning(Endpoint)
    )
    return session.scalars(disabled, execution_options={"synchronize_session": False}).one_or_none()


def delete_endpoint(session: Session, endpoint: Endpoint) -> None:
    """Deliver nothing more to it, and keep no secret of it. Its log is forgotten page by page: `forget_endpoint`."""
    disable(endpoint, reason="deleted")
    endpoint.deleted_at = func.clock_timestamp()
    endpoint.headers, endpoint.sealed_headers = {}, None
    secrets = delete(EndpointSecret).where(EndpointSecret.endpoint_id == endpoint.id)
    session.execute(secrets, execution_options={"synchronize_session": False})
    health.forget(session, endpoint.id)


def lock(session: Session, endpoint_id: UUID) -> None:
    """Nobody else changes it until the transaction ends; events go on being delivered to it."""
    session.execute(select(Endpoint.id).where(Endpoint.id == endpoint_id).with_for_update(key_share=True))


def rotate_secret(
    session: Session, endpoint: Endpoint, *, overlap: timedelta = OVERLAP, signature: Signature | None = None
) -> str:
    """A new secret, or key pair: as the newest one is, unless `signature` says it. For the time of `overlap` (at most
    seven days) the ones before sign too.

    The endpoint is locked. Raises TooManySecrets: more than five would sign each delivery.
    """
    if not timedelta() <= overlap <= MAX_OVERLAP:
        raise ValueError("the overlap lies between nothing and seven days")
    newest = next(iter(valid_secrets(session, [endpoint.id]).get(endpoint.id, [])), None)
    pair = newest is not None and newest.public_key is not None
    _expire_secrets(session, endpoint.id, overlap=overlap)
    valid = len(valid_secrets(session, [endpoint.id]).get(endpoint.id, []))
    if valid >= MAX_SECRETS:
        raise TooManySecrets(
            f"{valid} secrets of this endpoint are valid: wait until one expires, or rotate with an overlap of 0"
        )
    return _add_secret(session, endpoint.id, signature or ("v1a" if pair else "v1"))


def valid_secrets(session: Session, endpoint_ids: Sequence[UUID]) -> dict[UUID, list[EndpointSecret]]:
    """What signs for each of these endpoints now, the newest first."""
    found: dict[UUID, list[EndpointSecret]] = {}
    valid = select(EndpointSecret).where(EndpointSecret.endpoint_id.in_(endpoint_ids)).where(_UNEXPIRED)
    for secret in session.scalars(valid.order_by(EndpointSecret.id.desc()).execution_options(populate_existing=True)):
        found.setdefault(secret.endpoint_id, []).append(secret)
    return found


def headers_of(endpoint_id: UUID, headers: dict[str, str], sealed: bytes | None) -> dict[str, str]:
    """The headers that go along: opened, or those that were stored before they were sealed."""
    if sealed is None:
        return headers
    opened: dict[str, str] = json.loads(outside.vault().open(sealed, owner=_owner_of_headers(endpoint_id)))
    return opened


def signing_keys(endpoint_id: UUID, sealed: Sequence[bytes]) -> list[SigningKey]:
    """The keys in sealed secrets of an endpoint."""
    vault = outside.vault()
    return [parse_secret(vault.open(each, owner=_owner(endpoint_id))) for each in sealed]


def _checked(endpoint_id: UUID, given: Changes) -> dict[str, Any]:
    """The columns and their values; nothing has been changed if one is refused."""
    plain = ("description", "concurrency", "rate_per_second", "fifo", "schedule", "other_4xx", "notify")
    columns: dict[str, Any] = {name: value for name, value in given.items() if name in plain}
    if "url" in given:
        columns["url"] = str(parse(given["url"], policy=outside.policy()))
    if "event_types" in given:
        columns["event_types"] = check_patterns(given["event_types"])
    if "headers" in given:
        columns |= _sealed(endpoint_id, custom_headers.check(given["headers"]))
    if "metadata" in given:
        columns["notes"] = given["metadata"]
    return columns


def _sealed(endpoint_id: UUID, headers: dict[str, str]) -> dict[str, Any]:
    """Their names stay readable; what they hold may be a password."""
    sealed = outside.vault().seal(json.dumps(headers), owner=_owner_of_headers(endpoint_id)) if headers else None
    return {"headers": dict.fromkeys(headers, ""), "sealed_headers": sealed}


def _expire_secrets(session: Session, endpoint_id: UUID, *, overlap: timedelta) -> None:
    """None that signs now does so for longer than `overlap`; those that expired before are removed."""
    of_it, until = EndpointSecret.endpoint_id == endpoint_id, func.clock_timestamp() + overlap
    quietly = {"synchronize_session": False}
    session.flush()
    session.execute(delete(EndpointSecret).where(of_it, ~_UNEXPIRED), execution_options=quietly)
    ends = func.least(EndpointSecret.expires_at, until)  # the sooner; of one without an end, that
    session.execute(update(EndpointSecret).where(of_it).values(expires_at=ends), execution_options=quietly)


def _add_secret(session: Session, endpoint_id: UUID, signature: Signature) -> str:
    """A new one, and what its owner verifies with."""
    secret = generate_key_pair() if signature == "v1a" else generate_secret()
    key = parse_secret(secret)
    public = key.public if isinstance(key, AsymmetricKey) else None
    sealed = outside.vault().seal(secret, owner=_owner(endpoint_id))
    session.add(EndpointSecret(id=uuid7(), endpoint_id=endpoint_id, sealed=sealed, public_key=public))
    return public or secret


def _owner(endpoint_id: UUID) -> str:
    return f"endpoint {endpoint_id}"


def _owner_of_headers(endpoint_id: UUID) -> str:
    return f"headers of endpoint {endpoint_id}"
