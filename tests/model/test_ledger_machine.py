"""The ledger under any order of transitions (I1-I4, I6-I8, I10). A failure prints the steps that led to it, made small.

`SEED=7 make chaos ARGS='-k long_lives'` repeats a long run.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import LedgerMachine
from tests.outbox_rows import Outbox

SEED = int(os.environ.get("SEED", "0")) or secrets.randbelow(2**31)


@pytest.fixture(scope="module")
def outbox(new_database: Callable[[str], str], migrated_template: str) -> Iterator[Outbox]:
    outbox = Outbox(new_database(migrated_template))
    yield outbox
    outbox.close()


def test_short_lives_keep_every_invariant(outbox: Outbox) -> None:
    _live(outbox, seed=4, max_examples=8, stateful_step_count=40, phases=[Phase.generate])


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_long_lives_keep_every_invariant(outbox: Outbox) -> None:
    print(f"SEED={SEED}")
    _live(outbox, seed=SEED, max_examples=500, stateful_step_count=100)


def _live(outbox: Outbox, *, seed: int, **options: Any) -> None:
    class Machine(LedgerMachine):
        """Of this test alone: what is set on it ends with it."""

    Machine.outbox = outbox
    run_state_machine_as_test(
        hypothesis.seed(seed)(Machine),
        settings=settings(deadline=None, database=None, suppress_health_check=list(HealthCheck), **options),
    )
