"""What must be true after a life, by the tables and by what the actors themselves wrote down (I1–I9)."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg

from tests.crashpoints.life import UNITS
from tests.telling import facts_of

__all__ = ["judge"]

#: Those that ended; a cron fire of the last moment may still stand in the small table.
FATES = """
select id::text, state, actor, args::text, failures, crashes, attempts from outbox.history
union all
select id::text, state, actor, args::text, failures, crashes, attempts from outbox.dead
union all
select id::text, state, actor, args::text, failures, crashes, attempts from outbox.task
"""
ONCE_ONLY = ["one/counted", "order/2", *(f"limit/{n}" for n in range(3)), *(f"lost/{n}" for n in range(3))]
#: What asks for a second run: a failure, a snooze, a crash.
TWICE = {"one/flaky", "one/snoozed", "order/0", "crash"}
#: From yesterday to a week ahead, and the default one.
PARTITIONS = 10
#: Of a cron fire of the last moment.
UNFINISHED = {"scheduled", "waiting", "pending", "published", "running", "succeeded"}

Rows = list[dict[str, Any]]


def judge(conn: psycopg.Connection[Any], trace: Path) -> tuple[int, list[str]]:
    """(repeats, every broken promise by its invariant)."""
    units = {row["name"]: row["ids"] for row in conn.execute("select * from unit").fetchall()}
    fates: Rows = conn.execute(FATES).fetchall()
    started, ended = _times(trace, "started"), _times(trace, "ended")
    ticks = [fate["id"] for fate in fates if fate["actor"] == "tick"]
    wrong = [
        *_of_the_units(units, fates),
        *(broken for fate in fates for broken in _of_a_fate(fate, units.get("never", []))),
        *_of_the_runs(fates, started, ended),
        *_of_the_tables(conn, ticks),
    ]
    wanted = {label: 1 + (label in TWICE) for label in started} | {"tick": len(ticks)}
    return sum(max(0, len(times) - wanted[label]) for label, times in started.items()), wrong


def _of_the_units(units: dict[str, list[str]], fates: Rows) -> list[str]:
    known = Counter(fate["id"] for fate in fates)
    wrong = [
        f"I2: {known[id]} outcomes of {id} of {name}" for name, ids in units.items() for id in ids if known[id] != 1
    ]
    if units.keys() != UNITS.keys():
        wrong.append(f"I1: of the units there are {sorted(units)}")
    elif units["unique"][0] != units["unique"][1]:
        wrong.append("a second task of a unique key")
    return wrong


def _of_a_fate(fate: dict[str, Any], never: list[str]) -> list[str]:
    wrong, actor = [], fate["actor"]
    state = "cancelled" if fate["id"] in never else {"doomed": "dead", "held": "cancelled"}.get(actor, "succeeded")
    if fate["state"] not in (UNFINISHED if actor == "tick" else {state}):
        wrong.append(f"I2: {actor} is {fate['state']}: {fate['attempts']}")
    if fate["failures"] > (actor in ("flaky", "doomed")):
        wrong.append(f"I5: failures of {fate}")
    if fate["crashes"] > 1:
        wrong.append(f"I6: crashes of {fate}")
    return wrong


def _of_the_runs(fates: Rows, started: dict[str, list[float]], ended: dict[str, list[float]]) -> list[str]:
    labels = {args[0] for fate in fates if (args := json.loads(fate["args"]))}
    wrong = [f"I2: {label} never ran" for label in labels - {"never"} if label not in started]
    if "never" in started:
        wrong.append("what was cancelled before its time ran")
    if wrong:
        return wrong
    spans = sorted((min(started[label]), max(ended[label])) for label in (f"limit/{n}" for n in range(3)))
    if any(next[0] < one[1] for one, next in pairwise(spans)):
        wrong.append(f"two at once of a limit of one: {spans}")
    for n in (1, 2):
        if min(started[f"order/{n}"]) < max(ended[f"order/{n - 1}"]):
            wrong.append(f"order/{n} began before order/{n - 1} was over")
    return wrong


def _of_the_tables(conn: psycopg.Connection[Any], ticks: list[str]) -> list[str]:
    wrong = []
    tally = Counter(row["label"] for row in conn.execute("select label from tally").fetchall())
    if tally != Counter(ONCE_ONLY):
        wrong.append(f"I9: written {tally}")
    fires = conn.execute("select task_id::text from outbox.fire where outcome = 'fired'").fetchall()
    if sorted(fire["task_id"] for fire in fires) != sorted(ticks):
        wrong.append(f"of {len(fires)} fires there are {len(ticks)} tasks")
    partitions = conn.execute("select from pg_inherits where inhparent = 'outbox.history'::regclass").rowcount
    if partitions < PARTITIONS:
        wrong.append(f"{partitions} partitions: nobody made the one that was missing")
    return wrong


def _times(trace: Path, what: str) -> dict[str, list[float]]:
    times: defaultdict[str, list[float]] = defaultdict(list)
    for said in facts_of(trace):
        if said["what"] == what:
            times[said["label"]].append(said["at"])
    return dict(times)
