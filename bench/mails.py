"""`mails`: mails a second with 1, 16 and 64 threads, against a plain loop of SMTP transactions."""

from __future__ import annotations

from bench import sinks, throughput
from bench.figures import Report
from bench.ground import Field, Ground


def measure(ground: Ground, *, rounds: int, quick: bool) -> Report:
    kind = throughput.Kind("mails", "mail", _make, _receiver)
    return throughput.measure(ground, kind, rounds=rounds, quick=quick)


def _make(count: int) -> list[str]:
    return ["mails", str(count)]


def _receiver(here: Field, delay: float) -> dict[str, str]:
    return {"SMTP_URL": sinks.smtp(here, delay=delay)}
