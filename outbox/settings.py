"""Settings: read once, at the door of a process, from environment variables."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import URL, make_url

__all__ = ["Settings"]


def _a_name(value: str) -> str:
    if not value.isidentifier() or not value.isascii() or len(value) > 40:
        raise ValueError("must be a plain identifier of at most 40 ASCII letters, digits and underscores")
    return value


def _seconds(value: object) -> object:
    try:
        return timedelta(seconds=float(value)) if isinstance(value, str) else value
    except ValueError:
        return value


def _in_lower_case(value: str) -> str:
    if value != value.lower():
        raise ValueError("must be in lower case, as PostgreSQL has it")
    return value


def _to_a_trace(value: str) -> str:
    if not value.startswith(("https://", "http://")) or "{trace_id}" not in value:
        raise ValueError("must begin with https:// or http:// and contain {trace_id}")
    return value


Name = Annotated[str, AfterValidator(_a_name)]
SchemaName = Annotated[Name, AfterValidator(_in_lower_case)]
TraceUrl = Annotated[str, AfterValidator(_to_a_trace)]
Duration = Annotated[timedelta, BeforeValidator(_seconds)]


class Settings(BaseSettings):
    """Everything that can be set. Durations are seconds in the environment, `timedelta` in the code.

    A name that is none is refused: a setting misspelt in the code would silently keep its default.
    """

    model_config = SettingsConfigDict(env_prefix="OUTBOX_", extra="forbid", populate_by_name=True)

    database_url: str = Field(
        default="postgresql://localhost/postgres", validation_alias="DATABASE_URL", description="PostgreSQL"
    )
    rabbitmq_url: str = Field(
        default="amqp://guest:guest@localhost:5672/",
        validation_alias="RABBITMQ_URL",
        description="RabbitMQ (AMQP 0-9-1)",
    )
    log_format: Literal["console", "json"] = Field(
        default="console", validation_alias="LOG_FORMAT", description="console for people, json for machines"
    )
    log_level: str = Field(default="INFO", validation_alias="LOG_LEVEL", description="DEBUG, INFO, WARNING, ERROR")

    app: str | None = Field(default=None, description="module that holds the broker and the actors")
    schema_name: SchemaName = Field(
        default="outbox", validation_alias="OUTBOX_SCHEMA", description="schema of the tables"
    )
    queue_prefix: Name = Field(default="outbox", description="prefix of the queues in RabbitMQ")
    foreign: Literal["adopt", "refuse"] = Field(
        default="refuse", description="messages of other producers: refuse keeps them aside, adopt runs them"
    )
    health_port: int | None = Field(
        default=None, ge=0, le=65535, description="port of /livez, /readyz, /metrics; 0: any free"
    )
    health_host: str = Field(default="127.0.0.1", description="address that the health port listens on")

    lease: Duration = Field(
        default=timedelta(seconds=10), ge=timedelta(seconds=1), description="a worker silent for this long is dead"
    )
    max_crashes: int = Field(default=3, ge=1, description="crashes alone in its process after which a task is dead")
    max_payload: int = Field(default=1_048_576, ge=1024, description="bytes of a task's encoded arguments")

    relay_batch: int = Field(default=1000, ge=1, le=10_000, description="rows of one confirmed batch")
    relay_lanes: int = Field(default=2, ge=1, le=16, description="batches in flight")
    relay_window: int = Field(default=5_000, ge=1, description="messages waiting in the broker, per queue")
    relay_poll: Duration = Field(default=timedelta(milliseconds=500), description="the guarantee behind the wake-ups")
    confirm_timeout: Duration = Field(default=timedelta(seconds=15), description="an unconfirmed publish is due again")
    listen: bool = Field(default=True, description="wake-up by LISTEN/NOTIFY; off behind PgBouncer in transaction mode")

    trace_url: TraceUrl | None = Field(
        default=None, description="page of a trace, as https://traces.example.com/trace/{trace_id}"
    )

    redact: str = Field(
        default="",
        description="more names whose values nobody is shown, with commas between; actor:0 for an argument by position, "
        "-name for one of the usual names that may be shown",
    )

    capture_logs: bool = Field(
        default=True, description="keep the last lines that an actor logged with an attempt that did not succeed"
    )

    history_days: int = Field(default=30, ge=1, description="days that succeeded and cancelled tasks are kept")
    dead_days: int = Field(default=180, ge=1, description="days that dead tasks are kept")
    shutdown_grace: Duration = Field(default=timedelta(seconds=30), description="time that SIGTERM leaves to what runs")

    @property
    def pooled(self) -> bool:
        """Whether connections go through PgBouncer in transaction mode: then nobody can listen either."""
        return not self.listen

    @property
    def sqlalchemy_url(self) -> URL:
        """The database's URL for SQLAlchemy, always with the psycopg 3 driver."""
        return make_url(self.database_url).set(drivername="postgresql+psycopg")

    @property
    def conninfo(self) -> str:
        """The database's URL for psycopg itself."""
        return make_url(self.database_url).set(drivername="postgresql").render_as_string(hide_password=False)
