"""Schedules: when each fires next, what became of its fires, and the switches."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from outbox import cron
from outbox.dashboard.page import Ask, Done, NotThere, Page
from outbox.reads import ScheduleView

__all__ = ["pause", "resume", "run", "show", "show_one"]


class Standing(NamedTuple):
    """A schedule, and when it fires next; nothing while it is paused or retired."""

    schedule: ScheduleView
    upcoming: list[datetime]

    @property
    def following(self) -> datetime | None:
        return self.upcoming[0] if self.upcoming else None


def show(ask: Ask) -> Page:
    """Every schedule, the retired ones last."""
    now = ask.now()
    values = {"standings": [_standing(each, now, 1) for each in ask.reader.schedules(ask.conn)], "now": now}
    return Page("schedules.html", "Schedules", values)


def show_one(ask: Ask) -> Page:
    """One schedule, its last fires and its next."""
    now, name = ask.now(), ask.path["name"]
    found = next((each for each in ask.reader.schedules(ask.conn) if each.name == name), None)
    if found is None:
        raise NotThere("No schedule of this name was ever declared.")
    values = {"standing": _standing(found, now, 5), "fires": ask.reader.fires(ask.conn, name, limit=60), "now": now}
    return Page("schedule.html", found.name, values)


def run(ask: Ask) -> Done:
    """Its task, now, beside its calendar."""
    task = cron.run_now(ask.conn, ask.ledger, ask.path["name"], who=ask.visitor.name)
    return Done(f"{ask.path['name']} runs now, as task {task}.", f"/tasks/{task}")


def pause(ask: Ask) -> Done:
    cron.pause(ask.conn, ask.ledger, ask.path["name"], who=ask.visitor.name)
    return Done(f"Schedule {ask.path['name']} fires no more, until it is resumed.")


def resume(ask: Ask) -> Done:
    cron.resume(ask.conn, ask.ledger, ask.path["name"], who=ask.visitor.name)
    return Done(f"Schedule {ask.path['name']} fires again, from now on.")


def _standing(schedule: ScheduleView, now: datetime, ahead: int) -> Standing:
    return Standing(schedule, cron.next_fires(schedule, now, count=ahead))
