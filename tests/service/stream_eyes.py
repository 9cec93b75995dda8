"""The API over real connections, and what a reader of its streams gets."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import uvicorn
from api_process import free_port
from awaiting import await_that
from service_eyes import ADMIN, settings_for

from service.app import create_app

Frame = dict[str, Any]
MAIL = {"to": "a@example.org", "subject": "s", "text": "t"}


def frames(lines: Iterator[str]) -> Iterator[Frame]:
    """What a reader of the stream gets: `event`, `data`, `id`, `retry`, or `comment`."""
    frame: Frame = {}
    for line in lines:
        if not line:
            yield frame
            frame = {}
            continue
        name, _, value = line.partition(":")
        frame[name or "comment"] = json.loads(value) if name == "data" else value.strip()


class Served:
    """The API in a thread of this process, called over a real connection: streams need one each."""

    def __init__(self, url: str, **changed: Any) -> None:
        self.port = free_port()
        self.app = create_app(settings_for(url, **changed))
        config = uvicorn.Config(self.app, port=self.port, log_config=None, access_log=False)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        await_that(lambda: self.server.started)
        self.client = httpx2.Client(
            base_url=f"http://127.0.0.1:{self.port}", headers={"Authorization": f"Bearer {ADMIN}"}, timeout=60,
            limits=httpx2.Limits(max_connections=None),
        )  # fmt: skip

    def enqueue(self) -> str:
        return str(self.client.post("/v1/mails", json=MAIL).json()["mail_id"])

    @contextmanager
    def follow(self, task_id: str, **headers: str) -> Iterator[Iterator[Frame]]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with self.client.stream("GET", f"/v1/tasks/{task_id}/stream", headers=named) as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            yield frames(answer.iter_lines())

    def end(self) -> None:
        self.app.state.watch.close()
        self.server.should_exit = True
        self.thread.join()
        self.client.close()


def told(frame: Frame) -> tuple[str, str]:
    return frame["event"], frame["data"]["state"]
