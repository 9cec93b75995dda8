"""`POST /v1/signups`: a user, and the welcome mail, or neither."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from actors import mail
from service.bodies import StrictRoute
from service.database import Db, Tasks
from service.fields import Email, Form, Line
from service.idempotency import WriterOnce
from service.problems import Problem
from service.tables import User

__all__ = ["routes"]

routes = APIRouter(prefix="/v1/signups", tags=["signups"], route_class=StrictRoute)


class Signup(Form):
    """Who signs up."""

    email: Email
    name: Annotated[Line, Field(max_length=100, examples=["Ada Lovelace"])]


class SignedUp(BaseModel):
    """The new user, and the tasks that were made: the welcome mail."""

    user_id: UUID
    task_ids: list[UUID]


@routes.post("", status_code=201, response_model=SignedUp)
def sign_up(body: Signup, session: Db, _tasks: Tasks, once: WriterOnce) -> Response:
    """Sign somebody up. An address that is known already, in whatever case: 409."""
    with session.begin():
        if (known := once.recall(session)) is not None:
            return known
        user_id = _add(session, body)
        says = mail.letter("welcome", name=body.name)
        welcome = mail.prepare(session, to=body.email, subject=says.subject, text=says.text, html=says.html)
        task = mail.enqueue_mail(session, welcome)
        return once.keep(session, 201, SignedUp(user_id=user_id, task_ids=[task.id]))


def _add(session: Session, body: Signup) -> UUID:
    """Whoever signs the same address up at the same moment waits here for the outcome of the first."""
    row = insert(User).values(id=uuid7(), email=body.email, name=body.name)
    user_id: UUID | None = session.scalar(row.on_conflict_do_nothing().returning(User.id))
    if user_id is None:
        raise Problem("conflict", "The address is signed up already.")
    return user_id
