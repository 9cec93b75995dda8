"""Who used the processor: of each system's processes, and of everything else on the machine. Linux only."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


class Meter:
    """Processor seconds between `start` and `stop`, by name; the name `others` is what is not ours."""

    def __init__(self, roots: Mapping[str, Iterable[int | None]]) -> None:
        self._roots = {name: [pid for pid in pids if pid] for name, pids in roots.items()}
        self._began, self._before = 0.0, dict.fromkeys((*self._roots, "all"), 0.0)
        self.seconds: dict[str, float] = {}
        self.elapsed = 0.0

    def start(self) -> None:
        self._began, self._before = time.monotonic(), self._now()

    def stop(self) -> None:
        self.elapsed = time.monotonic() - self._began
        used = {name: after - self._before[name] for name, after in self._now().items()}
        everything = used.pop("all")
        self.seconds = used | {"others": max(0.0, everything - sum(used.values()))}

    def per_task(self, tasks: int) -> str:
        """In words: microseconds of processor for each task."""
        parts = [f"{name} {used / tasks * 1e6:.0f}" for name, used in self.seconds.items() if name != "others"]
        return f"processor µs a task: {', '.join(parts)}"

    def disturbance(self) -> str:
        """In words: how much of the machine was somebody else's. Ratios within a round stand it, rates do not."""
        share = self.seconds["others"] / self.elapsed / (os.cpu_count() or 1)
        return f"meanwhile everything else on this machine used {share:.0%} of its processors"

    def _now(self) -> dict[str, float]:
        if not Path("/proc/stat").exists():
            return dict.fromkeys(self._before, 0.0)
        times, parents = _all_processes()
        used = {name: sum(_tree(pid, times, parents) for pid in pids) for name, pids in self._roots.items()}
        user, nice, system, _idle, _wait, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split()[1:9])
        return used | {"all": (user + nice + system + irq + softirq) / TICK}


def _all_processes() -> tuple[dict[int, float], dict[int, int]]:
    """(seconds of each process with its ended children, parent of each)."""
    times: dict[int, float] = {}
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        pid = int(path.parent.name)
        parents[pid] = int(words[1])
        times[pid] = sum(map(int, words[11:15])) / TICK
    return times, parents


def _tree(root: int, times: Mapping[int, float], parents: Mapping[int, int]) -> float:
    return sum(used for pid, used in times.items() if _descends(pid, root, parents))


def _descends(pid: int, root: int, parents: Mapping[int, int]) -> bool:
    while pid and pid != root:
        pid = parents.get(pid, 0)
    return pid == root


def resident(pid: int) -> float:
    """MiB of memory that this process holds in RAM (VmRSS)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


def resident_tree(root: int) -> float:
    """MiB of this process and all below it. What forked processes share is counted in each."""
    times, parents = _all_processes()
    return sum(resident(pid) for pid in times if _descends(pid, root, parents))
