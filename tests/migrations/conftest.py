"""The migrations import the actors' tables, and with them their broker: tests of other things do not meet it."""

from __future__ import annotations

from importlib import import_module

import dramatiq.broker
import pytest

import actors  # noqa: F401  once, before a test changes the environment that its broker reads


@pytest.fixture(autouse=True)
def no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    enqueue = import_module("outbox.enqueue")
    monkeypatch.setattr(dramatiq.broker, "global_broker", None)
    monkeypatch.setattr(enqueue, "_default", enqueue._Default())
