"""What leaves the house: mail, webhooks, receipts, statistics; and the nightly housekeeping.

This is the module for `OUTBOX_APP` and for plain `dramatiq`: importing it makes the broker and declares every actor.
It opens no connection.
"""

import dramatiq

from outbox import OutboxBroker

broker = OutboxBroker()
dramatiq.set_broker(broker)

from actors import analytics, housekeeping, mail, receipts, webhooks  # noqa: E402  the actors need the broker first
from actors.why import explain  # noqa: E402

__all__ = ["analytics", "broker", "explain", "housekeeping", "mail", "receipts", "webhooks"]
