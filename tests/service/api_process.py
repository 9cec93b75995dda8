"""An API process of a test's own."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys

import httpx2
from service_eyes import ADMIN, SECRET_KEY


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(url: str, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    return {
        **kept, "DATABASE_URL": url, "SECRET_KEY": SECRET_KEY, "SERVICE_BOOTSTRAP_API_KEY": ADMIN, "LOG_FORMAT": "json",
        **more,
    }  # fmt: skip


class Api:
    """A running API process, ready. `files`: how many it may have open, until it asks for more."""

    def __init__(self, url: str, *words: str, files: int | None = None) -> None:
        self.port = free_port()
        self.process = subprocess.Popen(
            [sys.executable, "-m", *(words or ("service", "api")), *(("--port", str(self.port)) if words else ())],
            env=environment(url, API_PORT=str(self.port)), stderr=subprocess.PIPE, text=True,
            preexec_fn=(lambda: _allow(files)) if files else None,
        )  # fmt: skip
        self.client = httpx2.Client(
            base_url=f"http://127.0.0.1:{self.port}", headers={"Authorization": f"Bearer {ADMIN}"}, timeout=30
        )
        assert self.process.stderr is not None
        self.log = iter(self.process.stderr)
        next(line for line in self.log if "Uvicorn running" in line)

    def end(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def _allow(files: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
