"""A client that knows only what it was told: the ids in the 2xx answers, and what the receivers got."""

from __future__ import annotations

import email
import email.policy
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psycopg

__all__ = ["Load", "Told"]


@dataclass
class Told:
    """What clients were promised by a 2xx."""

    mails: list[str] = field(default_factory=list)
    deliveries: list[str] = field(default_factory=list)
    refused: int = 0

    @property
    def tasks(self) -> list[str]:
        return self.mails + self.deliveries


class Load:
    """Sign-ups and events at a steady rate from a few threads, until told to stop. Errors are counted, never retried."""

    def __init__(self, env: dict[str, str], *, threads: int = 4, pause: float = 0.08) -> None:
        self.env = env
        self.told = Told()
        self._threads = [threading.Thread(target=self._send, args=(n, pause), daemon=True) for n in range(threads)]
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=30)

    def promised(self) -> int:
        return len(self.told.tasks)

    def _send(self, number: int, pause: float) -> None:
        sent = 0
        with httpx2.Client(base_url=self.env["API_URL"], timeout=10) as client:
            client.headers["Authorization"] = f"Bearer {self.env['API_KEY']}"
            while not self._stop.is_set():
                sent += 1
                self._one(client, f"{number}-{sent}-{time.time_ns()}", mail=bool(sent % 2))
                self._stop.wait(pause)

    def _one(self, client: httpx2.Client, name: str, *, mail: bool) -> None:
        body: dict[str, Any] = (
            {"email": f"u{name}@example.org", "name": "U"} if mail else {"type": "load.sent", "data": {}}
        )
        try:
            answer = client.post("/v1/signups" if mail else "/v1/events", json=body)
        except httpx2.HTTPError:
            answer = None
        with self._lock:
            if answer is None or not answer.is_success:
                self.told.refused += 1
            else:
                (self.told.mails if mail else self.told.deliveries).extend(answer.json()["task_ids"])


def states(database_url: str, ids: list[str]) -> Counter[str]:
    """In which state these tasks are; `lost` are those that no table knows."""
    found: Counter[str] = Counter()
    with psycopg.connect(database_url) as conn:
        for table in ("task", "history", "dead"):
            rows = conn.execute(f"select state, count(*) from outbox.{table} where id = any(%s) group by 1", (ids,))  # type: ignore[arg-type]
            found.update(dict(rows.fetchall()))
    if len(ids) > found.total():
        found["lost"] = len(ids) - found.total()
    return found


def mails_of(directory: Path) -> Counter[str]:
    """Task id to number of caught mails, by their Message-ID."""
    seen: Counter[str] = Counter()
    for file in (directory / "mail").glob("*.eml"):
        headers = email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
        seen[str(headers["Message-ID"]).strip("<>").partition("@")[0]] += 1
    return seen


def webhooks_of(directory: Path) -> Counter[str]:
    """Webhook id to number of requests that the receiver got."""
    lines = (directory / "webhooks.jsonl").read_text().splitlines()
    return Counter({k.lower(): v for k, v in json.loads(line)["headers"].items()}["webhook-id"] for line in lines)
