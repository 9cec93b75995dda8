"""Secrets that are planted everywhere appear nowhere: real processes at DEBUG, in both styles, through work and failures."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import httpx2
import psycopg
import pytest
from awaiting import await_that
from sqlalchemy.engine import make_url

from deploy.local.place import ROOT

PLANTED = {
    "wrong database password": "pL4nted-database/word+1",
    "wrong broker password": "pL4nted-broker/word+2",
    "smtp password": "pL4nted-smtp/word+3",
    "secret key": "pL4nted-secret-key-of-at-least-32-characters",
    "bootstrap key": "pL4nted-bootstrap-key",
    "wrong key": "pL4nted-wrong-key",
    "endpoint header": "pL4nted-header-value",
}
#: Everything that is served, or that runs, as `make up` starts it.
COMMANDS = {
    "api": ("-m", "service", "api"),
    "relay": ("-m", "outbox.cli", "--app", "actors", "relay"),
    "worker": ("-m", "outbox.cli", "--app", "actors", "worker", "--threads", "2"),
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class House:
    """The system's processes, each with every secret in its environment, and what they wrote."""

    def __init__(self, directory: Path, env: Mapping[str, str]) -> None:
        self.env = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")} | dict(env)
        self._directory = directory
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, **env: str) -> subprocess.Popen[bytes]:
        kind = name.split("-")[0]
        with (self._directory / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *COMMANDS[kind]], cwd=ROOT, env=self.env | env, stdout=log, stderr=log
            )
        return self.processes[name]

    def run(self, *words: str, **env: str) -> str:
        """What a command told, on both its outputs."""
        told = subprocess.run(
            [sys.executable, *words], cwd=ROOT, env=self.env | env, capture_output=True, text=True, timeout=60
        )
        return told.stdout + told.stderr

    def log(self, name: str) -> str:
        return (self._directory / f"{name}.log").read_text()

    def logs(self) -> dict[str, str]:
        return {name: self.log(name) for name in self.processes}

    def titles(self) -> dict[str, str]:
        return {
            name: Path(f"/proc/{p.pid}/cmdline").read_text() for name, p in self.processes.items() if p.poll() is None
        }

    def end(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def house(tmp_path: Path, database_url: str, amqp_url: str, queue_prefix: str) -> Iterator[House]:
    house = House(
        tmp_path,
        {
            "DATABASE_URL": database_url,
            "RABBITMQ_URL": amqp_url,
            "OUTBOX_QUEUE_PREFIX": queue_prefix,
            "SMTP_URL": f"smtps://user:{quote(PLANTED['smtp password'], safe='')}@127.0.0.1:1",
            "SECRET_KEY": PLANTED["secret key"],
            "SERVICE_BOOTSTRAP_API_KEY": PLANTED["bootstrap key"],
            "WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
            "LOG_LEVEL": "DEBUG",
            "API_PORT": str(free_port()),
            "OUTBOX_APP": "actors",
        },
    )
    yield house
    house.end()


@pytest.mark.system
def test_no_secret_is_in_logs_answers_metrics_tables_titles_or_what_commands_tell(
    house: House, database_url: str, amqp_url: str
) -> None:
    locked = with_password(database_url, PLANTED["wrong database password"])
    refused = with_password(amqp_url, PLANTED["wrong broker password"])
    house.start("api", LOG_FORMAT="json")
    house.start("worker", LOG_FORMAT="console", OUTBOX_HEALTH_PORT=(port := str(free_port())))
    house.start("relay", LOG_FORMAT="json")
    house.start("worker-refused", RABBITMQ_URL=refused, LOG_FORMAT="json")
    house.start("relay-locked", DATABASE_URL=locked, RABBITMQ_URL=refused, LOG_FORMAT="console")
    answers = live(house, database_url)
    secret = answers.pop("endpoint's secret, shown once")
    key = house.run("-m", "service", "keys", "create", "--name", "x").split()[0]
    seen = {
        **answers,
        "doctor": house.run("-m", "outbox.cli", "doctor"),
        "doctor without servers": house.run("-m", "outbox.cli", "doctor", DATABASE_URL=locked, RABBITMQ_URL=refused),
        "a command that fails": house.run("-m", "outbox.cli", "--debug", "tasks", "list", DATABASE_URL=locked),
        "metrics of worker": httpx2.get(f"http://127.0.0.1:{port}/metrics").text,
        **tables(database_url),
        **{f"title of {name}": title for name, title in house.titles().items()},
    }
    for name in ("relay-locked", "worker-refused"):
        await_that(lambda name=name: troubled(house.log(name)), timedelta(seconds=60))  # type: ignore[misc]
    house.end()
    seen |= {f"log of {name}": log for name, log in house.logs().items()}
    own = {
        "endpoint's secret": secret.removeprefix("whsec_"), "key": key,
        "database password": str(make_url(database_url).password), "broker password": str(make_url(amqp_url).password),
    }  # fmt: skip
    planted = PLANTED | {
        what: value for what, value in own.items() if len(value) > 10
    }  # a given server's may be a word
    assert leaks(seen, planted) == []
    assert all(seen[f"log of {name}"] for name in house.processes)


def live(house: House, database_url: str) -> dict[str, str]:
    """Callers, right and wrong, and tasks that fail; what each was answered."""
    base = f"http://127.0.0.1:{house.env['API_PORT']}"
    with httpx2.Client(
        base_url=base, headers={"Authorization": f"Bearer {PLANTED['bootstrap key']}"}, timeout=30
    ) as api:
        await_that(lambda: reachable(api), timedelta(seconds=60))
        made = api.post(
            "/v1/endpoints",
            json={
                "url": f"http://127.0.0.1:{free_port()}/x", "event_types": ["*"], "headers": {"X-Secret": PLANTED["endpoint header"]},
            },
        )  # fmt: skip
        assert made.status_code == 201, made.text
        answers = [
            api.post("/v1/mails", json={"to": "a@example.org", "subject": "s", "text": "t"}),
            api.post("/v1/events", json={"type": "a.b", "data": {"x": 1}}),
            api.get(f"/v1/endpoints/{made.json()['endpoint_id']}"),
            api.get("/v1/tasks", headers={"Authorization": f"Bearer {PLANTED['wrong key']}"}),
            api.get("/v1/tasks", headers={"Authorization": f"Basic {PLANTED['wrong key']}"}),
            api.post(
                "/v1/mails", content=b"{", headers={"Cookie": PLANTED["wrong key"], "X-Api-Key": PLANTED["wrong key"]}
            ),
        ]
        with psycopg.connect(database_url, autocommit=True) as conn:
            tried = "select count(*) from outbox.task where state = 'scheduled' and attempts <> '[]'"
            await_that(lambda: conn.execute(tried).fetchall()[0][0] >= 1, timedelta(seconds=60))
        answers += [api.get("/v1/tasks"), api.get("/metrics"), api.get("/v1/endpoints"), api.get("/openapi.json")]
        told = {f"answer {n}": f"{each.headers} {each.text}" for n, each in enumerate(answers)}
        return {**told, "endpoint's secret, shown once": made.json()["secret"]}


def with_password(url: str, password: str) -> str:
    return make_url(url).set(password=password).render_as_string(hide_password=False)


def troubled(log: str) -> bool:
    """The process has said at least that it cannot do its work."""
    return any(word in log.lower() for word in ("warning", "error", "critical"))


def reachable(api: httpx2.Client) -> bool:
    try:
        return api.get("/readyz").status_code == 200
    except httpx2.TransportError:
        return False


def tables(database_url: str) -> dict[str, str]:
    """Every row of every table, and what each connection calls itself."""
    with psycopg.connect(database_url) as conn:
        names = conn.execute(
            "select n.nspname || '.' || c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace"
            " where n.nspname in ('outbox', 'app') and c.relkind = 'r'"
        ).fetchall()
        rows = {name: str(conn.execute(f"select t::text from {name} t").fetchall()) for (name,) in names}
        return {**rows, "connections": str(conn.execute("select application_name from pg_stat_activity").fetchall())}


def leaks(seen: dict[str, str], planted: dict[str, str]) -> list[tuple[str, str]]:
    """(where, what), also for a secret in another spelling."""
    spelt: Callable[[str], set[str]] = lambda secret: {  # noqa: E731
        secret, quote(secret, safe=""), secret.encode().hex(), base64.b64encode(secret.encode()).decode(),
    }  # fmt: skip
    return [
        (where, what)
        for where, text in seen.items()
        for what, secret in planted.items()
        if any(s in text for s in spelt(secret))
    ]


def test_the_search_finds_what_it_is_to_find() -> None:
    assert leaks({"here": "a pL4%2Fnted b", "there": "b"}, {"it": "pL4/nted"}) == [("here", "it")]
