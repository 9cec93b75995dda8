"""Actors on a real database, with settings of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import dramatiq
import pytest
from actor_bench import Bench
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

import actors
from actors import outside

KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def bench(database_url: str) -> Iterator[Bench]:
    engine = create_engine(make_url(database_url).set(drivername="postgresql+psycopg"))
    before, dramatiq.broker.global_broker = dramatiq.broker.global_broker, actors.broker
    actors.broker._engine, kept = engine, actors.broker._engine
    try:
        yield Bench(engine)
    finally:
        actors.broker._engine = kept
        dramatiq.broker.global_broker = before
        engine.dispose()


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Sets variables and lets the actors read them; everything is forgotten afterwards."""

    def configure(**variables: Any) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        outside.forget()

    configure(SECRET_KEY=KEY, MAIL_FROM="The Shop <shop@example.com>", WEBHOOK_ALLOWED_NETWORKS="127.0.0.0/8")
    yield configure
    monkeypatch.undo()
    outside.forget()
