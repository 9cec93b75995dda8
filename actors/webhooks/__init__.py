"""Webhooks: Standard Webhooks signatures, posted to endpoints that nobody trusts."""

from actors.webhooks.endpoints import change_endpoint, create_endpoint, rotate_secret
from actors.webhooks.event_types import EventTypeRefused
from actors.webhooks.forget import forget_endpoint
from actors.webhooks.guard import AddressRefused
from actors.webhooks.headers import HeaderRefused
from actors.webhooks.outbound import deliver_webhook, fan_out, send_test
from actors.webhooks.replay import enqueue_replay, replay_deliveries

__all__ = [
    "AddressRefused",
    "EventTypeRefused",
    "HeaderRefused",
    "change_endpoint",
    "create_endpoint",
    "deliver_webhook",
    "enqueue_replay",
    "fan_out",
    "forget_endpoint",
    "replay_deliveries",
    "rotate_secret",
    "send_test",
]
