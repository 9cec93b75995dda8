"""`python -m tests.campaign.client NAME FIRST COUNT`: enqueues units one after the other, and writes down what it was told.

A unit is one transaction: its domain row and its tasks. After an error, or killed and started again, the client asks under
the same name whether that unit exists, as an HTTP client repeats a request under its `client_id`. Only then is it told.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from outbox import OutboxError, database, enqueue, operate
from tests.campaign.app import LIMIT, broker, doomed, event, held, mail, order, place, say, step
from tests.telling import facts_of

TOLD = "CAMPAIGN_TOLD"
PAUSE = float(os.environ.get("CAMPAIGN_PAUSE", "0"))
HOUR = timedelta(hours=1)


class Unit:
    """The tasks of one transaction: `kind` of each, and its id."""

    def __init__(self, session: Session, client: str, number: int) -> None:
        self._session = session
        self.name = f"{client}/{number}"
        self.client, self.number = client, number
        self.tasks: list[dict[str, Any]] = []

    def add(self, actor: Any, kind: str, label: str | None = None, **options: Any) -> None:
        label = label or f"{self.name}/{len(self.tasks)}"
        task = enqueue(self._session, actor.message(label), **options)
        self.tasks.append({"id": task, "kind": kind, "label": label})

    def known(self) -> list[dict[str, Any]]:
        self._session.flush()  # a unique key answers here which task there is
        return [facts | {"id": str(facts["id"].id)} for facts in self.tasks]


def _signup(unit: Unit) -> None:
    unit.add(mail, "mail")


def _order(unit: Unit) -> None:
    unit.add(order, "order")


def _event(unit: Unit) -> None:
    unit.add(event, "event")


def _steps(unit: Unit) -> None:
    """Three of one key, in order also across units."""
    key = f"{unit.client}/{unit.number % 5}"
    for n in range(3):
        unit.add(step, "step", label=f"{key}/{unit.number:06}.{n}", ordering_key=key)


def _places(unit: Unit) -> None:
    for _ in range(3):
        unit.add(place, "place", concurrency_key="place", concurrency_limit=LIMIT)


def _later(unit: Unit) -> None:
    unit.add(mail, "mail", delay=timedelta(milliseconds=300 + 100 * (unit.number % 20)))


def _unique(unit: Unit) -> None:
    for _ in range(2):
        unit.add(mail, "mail", label=f"{unit.name}/once", unique_key=unit.name, delay=timedelta(milliseconds=200))


def _withdrawn(unit: Unit) -> None:
    unit.add(mail, "withdrawn", delay=HOUR)


def _held(unit: Unit) -> None:
    unit.add(held, "held")


def _doomed(unit: Unit) -> None:
    unit.add(doomed, "doomed")


#: What each twentieth unit is.
KINDS: list[Callable[[Unit], None]] = [
    _signup, _order, _steps, _event, _later, _signup, _order, _places, _event, _withdrawn,
    _signup, _order, _steps, _unique, _signup, _order, _event, _places, _held, _doomed,
]  # fmt: skip
WITHDRAWS, HOLDS = 9, 18


def main(client: str, first: int, count: int) -> None:
    engine = database.answered(
        create_engine(broker.settings.sqlalchemy_url, pool_pre_ping=True), within=database.PROMPT
    )
    waiting: list[str] = []
    for number in range(max(first, _next(client)), first + count):
        tasks = _until_told(partial(_committed, engine, client, number))
        say(TOLD, what="promised", client=client, number=number, tasks=tasks)
        if number % len(KINDS) == WITHDRAWS:
            _until_told(partial(_cancel, tasks[0]["id"]))
        elif number % len(KINDS) == HOLDS:
            waiting += [task["id"] for task in tasks]
        elif waiting and number % 3 == 0:
            _until_told(partial(_cancel, waiting.pop(0)))
        time.sleep(PAUSE)
    engine.dispose()


def _next(client: str) -> int:
    """After the last unit that was told before we were killed."""
    lines = facts_of(Path(os.environ[TOLD]))
    return max((line["number"] + 1 for line in lines if line.get("client") == client), default=0)


def _until_told(ask: Callable[[], Any]) -> Any:
    while True:
        try:
            return ask()
        except (SQLAlchemyError, psycopg.Error) as error:
            say(TOLD, what="refused", error=type(error).__name__)
            time.sleep(0.1)


def _committed(engine: Any, client: str, number: int) -> list[dict[str, Any]]:
    with Session(engine) as session:
        name = {"name": f"{client}/{number}"}
        tasks = session.execute(text("select tasks from unit where name = :name"), name).scalar()
        if tasks is None:
            unit = Unit(session, client, number)
            KINDS[number % len(KINDS)](unit)
            tasks = unit.known()
            session.execute(text("insert into unit values (:name, :tasks)"), name | {"tasks": json.dumps(tasks)})
            session.commit()
        return list(tasks)


def _cancel(id: str) -> None:
    """Told: `cancelled` means that it will never start."""
    with database.connect(broker.settings.conninfo, name="client") as conn:
        try:
            how = operate.cancel(conn, broker.ledger, UUID(id), who="client")
        except OutboxError:
            return  # it has ended
        say(TOLD, what=how, id=id)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
