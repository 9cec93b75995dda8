"""Webhooks: Standard Webhooks signatures, posted to endpoints that nobody trusts."""

from actors.webhooks.endpoints import TooManySecrets, change_endpoint, create_endpoint, delete_endpoint, rotate_secret
from actors.webhooks.event_types import EventTypeRefused
from actors.webhooks.forget import forget_endpoint
from actors.webhooks.guard import AddressRefused
from actors.webhooks.headers import HeaderRefused
from actors.webhooks.outbound import deliver_webhook, fan_out, send_test
from actors.webhooks.replay import abort_replay, replay_page, start_replay
from actors.webhooks.resend import Which, resend

__all__ = [
    "AddressRefused",
    "EventTypeRefused",
    "HeaderRefused",
    "TooManySecrets",
    "Which",
    "abort_replay",
    "change_endpoint",
    "create_endpoint",
    "delete_endpoint",
    "deliver_webhook",
    "fan_out",
    "forget_endpoint",
    "replay_page",
    "resend",
    "rotate_secret",
    "send_test",
    "start_replay",
]
