"""What the tests of the service look with: the tables as others see them, and the answer that an error must be."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from service.settings import Settings

ADMIN = "an-admin-key-of-the-tests"
SECRET_KEY = "a secret key of at least 32 characters"
BODY_LIMIT = 65_536


def settings_for(url: str, **changed: Any) -> Settings:
    return Settings(**{"database_url": url, "bootstrap_key": ADMIN, "body_limit": BODY_LIMIT, **changed})


class Database:
    """The tables as another session sees them: only what was committed."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._connection = psycopg.connect(url, autocommit=True, row_factory=dict_row)
        found = self.query(
            "select schemaname, tablename from pg_tables where schemaname in ('app', 'outbox') order by 1, 2"
        )
        self._tables = [sql.Identifier(row["schemaname"], row["tablename"]) for row in found]

    def query(self, statement: str, *params: Any) -> list[dict[str, Any]]:
        return self._connection.execute(statement, params).fetchall()  # type: ignore[arg-type]

    def execute(self, statement: str, *params: Any) -> None:
        self._connection.execute(statement, params)  # type: ignore[arg-type]

    def one(self, statement: str, *params: Any) -> dict[str, Any]:
        (row,) = self.query(statement, *params)
        return row

    def rows(self) -> dict[str, int]:
        """How many rows each table has."""
        counts = [
            sql.SQL("select {}::text, count(*)::int from {}").format(sql.Literal(table.as_string()), table)
            for table in self._tables
        ]
        with self._connection.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
            return dict(cursor.execute(sql.SQL(" union all ").join(counts)).fetchall())

    def empty(self) -> None:
        self._connection.execute(sql.SQL("truncate {} cascade").format(sql.SQL(", ").join(self._tables)))

    def close(self) -> None:
        self._connection.close()


def problem_of(answer: Any) -> dict[str, Any]:
    """The problem document that an answer must be, whatever went wrong."""
    assert answer.status_code >= 400
    assert answer.headers["content-type"] == "application/problem+json"
    content: dict[str, Any] = answer.json()
    assert content["status"] == answer.status_code
    assert content["type"].startswith("/problems/")
    assert content["title"]
    assert content["detail"]
    assert content["request_id"] == answer.headers["x-request-id"]
    return content
