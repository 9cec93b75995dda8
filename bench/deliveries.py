"""`deliveries`: webhooks a second with 1, 16 and 64 threads, against a plain loop of signed POSTs."""

from __future__ import annotations

from bench import sinks, throughput
from bench.figures import Report
from bench.ground import Field, Ground

ENDPOINTS = 100


def measure(ground: Ground, *, rounds: int, quick: bool) -> Report:
    kind = throughput.Kind("deliveries", "webhooks", _make, _receiver)
    report = throughput.measure(ground, kind, rounds=rounds, quick=quick)
    report.settings.append(f"each event goes to {ENDPOINTS} endpoints of one receiver, with the default limit of each")
    return report


def _make(count: int) -> list[str]:
    return ["deliveries", str(count), str(ENDPOINTS)]


def _receiver(here: Field, delay: float) -> dict[str, str]:
    return {"BENCH_RECEIVER": sinks.http(here, delay=delay)}
