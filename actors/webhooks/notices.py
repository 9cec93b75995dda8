"""An endpoint is disabled for what it did, and who is told: its owner by mail, and whoever listens for it by webhook."""

import json
from uuid import UUID

from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from actors import mail, outside
from actors.tables import Endpoint
from actors.webhooks import endpoints, health, metrics, outbound
from outbox.logs import get_logger

DISABLED_EVENT = "webhook.endpoint_disabled"

log = get_logger("actors.webhooks")


def disable(session: Session, endpoint_id: UUID, *, url: str, reason: str) -> bool:
    """Deliver nothing more to it, and tell of it in the same transaction: once, however many find it out together. Not
    if it has moved from `url` meanwhile.

    Call it before the delivery's row is changed: that is the order in which a deletion locks.
    """
    endpoint = endpoints.disable_by_id(session, endpoint_id, url=url, reason=reason)
    if endpoint is None:
        return False
    metrics.count_disabled(session)
    log.warning("endpoint disabled", endpoint_id=str(endpoint_id), reason=reason)
    health.forget(session, endpoint_id)  # what waits there ends as missed
    _mail(session, endpoint)
    _publish(session, endpoint)
    return True


def _mail(session: Session, endpoint: Endpoint) -> None:
    to = endpoint.notify or outside.settings().operator_mail
    if not to:
        return
    try:
        says = _letter(endpoint)
        prepared = mail.prepare(session, to=to, subject=says.subject, text=says.text, html=says.html)
    except ValueError as refusal:  # an address of the operator's that is none must not keep it enabled
        log.error("nobody could be told by mail", endpoint_id=str(endpoint.id), reason=str(refusal))
        return
    mail.enqueue_mail(session, prepared)


def _publish(session: Session, endpoint: Endpoint) -> None:
    assert endpoint.disabled_at is not None
    content = {
        "endpoint_id": str(endpoint.id),
        "reason": endpoint.disabled_reason,
        "disabled_at": endpoint.disabled_at.isoformat(),
    }
    outbound.fan_out(
        session,
        event_id=uuid7(),
        event_type=DISABLED_EVENT,
        content=json.dumps(content).encode(),
        occurred_at=endpoint.disabled_at,
    )


def _letter(endpoint: Endpoint) -> mail.Letter:
    return mail.letter(
        "endpoint-disabled",
        endpoint_id=str(endpoint.id),
        disabled_at=f"{endpoint.disabled_at:%Y-%m-%d %H:%M}",
        reason=endpoint.disabled_reason,
        url=endpoint.url.partition("?")[0],
        description=endpoint.description,
    )
