"""The type checker knows an actor's parameters at `add_task`, through both roads to the annotation."""

from __future__ import annotations

import re
from pathlib import Path

from mypy import api

CALLS = """
from datetime import timedelta
from typing import Annotated, Any

import dramatiq
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

import outbox
from outbox.fastapi import OutboxTasks, outbox_depends, outbox_tasks


@dramatiq.actor
def send_mail(user_id: int, *, subject: str = "") -> None: ...


@dramatiq.actor
async def send_later(user_id: int) -> None: ...


def get_session() -> Any: ...


Tasks = outbox_tasks(get_session)
Spelt = Annotated[OutboxTasks, outbox_depends(get_session)]


def route(tasks: Spelt, session: Session, other: AsyncSession) -> None:
    tasks.add_task(send_mail, 1)
    tasks.add_task(send_mail, 1, subject="a").id
    tasks.add_task(send_later, 1)
    tasks.options(delay=timedelta(1), unique_key="k").add_task(send_mail, 1)
    outbox.enqueue(session, send_mail.message(1), delay=timedelta(1))
    outbox.enqueue(other, send_mail.message(1))
    tasks.add_task(send_mail, "1")  # wrong
    tasks.add_task(send_mail)  # wrong
    tasks.add_task(send_mail, 1, topic="a")  # wrong
    tasks.add_task(send_later, user=1)  # wrong
    tasks.add_task(print, 1)  # wrong
    tasks.options(delay=5)  # wrong
    tasks.options(dellay=timedelta(1))  # wrong
    outbox.enqueue(session, send_mail.message(1), delay=5)  # wrong
    outbox.enqueue(None, send_mail.message(1))  # wrong
"""


def test_wrong_calls_and_no_others_are_errors_of_the_type_checker(tmp_path: Path) -> None:
    source = tmp_path / "calls.py"
    source.write_text(CALLS)
    told, complaints, _ = api.run(["--strict", "--no-error-summary", "--hide-error-context", str(source)])
    assert complaints == ""
    found = {int(line) for line in re.findall(r"calls\.py:(\d+): error", told)}
    wrong = {number for number, line in enumerate(CALLS.splitlines(), 1) if line.endswith("# wrong")}
    assert found == wrong, told
