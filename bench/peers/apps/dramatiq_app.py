"""Plain Dramatiq: `send()` with a confirm, after the commit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from bench.apps.plain import broker, noop

ENQUEUE = "sync"


@asynccontextmanager
async def sends() -> AsyncIterator[Callable[..., Awaitable[None]]]:
    async def send(number: int, **more: str) -> None:
        noop.send(number, **more)

    yield send
    broker.close()
