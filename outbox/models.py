"""The tables: unfinished tasks in one small table, finished ones in a history partitioned by day, dead ones apart.

`metadata` is what Alembic compares; the DDL that makes it so stands in `migrations/outbox/`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy import Column as C
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = [
    "STATES",
    "Base",
    "Task",
    "audit",
    "dead",
    "fire",
    "history",
    "lane",
    "metadata",
    "queue",
    "schedule",
    "worker",
]

#: The states of an unfinished task, as stored. `retrying` is a `scheduled` one that has failed before.
STATES = ("scheduled", "waiting", "pending", "published", "running")

metadata = MetaData(schema="outbox")
Instant = DateTime(timezone=True)


class Base(DeclarativeBase):
    metadata = metadata


class Task(Base):
    """An unfinished task. Made by `enqueue`; `id` is known at once, the row exists from the next flush on.

    `id` is the Dramatiq message id too (I8). After the flush, `enqueued` is False if the unique key was
    taken: then `id` is the id of the task that holds it.
    """

    __tablename__ = "task"
    __allow_unmapped__ = True

    #: False once the flush found the unique key taken.
    enqueued: bool = True
    #: Seconds from the flush to the due time; None when `due_at` is set.
    wait: float | None = None

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    fence: Mapped[UUID] = mapped_column(Uuid, server_default=text("gen_random_uuid()"))
    state: Mapped[str] = mapped_column(Text)
    queue: Mapped[str] = mapped_column(Text)
    actor: Mapped[str] = mapped_column(Text)
    args: Mapped[Any] = mapped_column(JSON)
    kwargs: Mapped[Any] = mapped_column(JSON)
    options: Mapped[Any] = mapped_column(JSON)
    priority: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=text("clock_timestamp()"))
    due_at: Mapped[datetime | None] = mapped_column(Instant, nullable=False)
    expires_at: Mapped[datetime | None] = mapped_column(Instant)
    lane: Mapped[str | None] = mapped_column(Text)
    lane_limit: Mapped[int | None] = mapped_column(Integer)
    lane_holds: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    position: Mapped[int | None] = mapped_column(BigInteger)
    unique_key: Mapped[str | None] = mapped_column(Text)
    max_attempts: Mapped[int | None] = mapped_column(Integer)
    epoch: Mapped[int | None] = mapped_column(Integer)
    published_at: Mapped[datetime | None] = mapped_column(Instant)
    run_id: Mapped[UUID | None] = mapped_column(Uuid)
    worker_id: Mapped[UUID | None] = mapped_column(Uuid)
    claimed_at: Mapped[datetime | None] = mapped_column(Instant)
    claimed_beat: Mapped[int | None] = mapped_column(BigInteger)
    alone: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    suspect: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    started: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    cancel_requested: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    failures: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    crashes: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    losses: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    refusals: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    attempts: Mapped[Any] = mapped_column(JSONB, server_default=text("'[]'"))
    reason: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (
        CheckConstraint("state in ('scheduled', 'waiting', 'pending', 'published', 'running')", name="task_state"),
        CheckConstraint(
            "(state = 'running') = (run_id is not null and worker_id is not null and claimed_at is not null)",
            name="task_running_has_its_run",
        ),
        CheckConstraint(
            "state <> 'published' or (published_at is not null and epoch is not null)",
            name="task_published_has_its_epoch",
        ),
        CheckConstraint("state <> 'waiting' or lane is not null", name="task_waiting_has_its_lane"),
        CheckConstraint("(lane is null) = (position is null)", name="task_lane_has_its_position"),
        CheckConstraint("lane_limit is null or (lane is not null and lane_limit > 0)", name="task_lane_limit"),
        CheckConstraint("max_attempts is null or max_attempts > 0", name="task_max_attempts"),
        Index("task_pending", "queue", "priority", "due_at", postgresql_where=text("state = 'pending'")),
        Index("task_scheduled", "due_at", postgresql_where=text("state = 'scheduled'")),
        Index("task_published", "queue", "published_at", postgresql_where=text("state = 'published'")),
        Index("task_running", "worker_id", postgresql_where=text("state = 'running'")),
        Index("task_waiting", "lane", "position", postgresql_where=text("state = 'waiting'")),
        Index("task_lane", "lane", "state", postgresql_where=text("lane is not null and state <> 'waiting'")),
        Index("task_expires", "expires_at", postgresql_where=text("expires_at is not null")),
        Index(
            "task_unique",
            "unique_key",
            unique=True,
            postgresql_where=text("unique_key is not null and not started"),
        ),
    )


def _finished_columns() -> list[C[Any]]:
    return [
        C("id", Uuid, nullable=False),
        C("state", Text, nullable=False),
        C("queue", Text, nullable=False),
        C("actor", Text, nullable=False),
        C("args", JSON, nullable=False),
        C("kwargs", JSON, nullable=False),
        C("options", JSON, nullable=False),
        C("priority", SmallInteger, nullable=False),
        C("created_at", Instant, nullable=False),
        C("due_at", Instant, nullable=False),
        C("published_at", Instant),
        C("started_at", Instant),
        C("finished_at", Instant, nullable=False),
        C("lane", Text),
        C("lane_limit", Integer),
        C("lane_holds", Boolean, nullable=False),
        C("position", BigInteger),
        C("unique_key", Text),
        C("max_attempts", Integer),
        C("expires_at", Instant),
        C("failures", Integer, nullable=False),
        C("crashes", Integer, nullable=False),
        C("losses", Integer, nullable=False),
        C("run_id", Uuid),
        C("worker_id", Uuid),
        C("attempts", JSONB, nullable=False),
        C("reason", Text),
    ]


#: Succeeded and cancelled tasks, partitioned by the day they finished (UTC), with a DEFAULT partition.
history = Table(
    "history",
    metadata,
    *_finished_columns(),
    CheckConstraint("state in ('succeeded', 'cancelled')", name="history_state"),
    Index("history_id", "id"),
    Index(
        "history_finished",
        "finished_at",
        postgresql_using="brin",
        postgresql_with={"pages_per_range": "32", "autosummarize": "on"},
    ),
    postgresql_partition_by="range (finished_at)",
)

#: Dead tasks: kept longer, and until somebody retries them.
dead = Table(
    "dead",
    metadata,
    *_finished_columns(),
    CheckConstraint("state = 'dead'", name="dead_state"),
    Index("dead_id", "id"),
    Index("dead_finished", "finished_at"),
    Index("dead_lane", "lane", postgresql_where=text("lane_holds")),
    Index("dead_failure", text("((attempts -> '-1'::integer) ->> 'failure'::text)")),
)


def _figures(step: str) -> list[C[Any]]:
    return [
        C(step, Instant, primary_key=True),
        C("actor", Text, primary_key=True),
        C("queue", Text, primary_key=True),
        C("succeeded", Integer, nullable=False, server_default=text("0")),
        C("dead", Integer, nullable=False, server_default=text("0")),
        C("cancelled", Integer, nullable=False, server_default=text("0")),
        C("failures", Integer, nullable=False, server_default=text("0")),
        C("waits", JSONB, nullable=False, server_default=text("'{}'")),
        C("runs", JSONB, nullable=False, server_default=text("'{}'")),
    ]


#: What ended in each minute, by actor and queue. `waits` and `runs` count succeeded tasks by a bucket of how long they took.
minute = Table("minute", metadata, *_figures("minute"))

#: The same of each quarter of an hour.
quarter = Table("quarter", metadata, *_figures("quarter"))

#: One row a queue: its epoch in the broker, whether it is paused, and since when and by whom.
queue = Table(
    "queue",
    metadata,
    C("name", Text, primary_key=True),
    C("epoch", Integer, nullable=False, server_default=text("0")),
    C("paused", Boolean, nullable=False, server_default=text("false")),
    C("paused_by", Text),
    C("paused_at", Instant),
    C("created_at", Instant, nullable=False, server_default=text("clock_timestamp()")),
)

#: One row a lane that is held: nothing of it starts before `held_until`, and then at most `places` at once.
lane = Table(
    "lane",
    metadata,
    C("name", Text, primary_key=True),
    C("held_until", Instant, nullable=False),
    C("places", Integer),
    CheckConstraint("places > 0", name="lane_places"),
)

#: One row a living process. `beat` is a counter: who watches it stand still for a lease calls it dead (I10).
worker = Table(
    "worker",
    metadata,
    C("id", Uuid, primary_key=True),
    C("kind", Text, nullable=False, server_default=text("'worker'")),
    C("host", Text, nullable=False),
    C("pid", Integer, nullable=False),
    C("queues", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    C("threads", Integer, nullable=False, server_default=text("0")),
    C("beat", BigInteger, nullable=False, server_default=text("0")),
    C("beat_at", Instant, nullable=False, server_default=text("clock_timestamp()")),
    C("started_at", Instant, nullable=False, server_default=text("clock_timestamp()")),
    C("lease", Float, nullable=False, server_default=text("10")),
    C("runs", ARRAY(Uuid), nullable=False, server_default=text("'{}'")),
    C("running", ARRAY(Uuid), nullable=False, server_default=text("'{}'")),
    C("unclaimed", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    C("claimed_through", JSONB, nullable=False, server_default=text("'{}'")),
)

#: One row a cron schedule, declared by the actors, steered by operators.
schedule = Table(
    "schedule",
    metadata,
    C("name", Text, primary_key=True),
    C("actor", Text, nullable=False),
    C("queue", Text, nullable=False),
    C("cron", Text, nullable=False),
    C("zone", Text, nullable=False, server_default=text("'UTC'")),
    C("missed", Text, nullable=False, server_default=text("'last'")),
    C("missed_limit", Integer, nullable=False, server_default=text("100")),
    C("paused", Boolean, nullable=False, server_default=text("false")),
    C("fired_through", Instant, nullable=False),
    C("declared_at", Instant, nullable=False, server_default=text("clock_timestamp()")),
    C("retired", Boolean, nullable=False, server_default=text("false")),
    CheckConstraint("missed in ('all', 'last', 'none')", name="schedule_missed"),
)

#: One row a fire: unique by schedule and fire time, so any number of schedulers fires each tick once.
fire = Table(
    "fire",
    metadata,
    C("schedule", Text, ForeignKey(schedule.c.name, ondelete="cascade"), primary_key=True),
    C("fire_at", Instant, primary_key=True),
    C("task_id", Uuid),
    C("outcome", Text, nullable=False),
    C("fired_at", Instant, nullable=False, server_default=text("clock_timestamp()")),
    CheckConstraint("outcome in ('fired', 'missed', 'by hand')", name="fire_outcome"),
    CheckConstraint("(outcome = 'missed') = (task_id is null)", name="fire_has_its_task"),
)

#: What operators did, by whom.
audit = Table(
    "audit",
    metadata,
    C("id", BigInteger, primary_key=True, autoincrement=True),
    C("at", Instant, nullable=False, server_default=text("clock_timestamp()")),
    C("who", Text, nullable=False),
    C("action", Text, nullable=False),
    C("subject", Text, nullable=False),
    C("detail", JSONB, nullable=False, server_default=text("'{}'")),
    Index("audit_subject", "subject"),
)

#: One act on all tasks that a query fits, as of its making; `after` is the last id that was looked at.
bulk = Table(
    "bulk",
    metadata,
    C("id", Uuid, primary_key=True),
    C("action", Text, nullable=False),
    C("query", Text, nullable=False),
    C("who", Text, nullable=False),
    C("reason", Text),
    C("due_at", Instant),
    C("rate", Integer),
    C("state", Text, nullable=False, server_default=text("'running'")),
    C("matched", Integer, nullable=False),
    C("matched_at_least", Boolean, nullable=False, server_default=text("false")),
    C("after", Uuid),
    C("done", Integer, nullable=False, server_default=text("0")),
    C("refused", Integer, nullable=False, server_default=text("0")),
    C("error", Text),
    C("created_at", Instant, nullable=False, server_default=text("clock_timestamp()")),
    C("moved_at", Instant, nullable=False, server_default=text("clock_timestamp()")),
    C("finished_at", Instant),
    CheckConstraint("action in ('retry', 'cancel', 'reschedule')", name="bulk_action"),
    CheckConstraint("state in ('running', 'done', 'aborted', 'failed')", name="bulk_state"),
    CheckConstraint("(state = 'running') = (finished_at is null)", name="bulk_ended"),
    CheckConstraint("(action = 'reschedule') = (due_at is not null)", name="bulk_due"),
    CheckConstraint("rate > 0", name="bulk_rate"),
    Index("bulk_running", "created_at", postgresql_where=text("state = 'running'")),
)
