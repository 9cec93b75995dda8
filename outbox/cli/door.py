"""What every command reads from outside: the settings, the clock, who is asking, and a connection to PostgreSQL."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from outbox.ledger import Conn, Ledger
    from outbox.reads import Reader
    from outbox.settings import Settings

__all__ = ["Door", "Given", "given", "now", "opened", "settings", "whoever"]


@dataclass
class Given:
    """The options that stand before the command's name."""

    app: str | None = None
    debug: bool = False


given = Given()


@dataclass(frozen=True)
class Door:
    """An open connection in autocommit, with the statements of its schema."""

    conn: Conn
    reader: Reader
    ledger: Ledger
    settings: Settings


def settings() -> Settings:
    """The settings of the environment, with the options given before the command's name."""
    from outbox.settings import Settings

    read = Settings()
    return read.model_copy(update={"app": given.app}) if given.app else read


@contextmanager
def opened() -> Iterator[Door]:
    """A connection for one command, closed at its end."""
    from outbox.database import connect
    from outbox.ledger import Ledger
    from outbox.reads import Reader

    read = settings()
    with connect(read.conninfo, name="cli", pooled=read.pooled) as conn:
        yield Door(conn, Reader(read.schema_name), Ledger(read.schema_name), read)


def now() -> datetime:
    return datetime.now().astimezone()


def whoever() -> str:
    """Who is at the terminal, for the audit: `user@host`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no name for this user id, as in many containers
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
