"""How pages read: rows that have a shape, ids and places in lists as an address gives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar
from uuid import UUID

from psycopg.rows import class_row

from outbox.dashboard import Ask, NotThere
from outbox.ledger import Conn

__all__ = ["LAST", "LIMIT", "cursor_of", "id_of", "page_of", "rows"]

#: Rows of one page, and the id that no row's is above.
LIMIT, LAST = 50, UUID(int=2**128 - 1)

T = TypeVar("T")


def rows(conn: Conn, shape: type[T], statement: str, **values: Any) -> list[T]:
    """What the statement finds, each as a `shape`, whose fields are its columns."""
    with conn.cursor(row_factory=class_row(shape)) as cursor:
        return cursor.execute(statement, values).fetchall()


def page_of(found: Sequence[T]) -> tuple[Sequence[T], T | None]:
    """One page of what was asked for with one row more; and its last row, where others follow."""
    page = found[:LIMIT]
    return page, page[-1] if len(found) > LIMIT else None


def id_of(ask: Ask, what: str) -> UUID:
    """The id in the path. Raises NotThere."""
    try:
        return UUID(ask.path["id"])
    except ValueError:
        raise NotThere(f"This is not the id of {what}.") from None


def cursor_of(ask: Ask) -> UUID:
    """Where the page begins, the newest first. Raises NotThere."""
    try:
        return UUID(ask.params.get("cursor") or str(LAST))
    except ValueError:
        raise NotThere("This is no place in the list: begin at its first page.") from None
