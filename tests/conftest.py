"""Real servers for the tests, private to one run: `.dev/test/<slot>/`. With `DATABASE_URL` or `RABBITMQ_URL` set,
that server is used instead, and tests that kill or wipe one are skipped."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator

import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import make_url

from deploy.local.place import ROOT, Place, take_free_slot
from deploy.local.servers import GivenServer, Postgres, RabbitMQ, postgres_for, rabbitmq_for

#: The tests make hundreds of databases, each some three hundred files. They kill processes and never the machine: what
#: SIGKILL leaves is the same, for a commit is written before it is answered. `make up`, which the tests of the whole
#: system kill, syncs as in production.
UNSYNCED = {"fsync": "off"}


class Servers:
    """The two servers of this run, each launched when it is first wanted."""

    def __init__(self) -> None:
        self._place: Place | None = None
        self._postgres: Postgres | GivenServer | None = None
        self._rabbitmq: RabbitMQ | GivenServer | None = None

    def postgres(self) -> Postgres | GivenServer:
        if self._postgres is None:
            self._postgres = postgres_for(self._own_place(), os.environ, settings=UNSYNCED)
            _launch_empty(self._postgres)
        return self._postgres

    def rabbitmq(self) -> RabbitMQ | GivenServer:
        if self._rabbitmq is None:
            self._rabbitmq = rabbitmq_for(self._own_place(), os.environ)
            _launch_empty(self._rabbitmq)
        return self._rabbitmq

    def end(self) -> None:
        if isinstance(self._rabbitmq, RabbitMQ):
            self._rabbitmq.kill()  # its data goes with the next run: no need to wait for an orderly end
        for server in (self._rabbitmq, self._postgres):
            if server:
                server.stop()
        if self._place:
            self._place.leave()

    def _own_place(self) -> Place:
        self._place = self._place or take_free_slot(ROOT / ".dev" / "test")
        return self._place


SERVERS = pytest.StashKey[Servers]()


def _launch_empty(server: Postgres | RabbitMQ | GivenServer) -> None:
    if not isinstance(server, GivenServer):
        server.end_orphans()
        server.wipe()
    server.launch()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SERVERS] = Servers()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole systems first: they take longest, and nobody should wait for one that began last."""
    items.sort(key=lambda item: item.get_closest_marker("system") is None)


def pytest_collection_finish(session: pytest.Session) -> None:
    """RabbitMQ takes about five seconds to boot: it does so while the tests that need no broker run."""
    if session.config.option.collectonly:
        return
    wanted = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    if "rabbitmq" in wanted:
        session.config.stash[SERVERS].rabbitmq()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Reports travel between processes as UTF-8: what a test of lone surrogates has logged would end its process."""
    report = yield
    report.sections = [(name, _sayable(text)) for name, text in report.sections]
    if (told := str(report.longrepr or "")) != _sayable(told):
        report.longrepr = _sayable(told)
    return report


def _sayable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[SERVERS].end()


@pytest.fixture(scope="session")
def postgres(pytestconfig: pytest.Config) -> Postgres | GivenServer:
    """The PostgreSQL of this run, started: `.url` of its superuser, in the database `postgres`."""
    server = pytestconfig.stash[SERVERS].postgres()
    server.start()
    return server


@pytest.fixture(scope="session")
def rabbitmq(pytestconfig: pytest.Config) -> RabbitMQ | GivenServer:
    """The RabbitMQ of this run, started: `.url` of its administrator, in the vhost `/`."""
    server = pytestconfig.stash[SERVERS].rabbitmq()
    server.start()
    return server


@pytest.fixture
def own_postgres(postgres: Postgres | GivenServer) -> Iterator[Postgres]:
    """The same server for a test that kills or stops it; runs again afterwards."""
    if isinstance(postgres, GivenServer):
        pytest.skip("DATABASE_URL names somebody else's server, which is not ours to kill")
    yield postgres
    postgres.start()


@pytest.fixture
def own_rabbitmq(rabbitmq: RabbitMQ | GivenServer) -> Iterator[RabbitMQ]:
    """The same server for a test that kills, wipes or commands it; runs again afterwards."""
    if isinstance(rabbitmq, GivenServer):
        pytest.skip("RABBITMQ_URL names somebody else's server, which is not ours to command")
    yield rabbitmq
    rabbitmq.start()


@pytest.fixture(scope="session")
def new_database(postgres: Postgres | GivenServer) -> Iterator[Callable[[str], str]]:
    """Makes a database from the template of that name (`template1`: an empty one) and returns its URL."""
    made: list[str] = []

    def create(template: str) -> str:
        name = f"t_{secrets.token_hex(6)}"
        _execute(
            postgres.url,
            sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template)),
        )
        made.append(name)
        return _url_of(postgres.url, name)

    yield create
    if isinstance(postgres, GivenServer):
        for name in made:
            _drop(postgres.url, name)


@pytest.fixture(scope="session")
def migrated_template(new_database: Callable[[str], str]) -> str:
    """The name of a database that holds every migration and nothing else."""
    url = new_database("template1")
    if (ROOT / "alembic.ini").exists():
        _migrate(url)
    return make_url(url).database or ""


@pytest.fixture
def database_url(
    postgres: Postgres | GivenServer, new_database: Callable[[str], str], migrated_template: str
) -> Iterator[str]:
    """A fresh, migrated database for this test alone: `postgresql://…`."""
    url = new_database(migrated_template)
    yield url
    _drop(postgres.url, make_url(url).database or "")


@pytest.fixture
def empty_database_url(postgres: Postgres | GivenServer, new_database: Callable[[str], str]) -> Iterator[str]:
    """A fresh database without any table, for tests of the migrations themselves."""
    url = new_database("template1")
    yield url
    _drop(postgres.url, make_url(url).database or "")


@pytest.fixture
def amqp_url(rabbitmq: RabbitMQ | GivenServer) -> str:
    """A vhost of this test's own, empty: `amqp://…`. On a given server: its own, see `queue_prefix`."""
    if isinstance(rabbitmq, GivenServer):
        return rabbitmq.url
    return rabbitmq.create_vhost(f"t_{secrets.token_hex(6)}")


@pytest.fixture
def queue_prefix() -> str:
    """A prefix for queue names that no other test uses."""
    return f"t_{secrets.token_hex(4)}"


def _migrate(url: str) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", "heads"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": url},
        capture_output=True,
        text=True,
    )
    if told.returncode:
        raise RuntimeError(f"alembic upgrade heads failed:\n{told.stderr}")


def _drop(server_url: str, name: str) -> None:
    _execute(server_url, sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))


def _execute(url: str, statement: sql.Composed) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)


def _url_of(server_url: str, database: str) -> str:
    return make_url(server_url).set(database=database).render_as_string(hide_password=False)
