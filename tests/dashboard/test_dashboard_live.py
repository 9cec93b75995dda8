"""Pages that stay fresh: how soon, at what cost, for how many, and how the server ends with streams open."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import httpx2
import pytest
from awaiting import await_that
from dashboard_eyes import Eyes, Served
from outbox_rows import Outbox

from outbox.dashboard.live import Hub, Look

LOOK = Look("", "/", "", "viewer")


class Tab:
    """An open page: its stream, and what it heard, each with when."""

    def __init__(self, at: str, path: str) -> None:
        self.heard: list[tuple[float, dict[str, str]]] = []
        self._address = f"{at}/live?at={path}"
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        try:
            with httpx2.stream("GET", self._address, headers={"X-Role": "operator"}, timeout=30) as answer:
                for line in answer.iter_lines():
                    if line.startswith("data: "):
                        self.heard.append((time.monotonic(), json.loads(line[6:])))
        except httpx2.HTTPError:
            return

    def when(self, holds: Callable[[str], bool], *, within: timedelta) -> float:
        """The moment at which a block that fits arrived."""
        return await_that(lambda: self._first(holds), within)

    def _first(self, holds: Callable[[str], bool]) -> float | None:
        return next((at for at, blocks in list(self.heard) if any(map(holds, blocks.values()))), None)


@contextmanager
def tabs(at: str, paths: list[str]) -> Iterator[list[Tab]]:
    found = [Tab(at, path) for path in paths]
    await_that(lambda: all(tab.heard for tab in found))
    yield found


def test_a_change_is_seen_in_fifty_open_pages_within_a_second(outbox: Outbox, served: Served) -> None:
    paths = [each for each in ("/tasks", "/", "/tasks?q=queue:mail", "/queues", "/processes") for _ in range(10)]
    with tabs(served.address, paths) as opened:
        id = outbox.add("just now")
        began = time.monotonic()
        lists = [tab for tab, path in zip(opened, paths, strict=True) if path.startswith("/tasks")]
        late = sorted(tab.when(lambda html: str(id) in html, within=timedelta(seconds=10)) - began for tab in lists)
        assert len(late) == len(lists) == 20
        # Fifty browsers and their server share this process, on a machine that tests other things meanwhile: the bench tells
        # what they see when each has its own.
        assert late[len(late) // 2] < 2
        assert late[-1] < 5


def test_all_who_look_at_the_same_share_one_reader_and_one_reading(outbox: Outbox, whole_outbox: Outbox) -> None:
    made = []

    def make(look: Look) -> dict[str, str]:
        made.append((look, threading.get_ident(), time.monotonic()))
        return {"a": "same"}

    async def look_on() -> None:
        hub = Hub(make)
        streams = [hub.follow(LOOK) for _ in range(30)]
        for stream in streams:
            assert "retry" in await anext(stream)
            assert "same" in await asyncio.wait_for(anext(stream), 5)
        assert len(made) <= 3
        hub.close()
        for stream in streams:
            assert [frame async for frame in stream] == []

    asyncio.run(look_on())


def test_nobody_reads_when_nobody_looks(outbox: Outbox) -> None:
    made: list[Look] = []

    async def leave() -> None:
        hub = Hub(lambda look: made.append(look) or {"a": str(len(made))})  # type: ignore[func-returns-value]
        stream = hub.follow(LOOK)
        await anext(stream)
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        assert hub._reader is not None
        await asyncio.wait_for(hub._reader, 10)  # nobody else reads

    asyncio.run(leave())


def test_what_only_the_clock_changed_is_no_news() -> None:
    times = iter(range(1000))

    def make(_look: Look) -> dict[str, str]:
        return {"a": f'<time datetime="x" title="y">{next(times)} s ago</time>', "b": "same"}

    async def look_on() -> list[str]:
        hub = Hub(make)
        stream = hub.follow(LOOK)
        await anext(stream)
        first = await anext(stream)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 1.5)
        hub.close()
        return [first]

    (first,) = asyncio.run(look_on())
    assert set(json.loads(first.split("data: ")[1])) == {"a", "b"}


def test_a_page_that_cannot_be_made_now_stays_as_it_is_and_comes_back() -> None:
    tries = iter(range(1000))

    def make(_look: Look) -> dict[str, str]:
        number = next(tries)
        if 1 <= number <= 2:
            raise ConnectionError("away")
        return {"a": "before" if number == 0 else "after"}

    async def look_on() -> None:
        hub = Hub(make)
        stream = hub.follow(LOOK)
        await anext(stream)
        assert "before" in await anext(stream)
        assert "after" in await asyncio.wait_for(anext(stream), 10)
        hub.close()

    asyncio.run(look_on())


def test_a_stream_is_for_visitors_and_for_pages_that_there_are(eyes: Eyes) -> None:
    assert eyes.get("/live?at=/", role=None).status_code == 401
    assert eyes.get("/live?at=/nowhere").status_code == 404
    assert eyes.get("/live").status_code == 404


def test_one_visitor_does_not_take_the_streams_of_all(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outbox.dashboard.app.OPEN", 2)
    address = f"{served.address}/live?at=/processes"
    with httpx2.Client(headers={"X-Role": "viewer", "X-Name": "ben"}, timeout=20) as client:

        def let_in() -> bool:
            with client.stream("GET", address) as answer:
                return answer.status_code == 200

        with client.stream("GET", address) as first, client.stream("GET", address) as second:
            assert (first.status_code, second.status_code) == (200, 200)
            assert not let_in()
        await_that(let_in)


def test_as_many_follow_as_may() -> None:
    async def crowd() -> None:
        hub = Hub(lambda _look: {"a": "x"}, most=2)
        first, second = hub.follow(LOOK), hub.follow(LOOK)
        for stream in (first, second):
            await anext(stream)
            await anext(stream)
        assert hub.full
        await first.aclose()  # type: ignore[attr-defined]
        assert not hub.full
        hub.close()

    asyncio.run(crowd())
