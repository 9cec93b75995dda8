"""A task that kills its process. Ours ends dead after a few crashes: worker/test_processes.py."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from awaiting import await_that
from sides import MakeStock

MORTAL = Path(__file__).with_name("mortal.py")


@pytest.mark.system
def test_the_stock_broker_gives_it_to_one_process_after_the_other_and_counts_no_retry(
    make_stock: MakeStock, tmp_path: Path
) -> None:
    stock, traces = make_stock(), tmp_path / "traces"

    @stock.actor()
    def kill() -> None: ...

    message = kill.send()
    deaths = 4
    for _ in range(deaths):  # for as long as an orchestrator starts new ones
        process = subprocess.run([sys.executable, MORTAL, stock.url, stock.queue(), traces], timeout=30)
        assert process.returncode == -signal.SIGKILL
    assert traces.read_text().splitlines() == [f"{message.message_id} 0"] * deaths  # it may be retried once
    assert await_that(stock.messages) == 1
