"""What webhooks met, counted in the worker as soon as it is known, whether or not it can be written down."""

from prometheus_client import Counter
from sqlalchemy import event
from sqlalchemy.orm import Session

from actors.webhooks.outcomes import Delivered, Gone, Outcome, Refused, Retry

__all__ = ["count", "count_disabled"]

_ATTEMPTS = Counter("webhook_attempts", "Attempts to deliver a webhook, by what came of them.", ["outcome"])
_OF: dict[type[Outcome], Counter] = {
    Delivered: _ATTEMPTS.labels("delivered"),
    Retry: _ATTEMPTS.labels("retry"),
    Refused: _ATTEMPTS.labels("refused"),
    Gone: _ATTEMPTS.labels("gone"),
}
_DISABLED = Counter("webhook_endpoints_disabled", "Endpoints that were disabled for what they did.")


def count(outcome: Outcome) -> None:
    _OF[type(outcome)].inc()


def count_disabled(session: Session) -> None:
    """One more, once the session's transaction commits."""
    event.listen(session, "after_commit", lambda _: _DISABLED.inc(), once=True)
