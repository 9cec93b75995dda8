"""The API's settings: read once, at the door of its process, from environment variables."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import URL, make_url

from actors.settings import Settings as Outside

__all__ = ["Settings", "variables"]


def _seconds(value: object) -> object:
    return timedelta(seconds=float(value)) if isinstance(value, str) and value.isdecimal() else value


Duration = Annotated[timedelta, BeforeValidator(_seconds)]


class Settings(BaseSettings):
    """Everything that can be set. Durations are whole seconds in the environment, `timedelta` in the code."""

    model_config = SettingsConfigDict(extra="ignore", populate_by_name=True)

    database_url: str = Field(
        default="postgresql://localhost/postgres", validation_alias="DATABASE_URL", description="PostgreSQL"
    )
    outbox_schema: str = Field(
        default="outbox", validation_alias="OUTBOX_SCHEMA", description="schema of the outbox's tables"
    )
    listen: bool = Field(
        default=True, validation_alias="OUTBOX_LISTEN", description="false behind PgBouncer in transaction mode"
    )
    host: str = Field(default="127.0.0.1", validation_alias="API_HOST", description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, validation_alias="API_PORT", description="port to listen on")
    bootstrap_key: SecretStr | None = Field(
        default=None,
        min_length=16,
        validation_alias="SERVICE_BOOTSTRAP_API_KEY",
        description="an admin key that is accepted without being stored; unset it once real keys exist",
    )
    body_limit: int = Field(
        default=1_048_576, ge=1024, validation_alias="API_BODY_LIMIT", description="bytes of a request's body"
    )
    threads: int = Field(
        default=16,
        ge=1,
        le=500,
        validation_alias="API_THREADS",
        description="requests answered at once, each with one database connection",
    )
    rate: int = Field(
        default=200,
        ge=0,
        validation_alias="API_RATE",
        description="requests a second of one API key, in each API process; 0: no limit",
    )
    burst: int = Field(
        default=2000, ge=1, validation_alias="API_BURST", description="requests of one API key at once, beyond the rate"
    )
    refusals: int = Field(
        default=20,
        ge=0,
        validation_alias="API_REFUSALS",
        description="requests a second of one address with keys that are not valid; 0: no limit",
    )
    streams: int = Field(
        default=100,
        ge=1,
        validation_alias="API_STREAMS",
        description="streams of tasks' progress that are open at once",
    )
    shutdown_grace: Duration = Field(
        default=timedelta(seconds=30),
        validation_alias="API_SHUTDOWN_GRACE",
        description="seconds that SIGTERM leaves to requests under way",
    )
    log_format: Literal["console", "json"] = Field(
        default="console", validation_alias="LOG_FORMAT", description="log lines for people or for machines"
    )
    log_level: str = Field(default="INFO", validation_alias="LOG_LEVEL", description="DEBUG, INFO, WARNING or ERROR")

    @property
    def pooled(self) -> bool:
        """Whether connections go through PgBouncer in transaction mode."""
        return not self.listen

    @property
    def sqlalchemy_url(self) -> URL:
        """The database's URL for SQLAlchemy, always with the psycopg 3 driver."""
        return make_url(self.database_url).set(drivername="postgresql+psycopg")


def variables() -> Iterator[tuple[str, str, str]]:
    """Name, meaning and default of every environment variable that the API reads, for mails and webhooks too."""
    for field in (*Settings.model_fields.values(), *Outside.model_fields.values()):
        default = field.default
        if isinstance(default, timedelta):
            default = int(default.total_seconds())
        elif isinstance(default, SecretStr):
            default = default.get_secret_value()
        elif isinstance(default, bool):
            default = str(default).lower()
        yield str(field.validation_alias), field.description or "", str(default or "")
