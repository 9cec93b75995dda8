"""Sentry: an attempt that fails is reported once, by Sentry's integration for Dramatiq, as what nobody has caught."""

from __future__ import annotations

import sys

__all__ = ["LOGGERS", "leave_to_the_integration"]

#: They tell of the same failure before the integration does: as caught, and of the last attempt a second time.
LOGGERS = ("dramatiq.worker.WorkerThread", "outbox.outcomes")


def leave_to_the_integration() -> None:
    """What the logs say of failed attempts makes no report of its own. Where nobody uses Sentry nothing is imported."""
    if "sentry_sdk" not in sys.modules:
        return
    import sentry_sdk
    from sentry_sdk.integrations.logging import ignore_logger

    if sentry_sdk.get_client().get_integration("dramatiq") is not None:
        for name in LOGGERS:
            ignore_logger(name)
