"""Through PgBouncer in transaction mode (OUTBOX_LISTEN=false): API, relay, worker and command line on shared sessions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy.engine import make_url

from deploy.local.place import ROOT
from deploy.local.ports import free_ports
from tests.awaiting import await_that

PGBOUNCER = shutil.which(
    "pgbouncer", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
)

pytestmark = [pytest.mark.system, pytest.mark.skipif(PGBOUNCER is None, reason="no pgbouncer is installed here")]

KEY = "a-key-for-this-test-alone"
OUTBOX = (sys.executable, "-m", "outbox.cli")
ORDERS = 40
CONFIGURATION = """
[databases]
* = host={host} port={port} user={user} password={password}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 4
max_client_conn = 200
"""


class Ground:
    """Processes of the product with one environment, each with a log of its own; ended in turn, and they exit 0."""

    def __init__(self, directory: Path, env: dict[str, str]) -> None:
        self.directory, self.env = directory, env
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *words: str) -> None:
        with (self.directory / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(words, env=self.env, cwd=ROOT, stdout=log, stderr=log)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*OUTBOX, *words], env=self.env, cwd=ROOT, capture_output=True, text=True, timeout=60)

    def read(self, *words: str) -> Any:
        told = self.run(*words, "--json")
        assert told.returncode == 0, told.stderr
        return json.loads(told.stdout)

    def logs(self) -> str:
        return "\n".join(f"--- {log.name}\n{log.read_text()}" for log in sorted(self.directory.glob("*.log")))

    def end(self) -> dict[str, int]:
        """The exit codes after SIGTERM."""
        for process in self.processes.values():
            process.terminate()
        return {name: process.wait(timeout=60) for name, process in self.processes.items()}


@pytest.fixture
def bouncer_url(empty_database_url: str, tmp_path: Path) -> Iterator[str]:
    """The test's empty database by way of a PgBouncer of its own, whose few sessions all clients share."""
    direct, (port,) = make_url(empty_database_url), free_ports(1)
    (tmp_path / "pgbouncer.ini").write_text(
        CONFIGURATION.format(
            host=direct.host, port=direct.port or 5432, user=direct.username, password=direct.password, listen=port
        )
    )
    root = ("-u", "nobody") if os.geteuid() == 0 else ()
    with (tmp_path / "pgbouncer.log").open("wb") as log:
        process = subprocess.Popen([str(PGBOUNCER), *root, str(tmp_path / "pgbouncer.ini")], stdout=log, stderr=log)
    try:
        await_that(lambda: process.poll() is None and "process up" in (tmp_path / "pgbouncer.log").read_text())
        yield direct.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def ground(bouncer_url: str, amqp_url: str, queue_prefix: str, tmp_path: Path) -> Iterator[Ground]:
    (port,) = free_ports(1)
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    env = {
        **kept, "DATABASE_URL": bouncer_url, "RABBITMQ_URL": amqp_url, "OUTBOX_LISTEN": "false", "OUTBOX_APP": "actors",
        "OUTBOX_QUEUE_PREFIX": queue_prefix, "SECRET_KEY": "s" * 32, "SERVICE_BOOTSTRAP_API_KEY": KEY, "API_PORT": str(port),
        "SMTP_URL": "smtp://127.0.0.1:1",
    }  # fmt: skip
    ground = Ground(tmp_path, env)
    yield ground
    for process in ground.processes.values():
        process.kill()
        process.wait()


def test_orders_go_from_the_api_to_a_worker_and_the_command_line_sees_them(ground: Ground) -> None:
    assert ground.run("db", "upgrade").returncode == 0
    assert ground.run("db", "check").returncode == 0
    ground.start("api", sys.executable, "-m", "service", "api")
    ground.start("relay", *OUTBOX, "relay")
    ground.start("worker", *OUTBOX, "worker", "--queues", "default")
    try:
        _place_orders(f"http://127.0.0.1:{ground.env['API_PORT']}")
        counted = ("tasks", "list", "--actor", "count_event", "--state", "succeeded", "--limit", "1000")
        await_that(lambda: len(ground.read(*counted)["items"]) >= ORDERS)
        checks = {
            each["name"]: each["status"] for each in json.loads(ground.run("doctor", "--json").stdout)["findings"]
        }
        assert {checks[name] for name in ("PostgreSQL", "migrations", "relay", "worker")} == {"ok"}
    except AssertionError as error:
        pytest.fail(f"{error}\n{ground.logs()}")
    assert ground.end() == {"api": 0, "relay": 0, "worker": 0}
    for trouble in ("prepared statement", "unsupported startup parameter"):
        assert trouble not in ground.logs()


def _place_orders(url: str) -> None:
    items = [{"sku": "a", "quantity": 1, "unit_price_cents": 100}]
    body = {"email": "ada@example.org", "currency": "EUR", "items": items}
    with httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=30) as client:
        await_that(_answers(client))
        for _ in range(ORDERS):
            assert client.post("/v1/orders", json=body).status_code == 201


def _answers(client: httpx2.Client) -> Callable[[], bool]:
    def ready() -> bool:
        try:
            return client.get("/readyz").is_success
        except httpx2.HTTPError:
            return False

    return ready
