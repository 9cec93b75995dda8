"""`python -m bench.http_load PORT SECONDS CONNECTIONS PREFIX`: sign-ups over keep-alive connections, as fast as they are answered.

Prints JSON: the seconds of each request that was answered 201. Anything else is an error, and ends it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from itertools import count

HEAD = "POST /signups HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"


async def load(port: int, seconds: float, connections: int, prefix: str) -> list[float]:
    numbers, until = count(), time.perf_counter() + seconds
    lists = await asyncio.gather(*(_client(port, until, prefix, numbers) for _ in range(connections)))
    return [each for one in lists for each in one]


async def _client(port: int, until: float, prefix: str, numbers: count[int]) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    taken = []
    while (began := time.perf_counter()) < until:
        body = json.dumps({"email": f"{prefix}{next(numbers)}@example.com", "name": "Someone Very Nice"})
        writer.write((HEAD.format(len(body)) + body).encode())
        await _created(reader)
        taken.append(time.perf_counter() - began)
    writer.close()
    return taken


async def _created(reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = int(head.split("content-length:")[1].split("\r\n")[0])
    body = await reader.readexactly(length)
    if not head.startswith("http/1.1 201"):
        raise SystemExit(f"{head.splitlines()[0]}: {body[:500]!r}")


if __name__ == "__main__":
    _, port, seconds, connections, prefix = sys.argv
    json.dump(asyncio.run(load(int(port), float(seconds), int(connections), prefix)), sys.stdout)
