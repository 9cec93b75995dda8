"""The migrations import the actors' tables, and with them their broker: tests of other things do not meet it."""

from __future__ import annotations

import dramatiq.broker
import pytest


@pytest.fixture(autouse=True)
def no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dramatiq.broker, "global_broker", None)
