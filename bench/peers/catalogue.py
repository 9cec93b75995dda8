"""The compared systems: how each is started at its good settings, where those come from, and what each promises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Evidence = Literal["documented", "source", "tried", "concluded"]


@dataclass(frozen=True)
class Fact:
    """`evidence`: its documentation says so, its pinned source shows it, it was tried (by us: `python -m bench survival`,
    or in a trial of losses beforehand), or it is concluded from its design and nobody looked."""

    says: str
    evidence: Evidence = "concluded"


@dataclass(frozen=True)
class Durability:
    transactional_enqueue: Fact
    confirmed_publish: Fact
    outcome_recorded: Fact
    killed_worker: Fact
    wiped_broker: Fact


@dataclass(frozen=True)
class System:
    """`workers`: the command line of each of its processes, of its own environment; `drain`: how many
    tasks take it a few seconds; `at_least`: ours must be so many times as fast, end to end."""

    name: str
    app: str
    workers: tuple[str, ...]
    settings: str
    source: str
    durability: Durability
    drain: int
    package: str | None = None
    at_least: float | None = None
    redis: bool = False


WORK = "python -m bench.peers.drive {} work"

NO_BROKER = Fact("no broker", "source")

OURS = System(
    "outbox",
    "outbox",
    (),
    "one relay, 2 workers × 8 threads, default settings",
    "the defaults of outbox.settings",
    Durability(
        Fact("yes"),
        Fact("yes; a row is published only by its confirm", "source"),
        Fact("yes, with the run's attempts", "source"),
        Fact("yes: run again in seconds after its heartbeat stops", "tried"),
        Fact("yes: published again from PostgreSQL", "tried"),
    ),
    drain=20_000,
)

DRAMATIQ = System(
    "Dramatiq",
    "dramatiq",
    ("dramatiq bench.apps.plain -p 2 -t 8",),
    "2 processes × 8 threads, quorum queue, confirm_delivery",
    "its own options; chosen in an earlier sweep",
    Durability(
        Fact("no: send() beside the transaction"),
        Fact("yes, with confirm_delivery"),
        Fact("no, without its results backend"),
        Fact("yes: acknowledged after the run", "tried"),
        Fact("no: the queue is the only copy", "tried"),
    ),
    drain=15_000,
    at_least=1.5,
)

CELERY = System(
    "Celery",
    "celery",
    ("celery -A bench.peers.apps.celery_app worker -c 2 -l WARNING --without-gossip --without-mingle",),
    "prefork 2, acks late, prefetch × 64, publisher confirms, no results",
    "its user guide, Optimizing: 64 or 128 for many short tasks",
    Durability(
        Fact("no: delay() beside the transaction"),
        Fact("yes, with confirm_publish; not by default", "source"),
        Fact("no, without a result backend"),
        Fact("yes, with task_acks_late and task_reject_on_worker_lost", "tried"),
        Fact("no: the queue is the only copy", "tried"),
    ),
    drain=5_000,
    package="celery",
    at_least=3,
)

TASKIQ = System(
    "taskiq",
    "taskiq",
    (
        "taskiq worker bench.peers.apps.taskiq_app:broker -w 2 --max-async-tasks 100"
        " --ack-type when_executed --log-level WARNING",
    ),
    "2 workers × 100 tasks, prefetch 100, acknowledged when executed",
    "--max-async-tasks is its default; the prefetch chosen to match it",
    Durability(
        Fact("no: kiq() beside the transaction"),
        Fact("yes, aio-pika's default", "source"),
        Fact("no, without a result backend"),
        Fact("yes: acknowledged when executed", "source"),
        Fact("no: the queue is the only copy"),
    ),
    drain=8_000,
    package="taskiq",
    at_least=1,
)

ARQ = System(
    "arq",
    "arq",
    ("arq bench.peers.apps.arq_app.Worker",) * 2,
    "2 processes × 100 jobs, polled every 10 ms, no results",
    "its worker's own options; chosen in an earlier sweep",
    Durability(
        Fact("no: enqueue_job() beside the transaction"),
        Fact("Redis answers; as durable as its append-only file, once a second"),
        Fact("no, with keep_result 0"),
        Fact("yes, once its in-progress key has expired (job_timeout + 10 s: 310 s by default)", "source"),
        Fact("no: Redis is the only copy"),
    ),
    drain=4_000,
    package="arq",
    at_least=1,
    redis=True,
)

RQ = System(
    "RQ",
    "rq",
    (WORK.format("rq"),) * 2,
    "2 SimpleWorkers (no fork for each job), result_ttl 0",
    "its own class; forking for each job is far slower",
    Durability(
        Fact("no: enqueue() beside the transaction"),
        Fact("Redis answers; as durable as its append-only file, once a second"),
        Fact("no, with result_ttl 0"),
        Fact("only with retries: a job whose worker vanished is put among the failed ones", "source"),
        Fact("no: Redis is the only copy"),
    ),
    drain=2_000,
    package="rq",
    redis=True,
)

PROCRASTINATE = System(
    "procrastinate",
    "procrastinate",
    (WORK.format("procrastinate"),) * 2,
    "2 processes, concurrency 30, LISTEN/NOTIFY, log level warning",
    "its worker's own options; chosen in an earlier sweep",
    Durability(
        Fact("yes, with the caller's connection", "source"),
        NO_BROKER,
        Fact("yes: the job's row is kept"),
        Fact("not by itself: a periodic task of one's own must retry stalled jobs", "tried"),
        NO_BROKER,
    ),
    drain=2_000,
    package="procrastinate",
    at_least=8,
)

PGQUEUER = System(
    "PgQueuer",
    "pgqueuer",
    (WORK.format("pgqueuer"),) * 2,
    "2 processes, batches of 1000, asyncpg pool, uvloop",
    "options of its QueueManager.run; not swept",
    Durability(
        Fact("yes, with the caller's connection", "documented"),
        NO_BROKER,
        Fact("yes, in its log table"),
        Fact("yes, after heartbeat_timeout (30 s by default)", "source"),
        NO_BROKER,
    ),
    drain=20_000,
    package="pgqueuer",
)

FASTSTREAM = System(
    "faststream-outbox",
    "faststream",
    (WORK.format("faststream") + " relay", WORK.format("faststream") + " consumer"),
    "one relay (16 workers, batches of 100, terminal flush 100) → RabbitMQ → one consumer, prefetch 100",
    "its README's relay; the options of its subscriber chosen in an earlier sweep",
    Durability(
        Fact("yes, with the caller's session", "documented"),
        Fact("yes, aio-pika's default", "source"),
        Fact("no: the row is deleted when it is published", "source"),
        Fact("yes: relay by its lease (60 s), consumer by the unacknowledged message", "tried"),
        Fact("no: the row is gone by then", "tried"),
    ),
    drain=3_000,
    package="faststream-outbox",
    at_least=4,
)

SYSTEMS = (OURS, DRAMATIQ, CELERY, FASTSTREAM, PROCRASTINATE, PGQUEUER, TASKIQ, ARQ, RQ)
