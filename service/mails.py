"""`POST /v1/mails`: a mail, its bytes fixed now, sent now or at `send_at`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from actors import mail
from service.bodies import StrictRoute
from service.database import Db, Tasks
from service.fields import Email, Form, Line, Prose, SendAt, refused
from service.idempotency import WriterOnce

__all__ = ["routes"]

routes = APIRouter(prefix="/v1/mails", tags=["mails"], route_class=StrictRoute)


class NewMail(Form):
    """A mail to one recipient: with `text`, `html`, or both as alternatives.

    `send_at` lies within 366 days; a time that is past means now.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["text"], "properties": {"text": {"type": "string"}}},
                {"required": ["html"], "properties": {"html": {"type": "string"}}},
            ]
        }
    )

    to: Email
    subject: Annotated[Line, Field(max_length=500, examples=["Your code"])]
    text: Annotated[Prose, Field(max_length=200_000)] | None = None
    html: Annotated[Prose, Field(max_length=500_000)] | None = None
    send_at: SendAt | None = None

    @model_validator(mode="after")
    def _says_something(self) -> NewMail:
        if self.text is None and self.html is None:
            raise refused("needs text or html")
        return self

    @property
    def later(self) -> datetime | None:
        return self.send_at if self.send_at and self.send_at > datetime.now(UTC) else None


class MailAccepted(BaseModel):
    """The mail, and the task that sends it; they have the same id."""

    mail_id: UUID
    task_ids: list[UUID]


@routes.post("", status_code=202, response_model=MailAccepted)
def send_mail(body: NewMail, session: Db, _tasks: Tasks, once: WriterOnce) -> Response:
    """Send a mail. Its bytes are built once: every attempt sends the same."""
    with session.begin():
        if (known := once.recall(session)) is not None:
            return known
        new = mail.prepare(
            session, to=body.to, subject=body.subject, text=body.text, html=body.html, send_at=body.later
        )
        task = mail.enqueue_mail(session, new)
        return once.keep(session, 202, MailAccepted(mail_id=new.id, task_ids=[task.id]))
