"""What may become of a task, step by step, and what it may be charged with: the reference for the ledger's own rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["FINISHED", "LIMIT", "UNDER_WAY", "UNSTARTED", "Charges", "Row", "check_lanes_and_keys", "check_move"]

Row = dict[str, Any]
Moves = frozenset[tuple[str, str]]

LIMIT = 2
UNDER_WAY = ("pending", "published", "running")
UNSTARTED = ("scheduled", "waiting", "pending", "published")
FINISHED = ("succeeded", "cancelled", "dead", "absent")


def _moves(sources: str, targets: str) -> Moves:
    return frozenset((source, target) for source in sources.split() for target in targets.split())


#: Whatever ends a task, or takes it out of its lane, may let others of the lane go.
GRANTED = _moves("waiting", "pending scheduled")

#: What each step may do to a task, besides nothing.
MOVES: dict[str, Moves] = {
    "enqueue": _moves("absent", "scheduled waiting pending"),
    "relay": _moves("pending", "published scheduled"),
    "relay dies": frozenset(),
    "relay while the queue is paused": _moves("pending published", "pending scheduled"),
    "lost by the broker": _moves("published", "pending"),
    "claim": _moves("pending published", "running"),
    "succeeded": _moves("running", "succeeded") | GRANTED,
    "failed": _moves("running", "scheduled") | GRANTED,
    "snoozed": _moves("running", "scheduled") | GRANTED,
    "dead": _moves("running", "dead") | GRANTED,
    "cancelled": _moves("running", "cancelled") | GRANTED,
    "given back": _moves("running", "pending"),
    "heartbeat": _moves("running", "pending"),
    "leave": _moves("running", "pending"),
    "rescue": _moves("running", "pending dead cancelled") | GRANTED,
    "promote": _moves("scheduled", "pending waiting") | _moves("scheduled waiting pending published", "cancelled") | GRANTED,
    "cancel": _moves("scheduled waiting pending published", "cancelled") | GRANTED,
    "reschedule": _moves("scheduled pending published", "scheduled") | _moves("waiting", "waiting") | GRANTED,
    "retry": _moves("dead cancelled", "pending waiting") | _moves("scheduled", "scheduled"),
    "pause": _moves("published", "pending"),
    "hold": GRANTED | _moves("scheduled", "pending waiting"),
    "purge": _moves("dead", "absent"),
}  # fmt: skip

#: A run that ended without success, reschedule, pause, retry: nothing else makes an old copy stale.
NEW_FENCE = (
    "failed", "snoozed", "given back", "heartbeat", "leave", "rescue", "reschedule", "retry", "pause",
    "relay while the queue is paused",
)  # fmt: skip


def check_move(step: str, before: Row, after: Row) -> None:
    """One task, before and after one step."""
    move = (before["state"], after["state"])
    if before["state"] == "succeeded":
        assert after["state"] == "succeeded", f"I2: a success was undone by {step}"
    refenced = before.get("fence") != after.get("fence")
    if move[0] == move[1] and (not refenced or move[0] in FINISHED):
        return
    assert move in MOVES[step], f"I3: {step} took a task from {move[0]} to {move[1]}"
    if before["state"] in FINISHED or after["state"] in FINISHED or (step == "reschedule" and move in GRANTED):
        return
    if step not in NEW_FENCE or move in GRANTED:
        assert not refenced, f"I3: {step} changed the fence, the first copy cannot win"
    elif move != ("pending", "scheduled") or step == "reschedule":
        assert refenced, f"I3: {step} kept the fence, an old copy may run"


@dataclass
class Charges:
    """What a task is charged with: its own failures, its crashes alone, and each attempt that it has made."""

    failures: int = 0
    crashes: int = 0
    attempts: int = 0

    def check(self, row: Row) -> None:
        assert row["failures"] == self.failures, f"I6: {row['failures']} failures, not {self.failures}: {row}"
        assert row["crashes"] == self.crashes, f"I6: {row['crashes']} crashes, not {self.crashes}: {row}"
        assert len(row["attempts"]) == self.attempts, f"I6: {self.attempts} attempts were made: {row['attempts']}"


def check_lanes_and_keys(rows: list[Row]) -> None:
    """Of an ordering key the first alone; of a limited lane so many; of a unique key one that has not started."""
    unstarted = [row["unique_key"] for row in rows if row["unique_key"] and not row.get("started", True)]
    assert len(unstarted) == len(set(unstarted)), f"unique keys: twice among the unstarted: {unstarted}"
    lanes: dict[str, list[Row]] = {}
    for row in rows:
        lanes.setdefault(row["lane"] or "", []).append(row)
    for lane, ours in lanes.items():
        if lane.startswith("order/"):
            _check_order(lane, [row for row in ours if row["state"] not in FINISHED], _held_by_a_dead_one(ours))
        elif lane:
            taken = sum(row["state"] in UNDER_WAY for row in ours)
            assert taken <= LIMIT, f"concurrency limit: {taken} of {lane} under way"


def _check_order(lane: str, ours: list[Row], held: bool) -> None:
    ahead = [row for row in ours if row["state"] != "waiting"]
    assert len(ahead) <= 1, f"ordering key: {len(ahead)} of {lane} at once"
    assert not (held and ahead), f"ordering key: {lane} goes on behind its dead one"
    if ahead:
        first = min(row["position"] for row in ours)
        assert ahead[0]["position"] == first, f"ordering key: {lane} out of order"


def _held_by_a_dead_one(ours: list[Row]) -> bool:
    return any(row["state"] == "dead" and row["lane_holds"] for row in ours)
