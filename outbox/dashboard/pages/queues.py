"""Queues: what waits in each, who listens, and the switch that stops it."""

from __future__ import annotations

from outbox import operate
from outbox.dashboard.page import Ask, Done, Page

__all__ = ["pause", "resume", "show"]


def show(ask: Ask) -> Page:
    """Every queue that is registered, has unfinished tasks, or is listened to."""
    values = {"queues": ask.reader.queues(ask.conn), "now": ask.now()}
    return Page("queues.html", "Queues", values)


def pause(ask: Ask) -> Done:
    """Nothing of the queue starts until it is resumed; across restarts of everything."""
    name = ask.path["name"]
    operate.pause_queue(ask.conn, ask.ledger, name, who=ask.visitor.name)
    return Done(f"Queue {name} is paused: nothing of it starts until it is resumed. What runs, ends.")


def resume(ask: Ask) -> Done:
    name = ask.path["name"]
    operate.resume_queue(ask.conn, ask.ledger, name, who=ask.visitor.name)
    return Done(f"Queue {name} goes on.")
