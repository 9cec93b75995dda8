"""A delivery as it is before its endpoint is spoken to: read in one statement, with no transaction left open."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import func, select

from actors import outside
from actors.database import transaction
from actors.tables import Delivery, Endpoint, Payload
from actors.webhooks import endpoints, schedule
from actors.webhooks.address import WebhookURL, parse
from actors.webhooks.guard import AddressRefused
from actors.webhooks.outcomes import Policy
from actors.webhooks.record import close
from actors.webhooks.signing import sign
from outbox import Permanent


class Letter(NamedTuple):
    """What is to be posted, to whom, and by which rules."""

    delivery_id: UUID
    webhook_id: UUID
    body: bytes
    endpoint_id: UUID
    url: WebhookURL
    headers: dict[str, str]
    sealed: Sequence[bytes]
    schedule: Sequence[timedelta]
    other_4xx: Policy

    def signed(self, *, at: datetime) -> dict[str, str]:
        """Its headers for an attempt at this instant."""
        keys = endpoints.signing_keys(self.endpoint_id, self.sealed)
        return {**self.headers, **sign(keys, webhook_id=str(self.webhook_id), at=at, body=self.body)}


_COLUMNS = (
    (Delivery.status == "delivered").label("delivered"),
    func.coalesce(Delivery.webhook_id, Delivery.id).label("webhook_id"),
    Payload.body,
    Endpoint.id.label("endpoint_id"),
    Endpoint.url,
    Endpoint.headers,
    Endpoint.enabled,
    Endpoint.disabled_reason,
    Endpoint.deleted_at,
    Endpoint.schedule,
    Endpoint.other_4xx,
    endpoints.VALID_SECRETS.label("sealed"),
)


def opened(delivery_id: UUID) -> Letter | None:
    """What is to be posted, or None if it was delivered already. Raises Permanent for what never will be."""
    whole = select(*_COLUMNS).join(Delivery.payload).join(Delivery.endpoint).where(Delivery.id == delivery_id)
    with transaction() as session:
        row = session.execute(whole).one_or_none()
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
        headers=row.headers,
        sealed=row.sealed,
        schedule=row.schedule or schedule.DEFAULT,
        other_4xx=row.other_4xx,
    )


def _closed(delivery_id: UUID, status: str, reason: str) -> Permanent:
    """Why it ends without an attempt; its row says so too."""
    with transaction() as session:
        close(session, delivery_id, status=status, reason=reason)
    return Permanent(reason)
