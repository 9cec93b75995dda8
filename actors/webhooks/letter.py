"""A delivery as it is before its endpoint is spoken to: read in one statement, with no transaction left open."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import bindparam, case, false, func, select

from actors import outside
from actors.database import transaction
from actors.tables import Delivery, Endpoint, EndpointHealth, Payload
from actors.webhooks import endpoints, health, schedule
from actors.webhooks.address import WebhookURL, parse
from actors.webhooks.guard import AddressRefused
from actors.webhooks.outcomes import Policy
from actors.webhooks.record import close
from actors.webhooks.signing import sign
from outbox import Permanent


class Letter(NamedTuple):
    """What is to be posted, to whom, and by which rules.

    `slot`, `probe`: how far away they were by the database's clock, if it has a slot, and if the circuit is open.
    `troubled`: the last attempt at this endpoint failed. `ailing`: it has done so for longer than our patience.
    """

    delivery_id: UUID
    webhook_id: UUID
    body: bytes
    endpoint_id: UUID
    url: WebhookURL
    headers: dict[str, str]
    sealed: Sequence[bytes]
    schedule: Sequence[timedelta]
    other_4xx: Policy
    rate_per_second: float | None
    slot: timedelta | None
    probe: timedelta | None
    troubled: bool
    ailing: bool

    def signed(self, *, at: datetime) -> dict[str, str]:
        """Its headers for an attempt at this instant."""
        keys = endpoints.signing_keys(self.endpoint_id, self.sealed)
        return {**self.headers, **sign(keys, webhook_id=str(self.webhook_id), at=at, body=self.body)}


_NOW = func.clock_timestamp()
_COLUMNS = (
    (Delivery.status == "delivered").label("delivered"),
    func.coalesce(Delivery.webhook_id, Delivery.id).label("webhook_id"),
    Payload.body,
    Endpoint.id.label("endpoint_id"),
    Endpoint.url,
    Endpoint.headers,
    Endpoint.sealed_headers,
    Endpoint.enabled,
    Endpoint.disabled_reason,
    Endpoint.deleted_at,
    Endpoint.schedule,
    Endpoint.other_4xx,
    Endpoint.rate_per_second,
    endpoints.VALID_SECRETS.label("sealed"),
    case((Delivery.slot_at < EndpointHealth.next_at, Delivery.slot_at - _NOW)).label("slot"),  # else its pace changed
    (EndpointHealth.probe_at - _NOW).label("probe"),
    (func.coalesce(EndpointHealth.failures, 0) > 0).label("troubled"),
    func.coalesce(EndpointHealth.failing_since <= _NOW - health.PATIENCE, false()).label("ailing"),
)
_WHOLE = (
    select(*_COLUMNS)
    .select_from(Delivery)
    .join(Delivery.payload)
    .join(Delivery.endpoint)
    .outerjoin(EndpointHealth, EndpointHealth.endpoint_id == Endpoint.id)
    .where(Delivery.id == bindparam("delivery_id"))
)


def opened(delivery_id: UUID) -> Letter | None:
    """What is to be posted, or None if it was delivered already. Raises Permanent for what never will be."""
    with transaction() as session:
        row = session.execute(_WHOLE, {"delivery_id": delivery_id}).one_or_none()
    if row is None or row.deleted_at is not None:
        raise Permanent("the endpoint was deleted, and its deliveries with it")
    if row.delivered:
        return None
    if not row.enabled:
        raise _closed(delivery_id, "missed", f"the endpoint is disabled: {row.disabled_reason}")
    try:
        url = parse(row.url, policy=outside.policy())
    except AddressRefused as refusal:
        raise _closed(delivery_id, "failed", f"the endpoint's URL is no longer permitted: {refusal}") from None
    return Letter(
        delivery_id=delivery_id,
        webhook_id=row.webhook_id,
        body=row.body,
        endpoint_id=row.endpoint_id,
        url=url,
        headers=endpoints.headers_of(row.endpoint_id, row.headers, row.sealed_headers),
        sealed=row.sealed,
        schedule=row.schedule or schedule.DEFAULT,
        other_4xx=row.other_4xx,
        rate_per_second=row.rate_per_second,
        slot=row.slot,
        probe=row.probe,
        troubled=row.troubled,
        ailing=row.ailing,
    )


def _closed(delivery_id: UUID, status: str, reason: str) -> Permanent:
    """Why it ends without an attempt; its row says so too."""
    with transaction() as session:
        close(session, delivery_id, status=status, reason=reason)
    return Permanent(reason)
