"""Processes: relays, workers and schedulers, their heartbeats, and what each worker runs."""

from __future__ import annotations

from outbox.dashboard.page import Ask, Page

__all__ = ["show"]


def show(ask: Ask) -> Page:
    """Every process with a row; one whose heartbeats stopped stays until a relay has rescued its tasks."""
    return Page("processes.html", "Processes", {"processes": ask.reader.workers(ask.conn), "now": ask.now()})
