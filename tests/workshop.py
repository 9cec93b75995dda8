"""A relay and a worker in this process, on a database and queues of the test's own."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar, cast
from uuid import UUID

import dramatiq
import dramatiq.worker
import psycopg
import pytest
from awaiting import SOON, await_that
from dramatiq.asyncio import get_event_loop_thread, set_event_loop_thread
from dramatiq.middleware import Middleware
from psycopg.rows import class_row

from deploy.local.servers import GivenServer, RabbitMQ
from outbox.broker import OutboxBroker
from outbox.enqueue import use
from outbox.outcomes import Outcomes
from outbox.relay import Relay
from outbox.settings import Settings
from outbox.station import Station

__all__ = [
    "Declare",
    "Fate",
    "MakeWorkshop",
    "Workshop",
    "make_workshop",
    "open_workshop",
    "shop",
    "vhost_url",
    "workshop",
]

T = TypeVar("T")
Declare = Callable[[Callable[..., Any]], dramatiq.Actor[..., Any]]

FATES = """
select id, state, actor, queue, failures, crashes, losses, attempts, reason, run_id, worker_id, args::text,
    null::timestamptz as finished_at, due_at, suspect, cancel_requested
from outbox.task
union all
select id, state, actor, queue, failures, crashes, losses, attempts, reason, run_id, worker_id, args::text,
    finished_at, due_at, false, false
from outbox.history
union all
select id, state, actor, queue, failures, crashes, losses, attempts, reason, run_id, worker_id, args::text,
    finished_at, due_at, false, false
from outbox.dead
order by id
"""


@dataclass(frozen=True)
class Fate:
    """What became of a task, wherever it lies."""

    id: UUID
    state: str
    actor: str
    queue: str
    failures: int
    crashes: int
    losses: int
    attempts: list[dict[str, Any]]
    reason: str | None
    run_id: UUID | None
    worker_id: UUID | None
    args: str
    finished_at: datetime | None
    due_at: datetime
    suspect: bool
    cancel_requested: bool

    @property
    def outcomes(self) -> list[str]:
        return [attempt["outcome"] for attempt in self.attempts]


class Workshop:
    """Declare actors, send, `publish()`, `work()`, then ask what became of the tasks. `close()` leaves no thread of them."""

    def __init__(
        self,
        settings: Settings,
        *,
        outcomes: Outcomes | None = None,
        middleware: Sequence[Middleware] = (),
        watch: str | None = None,
    ) -> None:
        self.settings = settings
        self.broker = OutboxBroker(settings, outcomes=outcomes, middleware=middleware)
        dramatiq.set_broker(self.broker)
        self.db = psycopg.connect(watch or settings.conninfo, autocommit=True)
        self.relay: Relay | None = None
        self.worker: dramatiq.Worker | None = None

    def actor(self, **options: Any) -> Declare:
        """The decorator of an actor of this broker."""
        return cast(Declare, dramatiq.actor(broker=self.broker, **options))

    def publish(self, **settings: Any) -> None:
        """Start a relay, with other settings than the worker's where they are named."""
        self.relay = Relay(self.settings.model_copy(update=settings))
        self.relay.start()

    def work(self, threads: int = 2, queues: set[str] | None = None) -> Station:
        """Start a worker; answers its station, once it has joined and consumes every queue."""
        self._other_loop = get_event_loop_thread()
        self.worker = dramatiq.Worker(self.broker, queues=queues, worker_threads=threads, worker_timeout=100)
        self.worker.start()
        self._loop = get_event_loop_thread()
        station: Station = self.broker.station
        wanted = queues or self.broker.get_declared_queues()
        await_that(lambda: set(station._consumers) >= wanted)
        return station

    def open(self, threads: int = 2) -> Station:
        self.publish()
        return self.work(threads)

    def stop_working(self, timeout: timedelta = timedelta(seconds=10)) -> None:
        if self.worker is not None:
            set_event_loop_thread(self._loop)  # Dramatiq has one a process; here are several workers
            self.worker.stop(timeout=int(timeout.total_seconds() * 1000))
            set_event_loop_thread(self._other_loop)
        self.worker = None

    def close(self) -> None:
        with ThreadPoolExecutor(max_workers=1) as beside:
            if self.relay is not None:
                beside.submit(self.relay.stop)
            self.stop_working()
        self.broker.engine().dispose()
        self.db.close()

    # ------------------------------------------------------------------ what became of it

    def fates(self) -> dict[UUID, Fate]:
        with self.db.cursor(row_factory=class_row(Fate)) as cursor:
            return {fate.id: fate for fate in cursor.execute(FATES).fetchall()}

    def fate(self, id: str | UUID) -> Fate:
        return self.fates()[UUID(str(id))]

    def await_that(self, condition: Callable[[], T], timeout: timedelta = SOON) -> T:
        """As `awaiting.await_that`; what it says when it fails holds the tasks and the station too."""
        try:
            return await_that(condition, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.describe()}") from None

    def describe(self) -> str:
        """What a test that failed wants to know."""
        station = self.broker.station
        lines = [repr(fate) for fate in self.fates().values()]
        if station is not None:
            lines.append(f"in hand {station._in_hand}, room {station.room()}, alone {station._alone}")
            lines += [f"{run.message} started {run.started} {run.outcome}" for run, _, _ in station._runs.values()]
            lines += [f"{each.queue_name}: {each.unclaimed} unclaimed" for each in station._consumers.values()]
        rows = self.db.execute("select kind, beat, queues, unclaimed, cardinality(runs) from outbox.worker").fetchall()
        return "\n".join(lines + [str(row) for row in rows])

    def await_state(self, id: str | UUID, *states: str, timeout: timedelta = SOON) -> Fate:
        """The task's fate, once its state is one of these."""

        def reached() -> Fate | None:
            fate = self.fates().get(UUID(str(id)))
            return fate if fate is not None and fate.state in states else None

        found = self.await_that(reached, timeout)
        assert found is not None
        return found

    def await_all(self, state: str, count: int, timeout: timedelta = SOON) -> dict[UUID, Fate]:
        """The fates of all tasks, once there are `count` and each is in this state."""

        def reached() -> dict[UUID, Fate] | None:
            fates = self.fates()
            return fates if len(fates) == count and {fate.state for fate in fates.values()} == {state} else None

        found = self.await_that(reached, timeout)
        assert found is not None
        return found

    def audit(self) -> list[dict[str, Any]]:
        rows = self.db.execute("select subject, action, detail from outbox.audit order by id").fetchall()
        return [{"subject": subject, "action": action, **detail} for subject, action, detail in rows]

    def make_due(self, id: str | UUID) -> None:
        """Its time has come, without waiting for it."""
        self.db.execute("update outbox.task set due_at = clock_timestamp() where id = %s", [UUID(str(id))])

    # ------------------------------------------------------------------ the broker's side

    def queue(self, name: str = "default") -> str:
        return self.broker.topology.queue(name)


MakeWorkshop = Callable[..., Workshop]


@pytest.fixture(scope="session")
def vhost_url(rabbitmq: RabbitMQ | GivenServer) -> str:
    """The vhost `/`, which a node has again whatever happened to its disk. Each test has a queue prefix of its own."""
    return rabbitmq.url


@pytest.fixture(scope="module")
def open_workshop(
    request: pytest.FixtureRequest, new_database: Callable[[str], str], migrated_template: str, vhost_url: str
) -> Iterator[Workshop]:
    """One workshop for a module, at work; see `shop`. The module's FOREIGN is its way with other producers' messages."""
    before = dramatiq.broker.global_broker
    prefix = f"t_{secrets.token_hex(4)}"
    settings = Settings(
        database_url=new_database(migrated_template),
        rabbitmq_url=vhost_url,
        queue_prefix=prefix,
        relay_poll=timedelta(milliseconds=50),
        foreign=getattr(request.module, "FOREIGN", "refuse"),
    )
    workshop = Workshop(settings)
    workshop.broker.declare_queue("default")
    workshop.open(threads=4)
    yield workshop
    workshop.close()
    dramatiq.broker.global_broker = before


@pytest.fixture
def shop(open_workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """The module's workshop, at work, without a task or an actor: declare yours, send, and see."""
    monkeypatch.setattr(dramatiq.broker, "global_broker", open_workshop.broker)
    use(open_workshop.broker)
    await_that(lambda: not open_workshop.broker.station._runs)
    open_workshop.db.execute("truncate outbox.task, outbox.history, outbox.dead, outbox.audit")
    open_workshop.broker.actors.clear()
    return open_workshop


@pytest.fixture
def make_workshop(
    database_url: str, vhost_url: str, queue_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MakeWorkshop]:
    """Makes workshops on this test's database and queues, closed at its end; settings by name."""
    monkeypatch.setattr(dramatiq.worker, "CONSUMER_RESTART_DELAY_SECS", 0.1)
    before, made = dramatiq.broker.global_broker, []

    def make(*, outcomes: Outcomes | None = None, middleware: Sequence[Middleware] = (), **settings: Any) -> Workshop:
        named = {"database_url": database_url, "rabbitmq_url": vhost_url, "queue_prefix": queue_prefix}
        paced = {"relay_poll": timedelta(milliseconds=50)}
        shop = Workshop(
            Settings(**{**named, **paced, **settings}), outcomes=outcomes, middleware=middleware, watch=database_url
        )
        made.append(shop)
        return shop

    yield make
    for shop in made:
        shop.close()
    dramatiq.broker.global_broker = before


@pytest.fixture
def workshop(make_workshop: MakeWorkshop) -> Workshop:
    """A workshop with the default settings."""
    return make_workshop()
