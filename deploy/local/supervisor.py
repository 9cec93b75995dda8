"""The whole system: started in order, kept alive, ended without a trace."""

from __future__ import annotations

import os
import shutil
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from deploy.local.account import delete_directory
from deploy.local.child import Child, Command
from deploy.local.keeper import Keeper, Tell
from deploy.local.place import ROOT, Place
from deploy.local.postgres import Postgres
from deploy.local.rabbitmq import RabbitMQ
from deploy.local.server import ServerFailed
from deploy.local.servers import postgres_for, rabbitmq_for
from deploy.local.system import OUTBOX, PROGRAMS, Ports, Program, Surroundings, kept_secret

DATABASE = "outbox"
SERVERS = {"postgres", "rabbitmq", "epmd"}
START_LIMIT = timedelta(seconds=120)


class Interrupted(Exception):
    """The system was told to stop before it was ready."""


@dataclass(frozen=True)
class Running:
    """A program of ours with the child that runs it."""

    program: Program
    child: Child
    command: Command

    @property
    def running(self) -> bool:
        return self.child.running

    def launch(self) -> None:
        self.child.spawn(self.command)

    def kill(self) -> None:
        self.child.kill()


class Supervisor:
    """start(), then tend() again and again, then stop(). `stopping` says that a signal came."""

    def __init__(self, place: Place, *, tell: Tell, stopping: Callable[[], bool], hurried: Callable[[], bool]) -> None:
        self._place = place
        self._tell = tell
        self._stopping = stopping
        self._hurried = hurried
        self._postgres = postgres_for(place, os.environ)
        self._rabbitmq = rabbitmq_for(place, os.environ)
        self._keepers: dict[str, Keeper] = {}
        self._programs: dict[str, Running] = {}
        self._env_file = place.directory / "env"

    def start(self) -> Surroundings:
        """Everything runs and says that it is ready. Interrupted when told to stop meanwhile."""
        self._env_file.unlink(missing_ok=True)
        end_orphans(self._place)
        self._launch_servers()
        self._until(self._postgres.ready, "PostgreSQL")
        surroundings = self._surroundings()
        self._programs = {program.name: self._as_running(program, surroundings) for program in PROGRAMS}
        self._migrate(surroundings)
        self._launch("api", "receivers")
        self._until(self._rabbitmq.ready, "RabbitMQ")
        self._launch(*(name for name in self._programs if name not in self._keepers))
        for program in PROGRAMS:
            self._until(lambda program=program: _is_healthy(surroundings, program), program.name)  # type: ignore[misc]
        surroundings.write(self._env_file)
        return surroundings

    def tend(self) -> None:
        """Starts again whatever died. Cheap: call it ten times a second."""
        for keeper in self._keepers.values():
            keeper.tend()

    def kill(self, name: str) -> None:
        """SIGKILL, as anyone might; it will be tended."""
        self._keepers[name].kept.kill()

    @property
    def restarts(self) -> dict[str, int]:
        return {name: keeper.restarts for name, keeper in self._keepers.items()}

    def stop(self) -> None:
        """Ends everything in order, and by force what does not end in time or when we are hurried."""
        for keeper in self._keepers.values():
            keeper.release()
        self._env_file.unlink(missing_ok=True)
        for rank in sorted({program.rank for program in PROGRAMS}):
            self._stop_together([each.child for each in self._programs.values() if each.program.rank == rank])
        for server in (self._rabbitmq, self._postgres):
            if isinstance(server, RabbitMQ) and self._hurried():
                server.kill()
            server.stop()

    def _launch_servers(self) -> None:
        if isinstance(self._postgres, Postgres):
            self._keep(Keeper("postgres", self._postgres, tell=self._tell))
        if isinstance(self._rabbitmq, RabbitMQ):
            node = self._rabbitmq
            # Not at once: whoever kills the node and then deletes its directory should not race its next start.
            pause = timedelta(seconds=1)
            self._keep(
                Keeper("rabbitmq", node, tell=self._tell, first_pause=pause, is_beyond_help=lambda: not node.intact())
            )

    def _launch(self, *names: str) -> None:
        for name in names:
            self._keep(Keeper(name, self._programs[name], tell=self._tell))

    def _keep(self, keeper: Keeper) -> None:
        self._keepers[keeper.name] = keeper
        keeper.launch()

    def _surroundings(self) -> Surroundings:
        postgres, directory = self._postgres, self._place.directory
        return Surroundings(
            database_url=postgres.create_database(DATABASE) if isinstance(postgres, Postgres) else postgres.url,
            rabbitmq_url=self._rabbitmq.url,
            ports=Ports.choose(self._place),
            api_key=kept_secret(directory / "api_key", prefix="ok_"),
            secret_key=kept_secret(directory / "secret_key", padded=True),
        )

    def _as_running(self, program: Program, surroundings: Surroundings) -> Running:
        environment = surroundings.environment_of(program, self._place)
        child = Child(program.name, pids=self._place.pids, logs=self._place.logs)
        return Running(program, child, Command(program.words, environment, directory=ROOT))

    def _migrate(self, surroundings: Surroundings) -> None:
        child = Child("migrations", pids=self._place.pids, logs=self._place.logs)
        environment = surroundings.environment_of(PROGRAMS[0], self._place)
        child.spawn(Command([OUTBOX, "db", "upgrade"], environment, directory=ROOT))
        try:
            self._until(lambda: not child.running, "the migrations")
            if child.exit_code:
                raise ServerFailed(f"`outbox db upgrade` failed:\n{child.last_words()}")
        finally:
            child.stop()

    def _until(self, reached: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_LIMIT.total_seconds()
        while not reached():
            if self._stopping():
                raise Interrupted
            if time.monotonic() > deadline:
                raise ServerFailed(f"{what} is not ready after {START_LIMIT.seconds} s: see {self._place.logs}")
            self.tend()
            time.sleep(0.05)

    def _stop_together(self, children: Iterable[Child]) -> None:
        children = list(children)
        for child in children:
            child.terminate()
        for child in children:
            deadline = time.monotonic() + 15
            while child.running and time.monotonic() < deadline and not self._hurried():
                time.sleep(0.02)
            child.stop(within=timedelta())


def end_orphans(place: Place) -> None:
    """Ends what a SIGKILLed run left here: every pid file that names a living process of ours."""
    names = {path.stem for path in place.pids.glob("*.pid")}
    # What is left of the servers goes last, as in an orderly stop.
    for together in (names - SERVERS, names & SERVERS):
        orphans = [_orphan(name, place) for name in together]
        for orphan in orphans:
            orphan.terminate_orphan()
        for orphan in orphans:
            orphan.end_orphan(within=timedelta(seconds=5))
            orphan.pid_file.unlink(missing_ok=True)


def clear(place: Place) -> None:
    """Ends the orphans of a place and deletes all that lies in it."""
    end_orphans(place)
    delete_directory(place.directory / "postgres")
    shutil.rmtree(place.directory)


def _orphan(name: str, place: Place) -> Child:
    stop_signal = signal.SIGINT if name == "postgres" else signal.SIGTERM
    return Child(name, pids=place.pids, logs=place.logs, stop_signal=stop_signal)


def _is_healthy(surroundings: Surroundings, program: Program) -> bool:
    url = f"http://127.0.0.1:{surroundings.ports.of[program.name]}{program.health}"
    with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=1) as answer:
        return bool(answer.status < 300)
    return False
