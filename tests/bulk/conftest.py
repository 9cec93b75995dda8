"""A database with tasks in every state, and a carrier on it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from outbox import bulk, database
from outbox.bulk import Action, Bulk
from outbox.carrier import Carrier
from outbox.query import parse
from tests.cli.conftest import Scene, cli, scene

__all__ = ["Begin", "Carry", "cli", "scene"]

Begin = Callable[..., Bulk]
Carry = Callable[[], Carrier]


@pytest.fixture
def begin(scene: Scene) -> Begin:
    """Begins an act, committed: its name, its query, and what `bulk.begin` takes."""

    def begun(action: Action, query: str, **options: Any) -> Bulk:
        with scene.conn.transaction():
            return bulk.begin(scene.conn, scene.ledger, action=action, query=parse(query), who="ann", **options)

    return begun


@pytest.fixture
def a_carrier(scene: Scene) -> Carry:
    """A carrier whose thread does not run: the test calls `carry`."""

    def made() -> Carrier:
        return Carrier(
            scene.ledger,
            lambda: database.connect(scene.url, name="test carrier", idle_in_transaction=timedelta(seconds=10)),
            on_moved=lambda: None,
        )

    return made
