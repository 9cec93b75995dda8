"""The ground that is measured on: private servers, and for each round an empty database and an empty vhost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from deploy.local.child import Child, Command
from deploy.local.place import ROOT, take
from deploy.local.servers import Postgres, RabbitMQ

TEMPLATE = "bench_template"


@dataclass
class Field:
    """One round's own database, vhost, directory and processes. Everything in it ends with the round."""

    database_url: str
    rabbitmq_url: str
    directory: Path
    children: list[Child] = field(default_factory=list)

    @property
    def stamps(self) -> Path:
        return self.directory / "stamps"

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.database_url, autocommit=True)

    def environment(self, **more: str) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("OUTBOX_")}
        return inherited | {
            "DATABASE_URL": self.database_url,
            "RABBITMQ_URL": self.rabbitmq_url,
            "BENCH_STAMPS": str(self.stamps),
            "OUTBOX_APP": "bench.apps.ours",
            "LOG_LEVEL": "WARNING",
            "PYTHONPATH": str(ROOT),
            **more,
        }

    def spawn(self, name: str, words: Sequence[str], environment: Mapping[str, str] | None = None) -> Child:
        """Start a process of this round. `end` ends it at the latest."""
        child = Child(name, pids=self.directory / "pids", logs=self.directory / "logs")
        child.spawn(Command(words, environment or self.environment(), directory=ROOT))
        self.children.append(child)
        return child

    def python(self, name: str, *words: str, **more: str) -> Child:
        return self.spawn(name, [sys.executable, *words], self.environment(**more))

    def run(self, *words: str, **more: str) -> str:
        """What a Python process of this round printed, once it has ended well."""
        told = subprocess.run(
            [sys.executable, *words], env=self.environment(**more), cwd=ROOT, capture_output=True, text=True
        )
        if told.returncode:
            raise RuntimeError(f"{' '.join(words)} ended with {told.returncode}:\n{told.stderr.strip()[-2000:]}")
        return told.stdout

    def end(self) -> None:
        for child in reversed(self.children):
            child.terminate()
        for child in reversed(self.children):
            child.stop()
        self.children.clear()

    def complaints(self) -> str:
        """The last words of every process of this round, for an error's message."""
        return "\n".join(f"--- {each.name}\n{each.last_words()}" for each in self.children)


class Ground:
    """The two servers, with the settings that `make up` gives them. A new cluster and a new node for every run."""

    def __init__(self, directory: Path) -> None:
        place = take(directory)
        self._place = place
        self._rounds = count(1)
        self.postgres = Postgres(directory / "postgres", pids=place.pids, logs=place.logs)
        self.rabbitmq = RabbitMQ(directory / "rabbitmq", pids=place.pids, logs=place.logs)

    @property
    def postgres_log(self) -> Path:
        return self._place.logs / "postgres.log"

    def start(self) -> None:
        for server in (self.postgres, self.rabbitmq):
            server.end_orphans()
            server.wipe()
            server.launch()
        for server in (self.postgres, self.rabbitmq):
            server.start()
        url = self.postgres.create_database(TEMPLATE)
        made = subprocess.run(
            [sys.executable, "-m", "outbox.cli", "db", "upgrade"],
            env=os.environ | {"DATABASE_URL": url},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        if made.returncode:
            raise RuntimeError(f"the migrations failed:\n{made.stderr.strip()[-2000:]}")

    def stop(self) -> None:
        self.rabbitmq.stop()
        self.postgres.stop()
        self._place.leave()

    @contextmanager
    def round(self) -> Iterator[Field]:
        """An empty, migrated database and an empty vhost. They are gone afterwards, and so is what ran on them."""
        name = f"round_{next(self._rounds)}"
        directory = self._place.directory / "rounds" / name
        shutil.rmtree(directory, ignore_errors=True)
        (directory / "stamps").mkdir(parents=True)
        self._execute("create database {} template {}", name, TEMPLATE)
        here = Field(self.postgres.database_url(name), self.rabbitmq.create_vhost(name), directory)
        try:
            yield here
        except Exception as error:
            raise RuntimeError(f"{error}\n{here.complaints()}") from error
        finally:
            here.end()
            self.rabbitmq.ctl("delete_vhost", name)
            self._execute("drop database {} with (force)", name)
            self._execute("checkpoint")

    def _execute(self, statement: str, *names: str) -> None:
        with psycopg.connect(self.postgres.url, autocommit=True) as conn:
            conn.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@contextmanager
def ground() -> Iterator[Ground]:
    """The servers, for as long as a run of the measurements takes."""
    here = Ground(ROOT / ".dev" / "bench")
    try:
        here.start()
        yield here
    finally:
        here.stop()
