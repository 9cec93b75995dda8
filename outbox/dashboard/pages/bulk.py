"""Acts on all tasks that a query fits: shown before they begin, followed while relays carry them on, ended by whoever may."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from outbox import bulk
from outbox.bulk import ACTIONS, Action, Bulk, Bulks, Preview
from outbox.dashboard.page import Ask, Done, NotThere, Page, Refused
from outbox.dashboard.times import moment_of
from outbox.errors import ArgumentError, TookTooLong
from outbox.query import parse
from outbox.redaction import redacted_view

__all__ = ["abort", "begin", "new", "show", "show_one"]


def show(ask: Ask) -> Page:
    """Every act, the newest first."""
    before = ask.params.get("before")
    found = Bulks(ask.schema).all(ask.conn, before=_id(before) if before else None, limit=51)
    following = f"/bulk?before={found[49].id}" if len(found) > 50 else None
    return Page("bulks.html", "Bulk acts", {"bulks": found[:50], "following": following, "now": ask.now()})


def new(ask: Ask) -> Page:
    """What an act would meet, and the button that begins it."""
    line, action = ask.params.get("q", "").strip(), _action(ask.params.get("action", "retry"))
    preview, trouble = _preview(ask, action, line)
    values = {
        "line": line,
        "action": action,
        "actions": ACTIONS,
        "preview": preview,
        "sample": [redacted_view(task) for task in preview.sample] if preview else [],
        "trouble": trouble,
        "now": ask.now(),
    }
    return Page("bulk_new.html", "Act on all that fit", values)


def show_one(ask: Ask) -> Page:
    """How far an act is."""
    found = _bulk(ask)
    lines, _ = ask.reader.audit(ask.conn, subject=f"bulk/{found.id}")
    return Page("bulk.html", f"{found.action} of many", {"bulk": found, "audit": lines, "now": ask.now()})


def begin(ask: Ask) -> Done:
    """From now on it is carried out, by whichever relay lives."""
    action = _action(ask.given("action"))
    when: dict[str, Any] = moment_of(ask.given("at"), ask.given("in")) if action == "reschedule" else {}
    begun = bulk.begin(
        ask.conn, ask.ledger, action=action, query=parse(ask.given("q")), who=ask.visitor.name,
        reason=ask.given("reason") or None, rate=_rate(ask.given("rate")), everything=ask.given("everything") == "yes", **when,
    )  # fmt: skip
    return Done(f"It has begun: {begun.matched} tasks.", f"/bulk/{begun.id}")


def abort(ask: Ask) -> Done:
    """Nothing more is done of it."""
    ended = bulk.abort(ask.conn, ask.ledger, _bulk(ask).id, who=ask.visitor.name)
    return Done(f"It is ended: {ended.done} tasks were done and stay so.")


def _preview(ask: Ask, action: Action, line: str) -> tuple[Preview | None, str | None]:
    try:
        return bulk.preview(ask.conn, action, parse(line), schema=ask.schema), None
    except (ArgumentError, TookTooLong) as error:
        return None, str(error)


def _bulk(ask: Ask) -> Bulk:
    try:
        return Bulks(ask.schema).one(ask.conn, _id(ask.path["id"]))
    except bulk.BulkNotFound:
        raise NotThere("No act on many tasks has this id.") from None


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise NotThere("This is not the id of an act.") from None


def _action(text: str) -> Action:
    for action in ACTIONS:
        if text == action:
            return action
    raise NotThere(f"An act is one of {', '.join(ACTIONS)}.")


def _rate(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 9):
        raise Refused("How many a second is a whole number; nothing: as fast as it can be.")
    return int(text)
