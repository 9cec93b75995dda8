"""`survival`: SIGKILL for every worker of a system in the middle of fifty tasks, then new ones: what becomes of them."""

from __future__ import annotations

import time

from bench.apps import stamp
from bench.figures import Report, Series
from bench.ground import Ground
from bench.peers.catalogue import SYSTEMS, System
from bench.peers.running import Running, running
from bench.waiting import until

TASKS, KILLED_AFTER, SECONDS = 50, 10, 0.2


def measure(ground: Ground, *, rounds: int, quick: bool) -> Report:
    patience = 20.0 if quick else 75.0
    report = Report(
        "A killed worker: of its tasks, how many ended, and when",
        [
            f"{TASKS} tasks of {SECONDS} s; SIGKILL for every worker and relay once {KILLED_AFTER} have ended; new ones at once",
            f"not ended: within {patience:.0f} s of the new start; one trial each shows that something happens, never that it cannot",
            *durability(),
        ],
    )
    for system in SYSTEMS:
        try:
            unended, seconds = _killed(ground, system, patience)
        except RuntimeError as error:
            report.notes.append(f"{system.name} could not be tried: {first_line(error)}")
            continue
        report.series.append(Series(f"{system.name}: not ended", "", [float(unended)]))
        report.series.append(Series(f"{system.name}: last one ended after", "s", [seconds]))
    return report


def durability() -> list[str]:
    """A line for each system: what it promises, and how we know."""
    questions = ("transactional_enqueue", "confirmed_publish", "outcome_recorded", "killed_worker", "wiped_broker")
    lines = []
    for system in SYSTEMS:
        facts = [(question, getattr(system.durability, question)) for question in questions]
        told = "; ".join(f"{question.replace('_', ' ')}: {fact.says} ({fact.evidence})" for question, fact in facts)
        lines.append(f"{system.name}: {told}")
    return lines


def first_line(error: RuntimeError) -> str:
    """What was wrong, without the last words of every process."""
    return str(error).partition("\n")[0]


def _killed(ground: Ground, system: System, patience: float) -> tuple[int, float]:
    """(tasks that have not ended, seconds from the new start until the last one that did)."""
    lasting = {"BENCH_TASK_SECONDS": str(SECONDS)}
    with running(ground, system) as peer:
        workers = peer.start(**lasting)
        peer.drive("fill", str(TASKS))
        until(lambda: len(_ended(peer)) >= KILLED_AFTER, f"{KILLED_AFTER} tasks have ended", here=peer.here, seconds=60)
        for child in workers:
            child.kill()
            peer.here.children.remove(child)
        again = time.monotonic()
        peer.start(**lasting)
        while len(_ended(peer)) < TASKS and time.monotonic() < again + patience:
            time.sleep(0.1)
        ended = _ended(peer)
        return TASKS - len(ended), max(ended.values()) - again


def _ended(peer: Running) -> dict[int, float]:
    """The instant at which each task first ended."""
    first: dict[int, float] = {}
    for number, at in stamp.read(peer.here.stamps):
        if number < 0:
            first.setdefault(-number, at)
    return first
