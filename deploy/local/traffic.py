"""Real sign-ups, orders and events, and the record of what the API promised for each of them."""

from __future__ import annotations

import random
import secrets
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, NamedTuple

import httpx2

from deploy.local.system import Surroundings

EVENT_TYPE = "page.viewed"
ORDER_EVENT_TYPE = "order.placed"
NAMES = ("Ada", "Grace", "Edsger", "Barbara", "Ken", "Radia", "Tony", "Margaret", "Leslie", "Frances")
GOODS = (("MUG-01", 1290), ("TEE-07", 2450), ("INK-03", 780), ("LAMP-2", 5900), ("BOOK-9", 3300))
PATIENCE = timedelta(seconds=60)


class Refused(Exception):
    """The API answered something that the demo does not expect; the message is its answer."""


class Arrival(NamedTuple):
    """Something that must arrive in the far world: what it is, and whom or what it is about."""

    kind: Literal["mail", "mail with a PDF", "webhook"]
    about: str


@dataclass
class Promises:
    """What 2xx answers stand for. Appended by the traffic, read by the screen and the verdict."""

    task_ids: set[str] = field(default_factory=set)
    #: Each arrival with the ids that it may bear; none where the API does not tell the id.
    arrivals: dict[Arrival, frozenset[str]] = field(default_factory=dict)
    answered: dict[str, int] = field(default_factory=lambda: {"sign-ups": 0, "orders": 0, "events": 0})
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, kind: str, answer: dict[str, Any], *arrivals: Arrival) -> None:
        ids = frozenset(answer["task_ids"])
        with self.lock:
            self.answered[kind] += 1
            self.task_ids |= ids
            # A receipt's mail is a task that the receipt's task makes: its id is not known yet.
            self.arrivals |= {each: frozenset() if each.kind == "mail with a PDF" else ids for each in arrivals}


class Traffic:
    """One client of the API. A request that gets no answer is sent again under the same Idempotency-Key."""

    def __init__(self, surroundings: Surroundings, *, give_up: Callable[[], bool]) -> None:
        self.promises = Promises()
        self._run = secrets.token_hex(4)
        self._surroundings = surroundings
        self._give_up = give_up
        self._client = httpx2.Client(
            base_url=surroundings.api_url,
            headers={"Authorization": f"Bearer {surroundings.api_key}"},
            timeout=10,
        )

    def register_endpoint(self, known: str | None) -> str:
        """The id of the one endpoint of the demo, at its own receiver: the known one while the API knows it too."""
        url = f"{self._surroundings.webhook_receiver_url}/hooks"
        if known:
            found = self._client.get(f"/v1/endpoints/{known}")
            if found.status_code == 200 and found.json()["url"] == url:
                return known
        wanted = {"url": url, "event_types": [EVENT_TYPE, ORDER_EVENT_TYPE], "description": "receiver of the demo"}
        return str(self._post("/v1/endpoints", wanted)["endpoint_id"])

    def sign_up(self) -> None:
        address = self._address("user")
        answer = self._post("/v1/signups", {"email": address, "name": random.choice(NAMES)})
        self.promises.note("sign-ups", answer, Arrival("mail", address))

    def order(self) -> None:
        address = self._address("buyer")
        bought = random.sample(GOODS, k=random.randint(1, 3))
        items = [
            {"sku": sku, "quantity": random.randint(1, 4), "unit_price_cents": price_cents}
            for sku, price_cents in bought
        ]
        answer = self._post("/v1/orders", {"email": address, "items": items, "currency": "EUR"})
        webhook = Arrival("webhook", str(answer["order_id"]))
        self.promises.note("orders", answer, Arrival("mail with a PDF", address), webhook)

    def event(self) -> None:
        mark = f"mark-{self._run}-{uuid.uuid4().hex}"
        answer = self._post("/v1/events", {"type": EVENT_TYPE, "data": {"mark": mark, "path": "/pricing"}})
        self.promises.note("events", answer, Arrival("webhook", mark))

    def _address(self, who: str) -> str:
        return f"{who}-{self._run}-{uuid.uuid4().hex[:12]}@example.com"

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request that was accepted. Sent again while there is none, or a 5xx, or a 429."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        deadline = time.monotonic() + PATIENCE.total_seconds()
        while True:
            try:
                answer = self._client.post(path, json=body, headers=headers)
            except httpx2.TransportError as error:
                trouble = repr(error)
            else:
                if answer.is_success:
                    return dict(answer.json())
                trouble = f"{answer.status_code} {answer.text}"
                # 409: the first copy of this request is still under way, or left its key locked.
                if answer.status_code < 500 and answer.status_code not in (409, 429):
                    raise Refused(f"POST {path}: {trouble}")
            if self._give_up() or time.monotonic() > deadline:
                raise Refused(f"POST {path}: {trouble}")
            time.sleep(0.2)
