"""fork(): a child begins without its parent's connections, and with locks that nobody holds."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet

__all__ = ["Forked", "inherited", "tell_of_forks"]


class Forked(Protocol):
    """Something with connections, threads or locks."""

    def after_fork(self) -> None:
        """In the child: begin anew. What the parent has open is neither used nor closed: it is the parent's."""


#: Kept for ever in a child: if they were collected, their ends might be told on the parent's wire.
inherited: list[object] = []
_alive: WeakSet[Forked] = WeakSet()


def tell_of_forks(each: Forked) -> None:
    """Call its `after_fork` in every child that this process makes, for as long as it lives."""
    _alive.add(each)


def _in_child() -> None:
    for each in list(_alive):
        each.after_fork()


if hasattr(os, "register_at_fork"):  # where there is fork()
    os.register_at_fork(after_in_child=_in_child)
