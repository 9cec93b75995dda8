"""The fixtures that every other test stands on."""

from __future__ import annotations

import psycopg


def test_a_test_may_leave_anything_in_its_database(database_url: str) -> None:
    _create_table(database_url)


def test_and_the_next_test_finds_nothing_of_it(database_url: str) -> None:
    _create_table(database_url)


def test_an_empty_database_has_no_tables(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url) as connection:
        query = "select count(*) from pg_class where relnamespace = 'public'::regnamespace"
        assert connection.execute(query).fetchone() == (0,)


def _create_table(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("create table left_behind as select 1")
