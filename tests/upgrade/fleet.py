"""Processes of the product, each from the tree of code that the test says, on one database and one broker."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from functools import partial
from pathlib import Path

import httpx2
import psycopg
import pytest

from deploy.local.place import ROOT
from deploy.local.ports import free_ports
from tests.awaiting import await_that
from tests.system.load import Mailbox, webhooks_of

__all__ = ["ADMIN", "OUTBOX", "SECRET_KEY", "Fleet"]

SECRET_KEY = "the key of the rows that old code wrote"
ADMIN = "an-admin-key-of-the-old-rows"
OUTBOX = (sys.executable, "-m", "outbox.cli")

#: What each process is, by the first word of its name: `worker-1` and `worker-2` are workers.
WORDS: dict[str, tuple[str, ...]] = {
    "api": (sys.executable, "-m", "service", "api"),
    "relay": (*OUTBOX, "relay"),
    "worker": (*OUTBOX, "worker", "--queues", "default,mail,webhooks,heavy", "--threads", "4"),
    "scheduler": (*OUTBOX, "scheduler"),
    "receivers": (sys.executable, "-m", "deploy.local", "receivers"),
}


class Fleet:
    """Starts, stops and replaces processes; what the far world got is in `mailbox` and `webhooks`."""

    def __init__(self, directory: Path, *, database_url: str, rabbitmq_url: str, queue_prefix: str) -> None:
        self.directory = directory
        self.database_url = database_url
        self.mailbox = Mailbox(directory)
        api, http, smtp = free_ports(3)
        self.receiver_url = f"http://127.0.0.1:{http}/hooks"
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
        self.env = {
            **kept, "DATABASE_URL": database_url, "RABBITMQ_URL": rabbitmq_url, "OUTBOX_QUEUE_PREFIX": queue_prefix,
            "OUTBOX_APP": "actors", "OUTBOX_LEASE": "3", "SECRET_KEY": SECRET_KEY, "SERVICE_BOOTSTRAP_API_KEY": ADMIN,
            "SMTP_URL": f"smtp://127.0.0.1:{smtp}", "MAIL_FROM": "shop@example.com",
            "WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8", "API_PORT": str(api), "API_RATE": "0",
            "API_URL": f"http://127.0.0.1:{api}", "API_KEY": ADMIN,
            "RECEIVERS_HTTP_PORT": str(http), "RECEIVERS_SMTP_PORT": str(smtp), "RECEIVERS_DIRECTORY": str(directory),
            **dict.fromkeys(
                ("OUTBOX_HISTORY_DAYS", "OUTBOX_DEAD_DAYS", "MAIL_DAYS", "WEBHOOK_DAYS", "RECEIPT_DAYS"), "36500"
            ),
        }  # fmt: skip
        self._ready = {"api": f"{self.env['API_URL']}/readyz", "receivers": self.receiver_url}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, tree: Path = ROOT) -> None:
        if name not in ("api", "receivers"):
            self._ready[name] = f"http://127.0.0.1:{free_ports(1)[0]}/readyz"
        port = self._ready[name].rpartition(":")[2].partition("/")[0]
        env = {**self.env, "PYTHONPATH": str(tree), "OUTBOX_HEALTH_PORT": port}
        with (self.directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                WORDS[name.partition("-")[0]], cwd=tree, env=env, stdout=log, stderr=log
            )

    def await_ready(self, *names: str) -> None:
        """So long as it starts, a process knows no SIGTERM."""
        for name in names or self._processes:
            await_that(partial(_answers, self._ready[name]), timedelta(seconds=90))

    def stop(self, name: str) -> None:
        """In order, as a deploy does: it finishes what runs and exits 0."""
        process = self._processes.pop(name)
        process.terminate()
        assert process.wait(60) == 0, f"{name} did not end in order:\n{self.log(name)}"

    def replace(self, name: str, tree: Path) -> None:
        self.stop(name)
        self.start(name, tree)
        self.await_ready(name)

    def run(self, *words: str, tree: Path = ROOT) -> None:
        """A command of `outbox`, to its end."""
        told = subprocess.run(
            [*OUTBOX, *words], cwd=tree, env={**self.env, "PYTHONPATH": str(tree)}, capture_output=True, text=True, timeout=90
        )  # fmt: skip
        assert told.returncode == 0, f"outbox {' '.join(words)}: {told.stdout}{told.stderr}"

    def end(self) -> None:
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()

    # ------------------------------------------------------------------ what became of it

    def query(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        with psycopg.connect(self.database_url, autocommit=True) as conn:
            return conn.execute(statement, values).fetchall()  # type: ignore[arg-type]

    def webhooks(self) -> Counter[str]:
        return webhooks_of(self.directory)

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text(errors="replace")[-3000:]

    def fail(self, error: AssertionError) -> None:
        """The test has failed: what is unfinished, and each process's last words."""
        unfinished = self.query(
            "select id, state, actor, args::text, reason from outbox.task order by created_at limit 20"
        )
        logs = [f"--- {file.name}\n{self.log(file.stem)}" for file in sorted(self.directory.glob("*.log"))]
        pytest.fail("\n".join([str(error), *map(str, unfinished), *logs]))


def _answers(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=5).is_success
    except httpx2.HTTPError:
        return False
