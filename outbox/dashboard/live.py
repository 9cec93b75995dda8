"""Pages that stay fresh: whoever looks at the same page as the same kind of visitor shares one rendering of it, and one reader
reads for all of them, one page after the other."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple

from outbox.dashboard.gate import Role
from outbox.logs import get_logger
from outbox.signals import closed_by_signals

__all__ = ["Hub", "Look"]

#: Seconds between two renderings of a page; a dear one rests for as many times as long as it took.
PACE, REST = 0.5, 1.0
#: Seconds after which a follower hears that nothing is new, and after which it must come again and be known again.
COMMENT, LONGEST = 10.0, 60.0
#: What the script keeps right by itself is no news.
_TIMES = re.compile(r"(<time [^>]*>)[^<]*")

log = get_logger("outbox.dashboard")


class Look(NamedTuple):
    """A page as some kind of visitor sees it."""

    base: str
    path: str
    query: str
    role: Role


@dataclass
class _Watched:
    """A page that somebody follows: its blocks, each with the moment it last changed."""

    followers: int = 0
    due: float = 0.0
    blocks: dict[str, tuple[int, str]] = field(default_factory=dict)


class Hub:
    """One reader a process, at work only while somebody follows. `made` renders a page's live blocks, in a thread."""

    def __init__(self, made: Callable[[Look], dict[str, str]], *, most: int = 200) -> None:
        self._made = made
        self._most = most
        self._watched: dict[Look, _Watched] = {}
        self._moment = 0
        self._news = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self.closed = False

    @property
    def full(self) -> bool:
        return sum(each.followers for each in self._watched.values()) >= self._most

    def close(self) -> None:
        """Every stream ends now, and none begins."""
        self.closed = True
        self._news.set()

    async def follow(self, look: Look) -> AsyncIterator[str]:
        """Frames of Server-Sent Events: the blocks that changed, as one JSON object; at first, all of them."""
        began = spoke = monotonic()
        seen = 0
        yield "retry: 1000\n\n"
        with self._following(look) as watched:
            while not self.closed and monotonic() - began < LONGEST:
                news = {name: html for name, (moment, html) in watched.blocks.items() if moment > seen}
                seen = self._moment
                if news:
                    yield f"event: blocks\ndata: {json.dumps(news)}\n\n"
                    spoke = monotonic()
                elif monotonic() - spoke >= COMMENT:
                    yield ": nothing new\n\n"
                    spoke = monotonic()
                await self._beyond(seen)

    @contextmanager
    def _following(self, look: Look) -> Iterator[_Watched]:
        watched = self._watched.setdefault(look, _Watched())
        watched.followers += 1
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read(), name="dashboard reader")
        try:
            yield watched
        finally:
            watched.followers -= 1
            if not watched.followers:
                self._watched.pop(look, None)

    async def _beyond(self, seen: int) -> None:
        """Until something is newer than that; what came while a frame was sent is there already."""
        if self._moment == seen and not self.closed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), COMMENT)

    async def _read(self) -> None:
        with closed_by_signals(self.close):
            while self._watched and not self.closed:
                for look, watched in list(self._watched.items()):
                    await self._refresh_if_due(look, watched)
                await asyncio.sleep(0.05)

    async def _refresh_if_due(self, look: Look, watched: _Watched) -> None:
        began = monotonic()
        if watched.followers and began >= watched.due and not self.closed:
            await self._refresh(look, watched)
            watched.due = monotonic() + max(PACE, REST * (monotonic() - began))

    async def _refresh(self, look: Look, watched: _Watched) -> None:
        """A page that cannot be made now stays as it is: its followers keep what they see."""
        try:
            made = await asyncio.to_thread(self._made, look)
        except Exception as error:
            log.warning("a page was not refreshed", path=look.path, error=f"{type(error).__name__}: {error}"[:300])
            return
        changed = {name: html for name, html in made.items() if _differs(html, watched.blocks.get(name))}
        if changed:
            self._moment += 1
            watched.blocks.update({name: (self._moment, html) for name, html in changed.items()})
            self._news.set()
            self._news = asyncio.Event()


def _differs(html: str, before: tuple[int, str] | None) -> bool:
    return before is None or _TIMES.sub(r"\1", html) != _TIMES.sub(r"\1", before[1])
