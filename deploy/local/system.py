"""What the system consists of: one table of processes, and the environment that each of them gets."""

from __future__ import annotations

import base64
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from deploy.local.child import write_atomically
from deploy.local.place import ROOT, Place
from deploy.local.ports import claim, free_ports
from deploy.local.server import remember, remembered

OUTBOX = str(Path(sys.executable).with_name("outbox"))


@dataclass(frozen=True)
class Program:
    """One process of the system. Programs of a lower `rank` are stopped first, those of one rank together."""

    name: str
    words: tuple[str, ...]
    rank: int
    health: str = "/readyz"


# The order of stopping: nothing new comes in, then what runs is finished, then the road is closed, then the far world.
PROGRAMS = (
    Program("api", (sys.executable, "-m", "service", "api"), rank=1),
    Program("scheduler", (OUTBOX, "scheduler"), rank=1),
    Program("worker-1", (OUTBOX, "worker", "--queues", "default,mail,webhooks"), rank=2),
    Program("worker-2", (OUTBOX, "worker", "--queues", "default,mail,webhooks"), rank=2),
    Program("worker-heavy", (OUTBOX, "worker", "--queues", "heavy", "--threads", "2"), rank=2),
    Program("relay", (OUTBOX, "relay"), rank=3),
    Program("receivers", (sys.executable, "-m", "deploy.local", "receivers"), rank=4, health="/"),
)


@dataclass(frozen=True)
class Ports:
    """One for each program: the API's own, the health port of the others; and the sink for mail."""

    of: Mapping[str, int]
    smtp: int

    @classmethod
    def choose(cls, place: Place) -> Ports:
        """Those of the last time while they are free; the first time the API prefers 8000."""
        names = [*(program.name for program in PROGRAMS), "smtp"]
        file = place.directory / "ports.json"
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        before = remembered(file) or {}
        ports |= {name: port for name, port in before.items() if name in ports and claim(port)}
        if "api" not in before and claim(8000):
            ports["api"] = 8000
        remember(file, ports)
        return cls({name: port for name, port in ports.items() if name != "smtp"}, ports["smtp"])


@dataclass(frozen=True)
class Surroundings:
    """What `.dev/env` tells the world: where things are, and the key that opens them."""

    database_url: str
    rabbitmq_url: str
    ports: Ports
    api_key: str
    secret_key: str

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.of['api']}"

    @property
    def smtp_url(self) -> str:
        return f"smtp://127.0.0.1:{self.ports.smtp}"

    @property
    def webhook_receiver_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.of['receivers']}"

    def write(self, file: Path) -> None:
        told = {
            "API_URL": self.api_url,
            "API_KEY": self.api_key,
            "DATABASE_URL": self.database_url,
            "RABBITMQ_URL": self.rabbitmq_url,
            "SMTP_URL": self.smtp_url,
            "DASHBOARD_URL": f"{self.api_url}/",
            "WEBHOOK_RECEIVER_URL": self.webhook_receiver_url,
        }
        write_atomically(file, "".join(f"export {name}={quote(value)}\n" for name, value in told.items()), mode=0o600)

    def environment_of(self, program: Program, place: Place) -> dict[str, str]:
        port = str(self.ports.of[program.name])
        return {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(ROOT),
            "DATABASE_URL": self.database_url,
            "RABBITMQ_URL": self.rabbitmq_url,
            "SMTP_URL": self.smtp_url,
            "MAIL_FROM": "demo@example.com",
            "PUBLIC_URL": self.api_url,
            "MAIL_UNCERTAIN_WAIT": "3",  # whoever kills a worker in the middle of a mail wants to see what follows
            "SECRET_KEY": self.secret_key,
            "SERVICE_BOOTSTRAP_API_KEY": self.api_key,
            "WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8,::1/128",
            "LOG_FORMAT": "json",
            "OUTBOX_APP": "actors",
            "OUTBOX_HEALTH_PORT": port,
            "API_PORT": port,
            "RECEIVERS_SMTP_PORT": str(self.ports.smtp),
            "RECEIVERS_HTTP_PORT": port,
            "RECEIVERS_DIRECTORY": str(place.directory),
        }


def kept_secret(file: Path, *, prefix: str = "", padded: bool = False) -> str:
    """The secret in `file`, made at its first use: 32 random bytes in URL-safe base64."""
    if file.exists():
        return file.read_text().strip()
    encoded = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    secret = prefix + (encoded if padded else encoded.rstrip("="))
    write_atomically(file, secret + "\n", mode=0o600)
    return secret
