"""Where the pending rows of each queue begin, as one relay remembers it: a claim need not pass what is gone.

Each row that was claimed leaves a dead entry in the index of the claim, which nothing may remove while an older
transaction is open anywhere in the server. A claim from the very beginning passes all of them (I12).

The front is a hint and no cursor: rows appear behind it, for the order of commits is not that of due times, and what was
let go, given back or lost keeps its old one. Who claims ahead must claim from the beginning too, again and again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence

from outbox.ledger import WHOLE, Due, Stretch

__all__ = ["Front"]

#: Of one queue, beyond which it is claimed from its beginning: each costs the claim a descent of the index.
PRIORITIES = 32


class Front:
    """The due time of the row claimed last, of each queue and priority. Shared by the lanes of a relay."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[str, dict[int, str]] = {}

    def claimed(self, rows: Sequence[Due]) -> None:
        """The front moves to the last of these, also back: what lies between is claimed next."""
        last = {(row.queue, row.priority): row.due_at for row in rows}
        with self._lock:
            for (queue, priority), due_at in last.items():
                of_queue = self._last.setdefault(queue, {})
                of_queue[priority] = due_at
                if len(of_queue) > PRIORITIES:
                    del self._last[queue]

    def forget(self) -> None:
        """Some of what was claimed may be due again: each queue begins at its beginning."""
        with self._lock:
            self._last.clear()

    def ahead(self, queues: Iterable[str]) -> list[Stretch]:
        """From each front on; the whole of a queue that has none yet."""
        with self._lock:
            return [stretch for queue in queues for stretch in _ahead(queue, self._last.get(queue, {}))]


def _ahead(queue: str, last: dict[int, str]) -> Iterator[Stretch]:
    if not last:
        yield Stretch(queue, *WHOLE)
    for priority in sorted(last):
        yield Stretch(queue, priority, last[priority], priority, "infinity")
