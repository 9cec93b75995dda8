"""Endpoints: where webhooks go. A secret is shown once: when it is made."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from actors import outside, webhooks
from actors.tables import Endpoint
from actors.webhooks import AddressRefused, address, event_types, headers
from service.access import Admin, Reader
from service.bodies import StrictRoute
from service.database import Db, Tasks
from service.fields import AS_HEADERS, AS_PATTERNS, AS_URL, Form, Note, OrEmpty, refused
from service.idempotency import AdminOnce
from service.problems import Problem

__all__ = ["find", "routes"]

routes = APIRouter(prefix="/v1/endpoints", tags=["endpoints"], route_class=StrictRoute)


def _url(text: str) -> str:
    try:
        return str(address.parse(text, policy=outside.policy()))
    except AddressRefused as refusal:
        raise refused(str(refusal)) from None


def _patterns(patterns: list[str]) -> list[str]:
    try:
        return event_types.check_patterns(patterns)
    except event_types.EventTypeRefused as refusal:
        raise refused(str(refusal)) from None


def _headers(given: dict[str, str]) -> dict[str, str]:
    try:
        return headers.check(given)
    except headers.HeaderRefused as refusal:
        raise refused(str(refusal)) from None


Url = Annotated[str, Field(max_length=2048, examples=["https://hooks.example.org/in"]), AfterValidator(_url), AS_URL]
Patterns = Annotated[
    list[str], Field(max_length=100, examples=[["order.*", "user.created"]]), AfterValidator(_patterns), AS_PATTERNS
]
Description = Annotated[Note, Field(max_length=500)]
Headers = Annotated[dict[str, str], Field(max_length=20), AfterValidator(_headers), AS_HEADERS]


class NewEndpoint(Form):
    """Where to deliver, and what: event types, `order.*`, or `*`. `headers` go along with each delivery."""

    url: Url
    event_types: Patterns
    description: Description = ""
    headers: Annotated[Headers, Field(default_factory=dict)]


class Change(Form):
    """What is given changes, the rest stays."""

    url: Url | None = None
    event_types: Patterns | None = None
    description: Description | None = None
    headers: Headers | None = None
    enabled: bool | None = None


class Rotation(Form):
    """For how long the secrets before the new one sign too; a day, if not given."""

    overlap_seconds: Annotated[int, Field(ge=0, le=7 * 86_400)] = 86_400


class EndpointView(BaseModel):
    """An endpoint. Of its headers only the names are shown."""

    model_config = ConfigDict(from_attributes=True, populate_by_name=True)

    endpoint_id: Annotated[UUID, Field(validation_alias="id")]
    url: str
    event_types: list[str]
    description: str
    header_names: Annotated[list[str], Field(validation_alias="headers"), BeforeValidator(sorted)]
    enabled: bool
    disabled_reason: str | None
    disabled_at: datetime | None
    created_at: datetime
    updated_at: datetime


class NewSecret(BaseModel):
    """The secret that signs from now on; it cannot be read again."""

    endpoint_id: UUID
    secret: str


class EndpointCreated(EndpointView):
    """The endpoint, and its secret, which cannot be read again."""

    secret: str


class EndpointPage(BaseModel):
    """A page of endpoints, the newest first. `next_cursor` asks for the next page; null at the end."""

    items: list[EndpointView]
    next_cursor: UUID | None


class TestSent(BaseModel):
    """The tasks that deliver the test event."""

    endpoint_id: UUID
    task_ids: list[UUID]


class PageWanted(BaseModel):
    """Which page."""

    model_config = ConfigDict(extra="forbid")

    cursor: Annotated[UUID | None, OrEmpty] = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50


@routes.post("", status_code=201, response_model=EndpointCreated)
def create_endpoint(body: NewEndpoint, session: Db, once: AdminOnce) -> Response:
    """Create an endpoint, enabled. The secret in the answer is shown this once."""
    with session.begin():
        if (known := once.recall(session)) is not None:
            return known
        endpoint, secret = webhooks.create_endpoint(
            session, url=body.url, event_types=body.event_types, description=body.description, headers=body.headers
        )
        created = EndpointCreated(**_view(session, endpoint).model_dump(), secret=secret)
        return once.keep(session, 201, created, secret=True)


@routes.get("")
def list_endpoints(session: Db, _principal: Reader, wanted: Annotated[PageWanted, Query()]) -> EndpointPage:
    """The newest endpoints first, a page at a time."""
    query = select(Endpoint).order_by(Endpoint.id.desc()).limit(wanted.limit + 1)
    if wanted.cursor is not None:
        query = query.where(Endpoint.id < wanted.cursor)
    with session.begin():
        items = [EndpointView.model_validate(each) for each in session.scalars(query)]
    page = items[: wanted.limit]
    return EndpointPage(items=page, next_cursor=page[-1].endpoint_id if len(items) > wanted.limit else None)


@routes.get("/{endpoint_id}")
def read_endpoint(session: Db, _principal: Reader, endpoint_id: UUID) -> EndpointView:
    """An endpoint, without its secrets."""
    with session.begin():
        return EndpointView.model_validate(find(session, endpoint_id))


@routes.patch("/{endpoint_id}")
def change_endpoint(body: Change, session: Db, _principal: Admin, endpoint_id: UUID) -> EndpointView:
    """Change what is given. `enabled: false` delivers nothing more to it, also of what is under way."""
    with session.begin():
        endpoint = find(session, endpoint_id, locked=True)
        webhooks.change_endpoint(
            endpoint,
            url=body.url,
            event_types=body.event_types,
            description=body.description,
            headers=body.headers,
            enabled=body.enabled,
        )
        return _view(session, endpoint)


@routes.delete("/{endpoint_id}", status_code=204)
def delete_endpoint(session: Db, _principal: Admin, endpoint_id: UUID) -> None:
    """Delete an endpoint with its secrets and the record of its deliveries; those under way are given up."""
    with session.begin():
        session.delete(_found(session, endpoint_id, True))


@routes.post("/{endpoint_id}/rotate-secret", response_model=NewSecret)
def rotate_secret(session: Db, once: AdminOnce, endpoint_id: UUID, body: Rotation | None = None) -> Response:
    """Make a new secret. Until `overlap_seconds` are over, deliveries are signed with the old ones too."""
    overlap = timedelta(seconds=(body or Rotation()).overlap_seconds)
    with session.begin():
        if (known := once.recall(session)) is not None:
            return known
        endpoint = find(session, endpoint_id, locked=True)
        secret = webhooks.rotate_secret(session, endpoint, overlap=overlap)
        return once.keep(session, 200, NewSecret(endpoint_id=endpoint.id, secret=secret), secret=True)


@routes.post("/{endpoint_id}/test", status_code=202, response_model=TestSent)
def send_test(session: Db, _tasks: Tasks, once: AdminOnce, endpoint_id: UUID) -> Response:
    """Deliver a `webhook.test` event to this endpoint, whatever it subscribed to."""
    with session.begin():
        if (known := once.recall(session)) is not None:
            return known
        endpoint = find(session, endpoint_id)
        if not endpoint.enabled:
            raise Problem("conflict", "The endpoint is disabled.")
        task = webhooks.send_test(session, endpoint)
        return once.keep(session, 202, TestSent(endpoint_id=endpoint.id, task_ids=[task.id]))


def find(session: Session, endpoint_id: UUID, *, locked: bool = False) -> Endpoint:
    """The endpoint, or 404. `locked`: nobody else changes it meanwhile; events go on being delivered to it."""
    return _found(session, endpoint_id, {"key_share": True} if locked else None)


def _found(session: Session, endpoint_id: UUID, lock: dict[str, bool] | bool | None) -> Endpoint:
    endpoint = session.get(Endpoint, endpoint_id, with_for_update=lock)
    if endpoint is None or endpoint.deleted_at is not None:
        raise Problem("not-found", "No endpoint has this id.")
    return endpoint


def _view(session: Session, endpoint: Endpoint) -> EndpointView:
    """What the database has made of it: its times are the database's."""
    session.flush()
    session.refresh(endpoint)
    return EndpointView.model_validate(endpoint)
