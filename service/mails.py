"""Mails: their bytes fixed when they are accepted, sent now or at `send_at`; and what became of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal, NamedTuple
from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import select
from sqlalchemy.orm import Session, defer

from actors import mail
from actors.mail import headers as mail_headers
from actors.tables import Mail, MailEvent
from service.access import Reader
from service.bodies import StrictRoute
from service.database import Db, Tasks
from service.fields import Email, Form, Line, Prose, SendAt, is_prose, refused
from service.idempotency import WriterOnce
from service.mail_fields import Filename, Headers, MediaType, Octets, Stream, Variables
from service.problems import Problem
from service.violations import Violation

__all__ = ["routes"]

routes = APIRouter(prefix="/v1/mails", tags=["mails"], route_class=StrictRoute)


class NewAttachment(Form):
    """A file that goes along: all of them within the limit of a request's body."""

    filename: Filename
    content_type: MediaType
    content: Octets


class NewMail(Form):
    """A mail to one recipient: with `text`, `html`, or both as alternatives.

    With `variables`, even none, `subject`, `text` and `html` are templates; `unsubscribe_url` is among the variables
    where the mail can be unsubscribed from. A `stream` other than `transactional` can be, `transactional` where
    `unsubscribe` is true. `send_at` lies within 366 days; a time that is past means now. After `expires_at` the mail
    is not sent. `on_uncertain`: whether a mail that may have arrived is sent once more, or held.
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
    variables: Variables | None = None
    attachments: Annotated[list[NewAttachment], Field(max_length=20, default_factory=list)]
    reply_to: Email | None = None
    headers: Annotated[Headers, Field(default_factory=dict)]
    stream: Stream = mail.TRANSACTIONAL
    unsubscribe: bool = False
    send_at: SendAt | None = None
    expires_at: SendAt | None = None
    on_uncertain: Literal["resend", "hold"] = "resend"

    @model_validator(mode="after")
    def _makes_sense(self) -> NewMail:
        if self.text is None and self.html is None:
            raise refused("needs text or html")
        if self.send_at is not None and self.expires_at is not None and self.expires_at <= self.send_at:
            raise refused("expires_at must be later than send_at")
        return self

    @property
    def later(self) -> datetime | None:
        return self.send_at if self.send_at and self.send_at > datetime.now(UTC) else None

    @property
    def leavable(self) -> bool:
        return self.unsubscribe or self.stream != mail.TRANSACTIONAL


class _Words(NamedTuple):
    """What a mail says, once its variables are in it."""

    subject: str
    text: str | None
    html: str | None


class MailAccepted(BaseModel):
    """The mail, and the task that sends it; they have the same id."""

    mail_id: UUID
    task_ids: list[UUID]


class MailEventView(BaseModel):
    """What was told of a mail after it was sent."""

    model_config = ConfigDict(from_attributes=True)

    kind: str
    status: str | None
    at: datetime


class MailView(BaseModel):
    """What became of a mail. What it says is not shown."""

    model_config = ConfigDict(from_attributes=True, populate_by_name=True)

    mail_id: Annotated[UUID, Field(validation_alias="id")]
    to: Annotated[str, Field(validation_alias="recipient")]
    status: Literal["queued", "sent", "refused", "uncertain", "suppressed", "expired", "failed", "bounced"]
    stream: str
    message_id: str
    created_at: datetime
    send_at: datetime | None
    expires_at: datetime | None
    sent_at: datetime | None
    attempts: int
    on_uncertain: Literal["resend", "hold"]
    reply: str | None
    reply_at: datetime | None


class MailDetail(MailView):
    """A mail with its events, the oldest first."""

    events: list[MailEventView]


@routes.post("", status_code=202, response_model=MailAccepted)
def send_mail(body: NewMail, session: Db, _tasks: Tasks, once: WriterOnce) -> Response:
    """Send a mail. Its bytes are built once: every attempt sends the same."""
    says = _filled(body) if body.variables is not None else _Words(body.subject, body.text, body.html)
    with session.begin():
        if (known := once.recall(session)) is not None:
            return known
        new = _prepared(session, body, says)
        task = mail.enqueue_mail(session, new)
        return once.keep(session, 202, MailAccepted(mail_id=new.id, task_ids=[task.id]))


@routes.get("/{mail_id}")
def read_mail(session: Db, _principal: Reader, mail_id: UUID) -> MailDetail:
    """What became of a mail."""
    with session.begin():
        found = session.get(Mail, mail_id, options=[defer(Mail.body), defer(Mail.subject)])
        if found is None:
            raise Problem("not-found", "No mail has this id: it never was, or its retention is over.")
        events = session.scalars(select(MailEvent).where(MailEvent.mail_id == mail_id).order_by(MailEvent.at)).all()
        view = MailView.model_validate(found).model_dump()
        return MailDetail(**view, events=[MailEventView.model_validate(each) for each in events])


def _prepared(session: Session, body: NewMail, says: _Words) -> Mail:
    return mail.prepare(
        session,
        to=body.to,
        subject=says.subject,
        text=says.text,
        html=says.html,
        attachments=[mail.Attachment(each.filename, each.content_type, each.content) for each in body.attachments],
        headers=body.headers,
        reply_to=body.reply_to,
        stream=body.stream,
        leavable=body.leavable,
        on_uncertain=body.on_uncertain,
        send_at=body.later,
        expires_at=body.expires_at,
    )


def _filled(body: NewMail) -> _Words:
    """The templates with their variables, or Problem 422 that points to each one that cannot be filled in."""
    link = mail.way_out(body.to, body.stream) if body.leavable else None
    given = {**({"unsubscribe_url": link} if link else {}), **(body.variables or {})}
    found: dict[str, str | None] = {}
    wrong: list[Violation] = []
    for member in _Words._fields:
        template: str | None = getattr(body, member)
        try:
            found[member] = None if template is None else mail.fill(template, given, html=member == "html")
            _check_filled(member, found[member])
        except (mail.TemplateRefused, mail.HeaderRefused) as refusal:
            wrong.append(Violation(f"/{member}", str(refusal)))
    if wrong:
        raise Problem("invalid", "Nothing was changed: see errors.", errors=wrong)
    return _Words(found["subject"] or "", found["text"], found["html"])


def _check_filled(member: str, filled: str | None) -> None:
    """What a template gives is held to what the member may say without one: literals in it can spell anything."""
    if filled is None:
        return
    if member != "subject":
        if not is_prose(filled):
            raise mail.TemplateRefused("gives control characters, NUL or lone surrogates")
        return
    if not filled.strip():
        raise mail.TemplateRefused("gives nothing")
    mail_headers.check_value(filled)
