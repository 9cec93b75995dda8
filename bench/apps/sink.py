"""What the far sides have in common: a port and a delay from the command line, the stamps from the environment."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Callable

from bench.apps.stamp import Stamps


def run(receiver: Callable[[Stamps, float], asyncio.Protocol], about: str | None) -> None:
    """Serve on loopback until killed, with a receiver for each connection."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("port", type=int)
    parser.add_argument("--delay", type=float, default=0.0)
    asked = parser.parse_args()
    asyncio.run(_serve(receiver, asked.port, asked.delay))


async def _serve(receiver: Callable[[Stamps, float], asyncio.Protocol], port: int, delay: float) -> None:
    stamps, loop = Stamps(os.environ["BENCH_STAMPS"]), asyncio.get_running_loop()
    server = await loop.create_server(lambda: receiver(stamps, delay), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()
