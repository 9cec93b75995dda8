"""Statements that a block causes, whoever's cursor they go through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from sqlalchemy import Engine, event

__all__ = ["statements"]


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    """Those of the engine's connections that are lent within the block."""
    said: list[str] = []

    class Told(psycopg.Cursor[Any]):
        def execute(self, query: Any, *rest: Any, **more: Any) -> Any:
            said.append(str(query))
            return super().execute(query, *rest, **more)

    def lend(connection: Any, *_: Any) -> None:
        connection.cursor_factory = Told

    def take_back(connection: Any, *_: Any) -> None:
        connection.cursor_factory = psycopg.Cursor

    event.listen(engine, "checkout", lend)
    event.listen(engine, "checkin", take_back)
    try:
        yield said
    finally:
        event.remove(engine, "checkout", lend)
        event.remove(engine, "checkin", take_back)
