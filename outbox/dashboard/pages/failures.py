"""Failures: not each of two thousand, but the three things that went wrong, and the button that tries their tasks again."""

from __future__ import annotations

from outbox.dashboard.page import Ask, NotThere, Page
from outbox.errors import ArgumentError
from outbox.failures import Failures

__all__ = ["show", "show_one"]


def show(ask: Ask) -> Page:
    """The kinds of which most tasks are there."""
    values = {"groups": Failures(ask.schema).groups(ask.conn), "now": ask.now()}
    return Page("failures.html", "Failures", values)


def show_one(ask: Ask) -> Page:
    """One kind, with the traceback of an example."""
    try:
        group = Failures(ask.schema).group(ask.conn, ask.path["failure"])
    except ArgumentError as error:
        raise NotThere(str(error)) from None
    if group is None:
        raise NotThere(
            "No dead or retrying task has failed in this way; what was retried and succeeded is in the history."
        )
    return Page("failure.html", group.error[:80], {"group": group, "now": ask.now()})
