"""A client that knows only what it was told: the ids in the 2xx answers, and what the receivers got."""

from __future__ import annotations

import email.policy
import json
import random
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import timedelta
from email.message import EmailMessage
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import Any, cast

import httpx2
import psycopg
from awaiting import await_that

__all__ = ["Load", "Mailbox", "Told", "counted", "states", "webhooks_of"]

PRICE_CENTS = 750


@dataclass
class Told:
    """What clients were promised by a 2xx."""

    mails: list[str] = field(default_factory=list)
    deliveries: list[str] = field(default_factory=list)
    orders: list[str] = field(default_factory=list)
    #: Address to the total of its order: the receipt goes there, in a mail whose task is not known yet.
    buyers: dict[str, int] = field(default_factory=dict)
    refused: int = 0

    @property
    def tasks(self) -> list[str]:
        return self.mails + self.deliveries + self.orders


class Load:
    """Sign-ups, events and orders at a steady rate from a few threads, until told to stop.

    Errors are counted. A sign-up or an event that failed is not sent again; an order is, under its `client_id`, until
    it has its answer, also after the end: so each one that exists was answered 2xx.
    """

    def __init__(self, env: dict[str, str], *, currency: str, threads: int = 4, pause: float = 0.08) -> None:
        self.env = env
        self.told = Told()
        self._currency = currency
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
            thread.join(timeout=60)
            assert not thread.is_alive(), "an order has no answer"

    def promised(self) -> int:
        return len(self.told.tasks)

    def _send(self, number: int, pause: float) -> None:
        sent = 0
        with httpx2.Client(base_url=self.env["API_URL"], timeout=10) as client:
            client.headers["Authorization"] = f"Bearer {self.env['API_KEY']}"
            while not self._stop.is_set():
                sent += 1
                name = f"{number}-{sent}-{time.time_ns()}"
                (self._sign_up, self._event, self._sign_up, self._order)[sent % 4](client, name)
                self._stop.wait(pause)

    def _sign_up(self, client: httpx2.Client, name: str) -> None:
        answer = self._post(client, "/v1/signups", {"email": f"u{name}@example.org", "name": "U"})
        self.told.mails += answer["task_ids"] if answer else []

    def _event(self, client: httpx2.Client, _name: str) -> None:
        answer = self._post(client, "/v1/events", {"type": "load.sent", "data": {}})
        self.told.deliveries += answer["task_ids"] if answer else []

    def _order(self, client: httpx2.Client, name: str) -> None:
        address, quantity = f"b{name}@example.org", random.randint(1, 9)
        items = [{"sku": "MUG-01", "quantity": quantity, "unit_price_cents": PRICE_CENTS}]
        body = {"email": address, "items": items, "currency": self._currency, "client_id": name}
        answer = await_that(
            lambda: self._post(client, "/v1/orders", body), timedelta(minutes=3), pace=timedelta(milliseconds=100)
        )
        self.told.orders += answer["task_ids"]
        with self._lock:
            self.told.buyers[address] = quantity * PRICE_CENTS

    def _post(self, client: httpx2.Client, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        try:
            answer = client.post(path, json=body)
        except httpx2.HTTPError:
            answer = None
        if answer is not None and answer.is_success:
            return cast(dict[str, Any], answer.json())
        assert answer is None or answer.status_code >= 500, answer.text
        with self._lock:
            self.told.refused += 1
        return None


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


def counted(database_url: str, currency: str) -> tuple[int, int]:
    """How many orders of this currency the statistics know, and their sum in cents."""
    with psycopg.connect(database_url) as conn:
        rows = conn.execute(
            "select coalesce(sum(count), 0)::int, coalesce(sum(cents), 0)::int from app.counter"
            " where kind = 'order.placed' and currency = %s",
            (currency,),
        )
        return cast(tuple[int, int], rows.fetchall()[0])


class Mailbox:
    """The mails that the receiver caught, read once each."""

    def __init__(self, directory: Path) -> None:
        #: Task id, by the Message-ID, to number of copies.
        self.copies: Counter[str] = Counter()
        #: Address to the Message-IDs that brought it a PDF.
        self.receipts: dict[str, set[str]] = defaultdict(set)
        self._directory = directory / "mail"
        self._seen: set[str] = set()

    def read(self) -> Mailbox:
        for file in self._directory.glob("[!.]*.eml"):
            if file.name not in self._seen:
                self._seen.add(file.name)
                self._note(file.read_bytes())
        return self

    def _note(self, content: bytes) -> None:
        headers = cast(EmailMessage, BytesHeaderParser(policy=email.policy.default).parsebytes(content))
        task = str(headers["Message-ID"]).strip("<>").partition("@")[0]
        self.copies[task] += 1
        if b"application/pdf" in content:
            self.receipts[str(headers["Delivered-To"])].add(task)


def webhooks_of(directory: Path) -> Counter[str]:
    """Webhook id to number of requests that the receiver got."""
    lines = (directory / "webhooks.jsonl").read_text().splitlines()
    return Counter({k.lower(): v for k, v in json.loads(line)["headers"].items()}["webhook-id"] for line in lines)
