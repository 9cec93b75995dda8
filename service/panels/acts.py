"""What the buttons do: as the API's routes, with the visitor's name in the audit."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy.orm import Session

from actors import webhooks
from actors.mail.suppression import Reason, held
from actors.mail.suppression import lift as lifted
from actors.tables import Delivery, Endpoint
from outbox.dashboard import Ask, Done, NotThere, Refused
from outbox.times import duration
from service.endpoints import find
from service.panels.reads import id_of
from service.suppressions import LIFTED_HERE

__all__ = ["disable", "enable", "lift", "replay", "resend", "send_test"]


def enable(ask: Ask, session: Session) -> Done:
    """Deliver to it again."""
    _switch(ask, session, enabled=True)
    return Done("It is delivered to again. What it missed meanwhile waits for a replay.")


def disable(ask: Ask, session: Session) -> Done:
    """Deliver nothing more to it, also of what is under way."""
    _switch(ask, session, enabled=False)
    return Done("Nothing more is delivered to it, until it is enabled.")


def _switch(ask: Ask, session: Session, *, enabled: bool) -> None:
    endpoint = _endpoint(ask, session)
    if endpoint.enabled == enabled:
        raise Refused(f"The endpoint is {'enabled' if enabled else 'disabled'} already.")
    webhooks.change_endpoint(session, endpoint, enabled=enabled)
    _audit(ask, "enable" if enabled else "disable", endpoint)


def send_test(ask: Ask, session: Session) -> Done:
    """A `webhook.test` event to this endpoint alone."""
    endpoint = _enabled(ask, session)
    task = webhooks.send_test(session, endpoint)
    _audit(ask, "test", endpoint, task=task.id)
    return Done("A test event is on its way: this is its task.", f"/tasks/{task.id}")


def replay(ask: Ask, session: Session) -> Done:
    """What did not arrive since then is delivered again."""
    endpoint, since = _enabled(ask, session), _since(ask)
    started, _ = webhooks.start_replay(session, endpoint, since=since, who=ask.visitor.name)
    _audit(ask, "replay", endpoint, replay=started.id)
    return Done(f"What it missed since {started.since:%Y-%m-%d %H:%M:%S %Z} is delivered, a page after the other.")


def resend(ask: Ask, session: Session) -> Done:
    """The same bytes under the same `webhook-id`, whatever became of it."""
    delivery = session.get(Delivery, id_of(ask, "a delivery"))
    if delivery is None:
        raise NotThere("No delivery has this id: it never was, or its retention is over.")
    endpoint = find(session, delivery.endpoint_id, locked=True)
    if not endpoint.enabled:
        raise Refused("The endpoint is disabled: nothing was sent.")
    sent = webhooks.resend(session, endpoint, {delivery.event_id: delivery.event_type}, which="all")
    if not sent:
        raise Refused("This event is still under way to this endpoint: it will arrive without this.")
    ask.ledger.audit(ask.conn, who=ask.visitor.name, action="resend", subject=str(delivery.id), delivery=sent[0])
    return Done("It is sent again: this is its task.", f"/tasks/{sent[0]}")


def lift(ask: Ask, session: Session) -> Done:
    """Let an address get mail again. Who complained or unsubscribed said so themselves: that is not lifted here."""
    reason = ask.given("reason")
    if reason not in LIFTED_HERE:
        raise Refused(
            "Only what was suppressed by hand or by a bounce is lifted here; the rest is its recipient's own word."
        )
    which = held(ask.given("recipient"), stream=ask.given("stream"), reason=Reason(reason)).with_for_update()
    found = session.scalars(which).one_or_none()
    if found is None:
        raise NotThere("Nothing of this kind is kept about this address.")
    lifted(session, found.recipient, stream=found.stream, reason=Reason(reason))
    ask.ledger.audit(
        ask.conn, who=ask.visitor.name, action="lift", subject=f"suppression/{reason}/{found.stream}",
        recipient=found.recipient,
    )  # fmt: skip
    return Done("It gets mail again, unless it is suppressed for another reason too.")


def _endpoint(ask: Ask, session: Session) -> Endpoint:
    return find(session, id_of(ask, "an endpoint"), locked=True)


def _enabled(ask: Ask, session: Session) -> Endpoint:
    endpoint = _endpoint(ask, session)
    if not endpoint.enabled:
        raise Refused("The endpoint is disabled: enable it first.")
    return endpoint


def _audit(ask: Ask, action: str, endpoint: Endpoint, **detail: object) -> None:
    ask.ledger.audit(ask.conn, who=ask.visitor.name, action=action, subject=f"endpoint/{endpoint.id}", **detail)


def _since(ask: Ask) -> datetime:
    """An instant in UTC, or a span back from now."""
    given, now = ask.given("since"), ask.now()
    try:
        found = datetime.fromisoformat(given)
        found = found if found.tzinfo else found.replace(tzinfo=UTC)
    except ValueError:
        try:
            found = now - duration(given)
        except (ValueError, OverflowError):
            raise Refused("Say since when: as 2026-11-25 09:00, which is UTC, or as 2h or 3d.") from None
    if not now.year - 100 < found.year or found > now:
        raise Refused("The time since when must lie in the past.")
    return found
