"""What is told of mails after they were sent: by a provider, in Anymail's words, or by a mail server, as a report."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field, ValidationError

from actors import outside
from actors.mail.bounces import Event, ReportRefused, keep, named_in, read_report
from actors.mail.suppression import nobody_there
from service.access import admit
from service.bodies import RawBody, loads, refuse_other_than_json
from service.database import Db
from service.fields import Form, Note
from service.idempotency import WriterOnce
from service.problems import Problem

__all__ = ["routes"]


class _AdmittingRoute(APIRoute):
    """A route that reads no body before its caller is known, and reads it as it is."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def admitting(request: Request) -> Response:
            await admit(request)
            return await inner(request)

        return admitting


routes = APIRouter(prefix="/v1/mail-events", tags=["mails"], route_class=_AdmittingRoute)

Kind = Literal[
    "queued", "sent", "rejected", "failed", "bounced", "deferred", "delivered", "autoresponded", "opened", "clicked",
    "complained", "unsubscribed", "subscribed", "unknown",
]  # fmt: skip
RejectReason = Literal["invalid", "bounced", "timed_out", "blocked", "spam", "unsubscribed", "other"]


class ProviderEvent(Form):
    """An event as Anymail names it. `event_id` is the provider's, and makes the event count once; the mail is named by
    its `mail_id` or by its `message_id`."""

    event_id: Annotated[str, Field(pattern=r"^[!-~]{1,255}$", examples=["ev_7d1f"])]
    event_type: Kind
    mail_id: Annotated[UUID, Field(strict=False)] | None = None
    message_id: Annotated[Note, Field(max_length=998)] | None = None
    reject_reason: RejectReason | None = None
    status: Annotated[str, Field(pattern=r"^[245][.][0-9]{1,3}[.][0-9]{1,3}$", examples=["5.1.1"])] | None = None
    description: Annotated[Note, Field(max_length=1000)] | None = None

    def told(self) -> Event:
        of = self.mail_id or (named_in(self.message_id) if self.message_id else None)
        return Event(self.event_type, self.status, self.description, self._is_hard, of)

    @property
    def _is_hard(self) -> bool:
        if self.event_type != "bounced":
            return False
        if self.status is None or self.status.endswith(".0.0"):
            return self.reject_reason in ("invalid", "bounced")
        return nobody_there(self.status)


class MailEventKept(BaseModel):
    """The event, and the mail that it is about: null if it names none of ours. `acted_upon`: what follows from it was
    done. A report that does not come to a mail's own return path proves nothing, and a second time changes nothing."""

    event_id: str
    mail_id: UUID | None
    acted_upon: bool


_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": ProviderEvent.model_json_schema()},
            "message/rfc822": {
                "schema": {"type": "string", "description": "A bounce (RFC 3464) or a complaint (RFC 5965) as it came."}
            },
        },
    }
}


@routes.post("", response_model=MailEventKept, openapi_extra=_BODY)
def take_mail_event(request: Request, session: Db, once: WriterOnce, raw: RawBody) -> Response:
    """Take note of what became of a mail. A bounce marks it; a hard one, and a complaint, suppress its recipient."""
    event_id, event = _read(request, raw)
    with session.begin():
        if (known := once.recall(session)) is not None:
            return known
        kept = keep(session, event_id, event)
        answer = MailEventKept(event_id=event_id, mail_id=kept.mail_id, acted_upon=kept.acted_upon)
        return once.keep(session, 200, answer)


def _read(request: Request, raw: bytes) -> tuple[str, Event]:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "message/rfc822":
        return _of_report(raw)
    refuse_other_than_json(request)
    try:
        event = ProviderEvent.model_validate(loads(raw))
    except ValidationError as error:
        found = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
        raise RequestValidationError(found) from None
    return event.event_id, event.told()


def _of_report(raw: bytes) -> tuple[str, Event]:
    """The same report is the same event. No provider's id holds a space."""
    try:
        event = read_report(raw, outside.vault())
    except ReportRefused:
        raise Problem("invalid", "The body is not a mail that can be read.") from None
    return f"report {hashlib.sha256(raw).hexdigest()}", event
