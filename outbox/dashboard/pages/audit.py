"""The audit: what people did, the newest first."""

from __future__ import annotations

from outbox.dashboard.page import Ask, Page

__all__ = ["show"]

FILTERS = ("who", "action", "subject")


def show(ask: Ask) -> Page:
    """A page of it, narrowed by who, what and to what."""
    wanted = {name: ask.params.get(name) or None for name in FILTERS}
    who, action, subject = wanted.values()
    cursor = ask.params.get("cursor") or None
    lines, following = ask.reader.audit(ask.conn, who=who, action=action, subject=subject, cursor=cursor)
    values = {"lines": lines, "following": following, "wanted": wanted, "now": ask.now()}
    return Page("audit.html", "Audit", values)
