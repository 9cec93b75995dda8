"""Exit codes, and what is said when something goes wrong: one sentence, and what to do next."""

from __future__ import annotations

import sys
from enum import IntEnum
from typing import Any, NamedTuple

from outbox.cli.show import unsteered

__all__ = ["EPILOG", "Exit", "Told", "Trouble", "tell", "told_of"]


class Exit(IntEnum):
    """The exit codes of every command."""

    OK = 0
    ERROR = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    PARTLY = 6
    UNAVAILABLE = 69
    TRY_LATER = 75
    CONFIGURATION = 78
    INTERRUPTED = 130


EPILOG = (
    "Exit codes: 0 done · 1 error · 2 wrong usage · 3 not found · 4 refused (the task's state does not allow it) · "
    "6 done in part · 69 PostgreSQL or RabbitMQ unavailable · 75 try later (a lock was held) · "
    "78 bad configuration · 130 interrupted.\n\n"
    "Data goes to stdout (a table on a terminal, tab-separated lines without a heading elsewhere, one JSON document "
    "with --json), progress and messages to stderr. NO_COLOR is honoured."
)


class Told(NamedTuple):
    """What the user is told: why it failed, and what to do next."""

    code: Exit
    what: str
    next: str = ""


class Trouble(Exception):
    """A command cannot go on; carries what is to be told."""

    def __init__(self, code: Exit, what: str, next: str = "") -> None:
        super().__init__(what)
        self.told = Told(code, what, next)


def tell(told: Told) -> None:
    """On stderr: `error: …`, and the next step on its own line."""
    text = f"error: {told.what}\n" + (f"next:  {told.next}\n" if told.next else "")
    sys.stderr.write(unsteered(text))


def told_of(error: Exception) -> Told | None:
    """What to tell of this error; None for one that is a bug of ours."""
    if isinstance(error, Trouble):
        return error.told
    return _of_ours(error) or _of_settings(error) or _of_postgres(error) or _of_rabbitmq(error)


def _of_ours(error: Exception) -> Told | None:
    from outbox import errors

    if isinstance(error, UnicodeEncodeError):  # bytes of the command line that are no UTF-8
        return Told(Exit.USAGE, "A word is not text in UTF-8.")
    if isinstance(error, errors.OutboxError) and isinstance(error, LookupError):
        kind = type(error).__name__.removesuffix("NotFound").lower()
        return Told(Exit.NOT_FOUND, str(error), f"outbox {kind}s list shows what there is.")
    if isinstance(error, errors.WrongState):
        return Told(Exit.REFUSED, str(error))
    if isinstance(error, errors.ArgumentError):
        return Told(Exit.USAGE, str(error))
    if isinstance(error, errors.ConfigurationError):
        return Told(Exit.CONFIGURATION, _sentence(str(error)), "outbox doctor checks the configuration.")
    return Told(Exit.ERROR, str(error)) if isinstance(error, errors.OutboxError) else None


def _of_settings(error: Exception) -> Told | None:
    from pydantic import ValidationError
    from sqlalchemy.exc import ArgumentError

    if isinstance(error, ValidationError) and error.title == "Settings":
        first: Any = error.errors()[0]
        name = _variable(str(first["loc"][0]) if first["loc"] else "")
        return Told(Exit.CONFIGURATION, f"{name}: {first['msg']}.", f"Set {name} in the environment.")
    if isinstance(error, ArgumentError):
        return Told(
            Exit.CONFIGURATION, "DATABASE_URL is not a database's URL.",
            "Set DATABASE_URL to postgresql://USER:PASSWORD@HOST:5432/DATABASE.",
        )  # fmt: skip
    return None


def _variable(name: str) -> str:
    return name if name.isupper() else f"OUTBOX_{name.rstrip('_').upper()}"


def _of_postgres(error: Exception) -> Told | None:
    import psycopg
    from psycopg import errors

    original = getattr(error, "orig", None)  # SQLAlchemy's wrapping, as Alembic raises it
    if isinstance(original, psycopg.Error):
        error = original
    if isinstance(error, (errors.UndefinedTable, errors.InvalidSchemaName, errors.UndefinedColumn)):
        return Told(Exit.CONFIGURATION, f"The tables are not there: {_line(error)}.", "Run: outbox db upgrade")
    if isinstance(error, (errors.LockNotAvailable, errors.DeadlockDetected, errors.SerializationFailure)):
        return Told(Exit.TRY_LATER, f"PostgreSQL held a lock for too long: {_line(error)}.", "Run it again.")
    if isinstance(error, errors.InsufficientPrivilege):
        return Told(Exit.CONFIGURATION, f"PostgreSQL forbids it: {_line(error)}.", "Connect as the tables' owner.")
    if isinstance(error, psycopg.OperationalError):
        return Told(
            Exit.UNAVAILABLE, f"PostgreSQL is not available: {_line(error)}.",
            "Check DATABASE_URL and that the server runs; outbox doctor looks at each part.",
        )  # fmt: skip
    if isinstance(error, psycopg.DataError):  # a word that no column can hold: NUL, a number beyond bounds
        return Told(Exit.USAGE, f"PostgreSQL cannot take it: {_line(error)}.")
    return Told(Exit.ERROR, f"PostgreSQL: {_line(error)}.", "") if isinstance(error, psycopg.Error) else None


def _of_rabbitmq(error: Exception) -> Told | None:
    if not type(error).__module__.startswith("pika"):
        return None
    return Told(
        Exit.UNAVAILABLE, f"RabbitMQ is not available: {type(error).__name__} {_line(error)}".rstrip() + ".",
        "Check RABBITMQ_URL and that the server runs; nothing is lost meanwhile.",
    )  # fmt: skip


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _line(error: Exception) -> str:
    text = " ".join(str(error).split("\nDETAIL")[0].split("\nLINE")[0].split())
    return text.rstrip(".")
