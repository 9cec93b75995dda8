"""Endpoints: where webhooks go. A secret is shown once: when it is made."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, cast
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from actors import outside, webhooks
from actors.tables import Endpoint, EndpointSecret
from actors.webhooks import AddressRefused, address, event_types, headers
from actors.webhooks.endpoints import Changes, Signature, valid_secrets
from actors.webhooks.outcomes import Policy
from actors.webhooks.schedule import MAX_STEP, MAX_STEPS
from outbox import enqueue
from service.access import Admin, Reader
from service.bodies import StrictRoute
from service.database import Db, Tasks
from service.etags import IfMatch, IfNoneMatch, check_unchanged, etag_of, is_known, not_modified
from service.fields import AS_HEADERS, AS_NOTES, AS_PATTERNS, AS_URL, Email, Form, Note, OrEmpty, refused
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


def _bounded(noted: dict[str, str]) -> dict[str, str]:
    if sum(len(name) + len(value) for name, value in noted.items()) > _MOST_NOTED:
        raise refused(f"must hold at most {_MOST_NOTED} characters in all")
    return noted


_MOST_NOTED = 8192

Url = Annotated[str, Field(max_length=2048, examples=["https://hooks.example.org/in"]), AfterValidator(_url), AS_URL]
Patterns = Annotated[
    list[str], Field(max_length=100, examples=[["order.*", "user.created"]]), AfterValidator(_patterns), AS_PATTERNS
]
Description = Annotated[Note, Field(max_length=500)]
Headers = Annotated[dict[str, str], Field(max_length=20), AfterValidator(_headers), AS_HEADERS]
NoteName = Annotated[Note, Field(min_length=1, max_length=64)]
NoteValue = Annotated[Note, Field(max_length=500)]
Notes = Annotated[dict[NoteName, NoteValue], Field(max_length=50), AfterValidator(_bounded), AS_NOTES]
Concurrency = Annotated[int, Field(ge=1, le=64)]
Rate = Annotated[float, Field(ge=0.01, le=1000)]
Step = Annotated[int, Field(ge=1, le=int(MAX_STEP.total_seconds()))]
Steps = Annotated[list[Step], Field(min_length=1, max_length=MAX_STEPS, examples=[[5, 300, 1800]])]


class NewEndpoint(Form):
    """Where to deliver, and what: event types, `order.*`, or `*`. `headers` go along with each delivery.

    At most `concurrency` deliveries are under way at once, `rate_per_second` start in a second; with `fifo` one after the
    other in the order of their events, each waited for until it arrived or failed for good. `schedule`: the seconds
    between attempts. `other_4xx`: whether an answer 4xx that does not say more ends a delivery. `notify` is told by mail
    when the endpoint is disabled. `signature`: `v1` with a secret, `v1a` with an ed25519 key pair.
    """

    url: Url
    event_types: Patterns
    description: Description = ""
    headers: Annotated[Headers, Field(default_factory=dict)]
    metadata: Annotated[Notes, Field(default_factory=dict)]
    concurrency: Concurrency = 4
    rate_per_second: Rate | None = None
    fifo: bool = False
    schedule: Steps | None = None
    other_4xx: Policy = "refuse"
    notify: Email | None = None
    signature: Signature = "v1"


class Change(Form):
    """What is given changes, the rest stays. Null for `rate_per_second`, `schedule` or `notify` takes it back, and for
    `missed_since`: it needs no replay. `concurrency` and `fifo` count for the events to come."""

    url: Url | None = None
    event_types: Patterns | None = None
    description: Description | None = None
    headers: Headers | None = None
    metadata: Notes | None = None
    concurrency: Concurrency | None = None
    rate_per_second: Rate | None = None
    fifo: bool | None = None
    schedule: Steps | None = None
    other_4xx: Policy | None = None
    notify: Email | None = None
    enabled: bool | None = None
    missed_since: None = None


class Rotation(Form):
    """For how long the secrets before the new one sign too: a day, if not given. `signature`: that of the new one; as
    before, if not given."""

    overlap_seconds: Annotated[int, Field(ge=0, le=7 * 86_400)] = 86_400
    signature: Signature | None = None


class SigningKey(BaseModel):
    """What signs, until when if that is known. `public_key` verifies `v1a`; the secret of `v1` is not shown again."""

    model_config = ConfigDict(from_attributes=True)

    public_key: str | None
    created_at: datetime
    expires_at: datetime | None


class EndpointView(BaseModel):
    """An endpoint. Of its headers only the names are shown; of its keys, the newest first, what anybody may know.

    `missed_since`: it was disabled from then on, and what was published meanwhile waits for a replay.
    """

    endpoint_id: UUID
    url: str
    event_types: list[str]
    description: str
    header_names: list[str]
    metadata: dict[str, str]
    concurrency: int
    rate_per_second: float | None
    fifo: bool
    schedule: list[int] | None
    other_4xx: Policy
    notify: str | None
    signing_keys: list[SigningKey]
    enabled: bool
    disabled_reason: str | None
    disabled_at: datetime | None
    missed_since: datetime | None
    created_at: datetime
    updated_at: datetime


class NewSecret(BaseModel):
    """What signs from now on: a `secret`, which cannot be read again, or the pair whose `public_key` this is."""

    endpoint_id: UUID
    secret: str | None
    public_key: str | None


class EndpointCreated(EndpointView):
    """The endpoint, and its secret, which cannot be read again; null if it signs with a key pair."""

    secret: str | None


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
        given = body.model_dump(exclude={"schedule"})
        endpoint, verifier = webhooks.create_endpoint(session, **given, schedule=_spans(body.schedule))
        view = _view(session, endpoint)
        created = EndpointCreated(**view.model_dump(), secret=_secret(verifier))
        answer = once.keep(session, 201, created, secret=True)
        answer.headers["ETag"] = etag_of(view)
        return answer


@routes.get("")
def list_endpoints(session: Db, _principal: Reader, wanted: Annotated[PageWanted, Query()]) -> EndpointPage:
    """The newest endpoints first, a page at a time."""
    query = select(Endpoint).where(Endpoint.deleted_at.is_(None)).order_by(Endpoint.id.desc()).limit(wanted.limit + 1)
    if wanted.cursor is not None:
        query = query.where(Endpoint.id < wanted.cursor)
    with session.begin():
        found = session.scalars(query).all()
        page = _views(session, found[: wanted.limit])
    return EndpointPage(items=page, next_cursor=page[-1].endpoint_id if len(found) > wanted.limit else None)


_NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "It is still what the caller knows."}}


@routes.get("/{endpoint_id}", response_model=EndpointView, responses=_NOT_MODIFIED)
def read_endpoint(
    response: Response, session: Db, _principal: Reader, endpoint_id: UUID, known: IfNoneMatch = None
) -> Any:
    """An endpoint, without its secrets. Its `ETag` serves for `If-Match` and `If-None-Match`."""
    with session.begin():
        (view,) = _views(session, [find(session, endpoint_id)])
    response.headers["ETag"] = etag_of(view)
    return not_modified(etag_of(view)) if is_known(known, etag_of(view)) else view


@routes.patch("/{endpoint_id}")
def change_endpoint(
    body: Change, response: Response, session: Db, _principal: Admin, endpoint_id: UUID, expected: IfMatch = None
) -> EndpointView:
    """Change what is given. `enabled: false` delivers nothing more to it, also of what is under way. With `If-Match`
    only if nobody changed it since."""
    with session.begin():
        endpoint = find(session, endpoint_id, locked=True)
        _check_unchanged(session, endpoint, expected)
        webhooks.change_endpoint(session, endpoint, **_changes(body))
        view = _view(session, endpoint)
    response.headers["ETag"] = etag_of(view)
    return view


@routes.delete("/{endpoint_id}", status_code=204)
def delete_endpoint(session: Db, _tasks: Tasks, _principal: Admin, endpoint_id: UUID, expected: IfMatch = None) -> None:
    """Delete an endpoint with its secrets and, in the background, the record of its deliveries; those under way are
    given up. With `If-Match` only if nobody changed it since."""
    with session.begin():
        endpoint = _found(session, endpoint_id, True)
        _check_unchanged(session, endpoint, expected)
        webhooks.delete_endpoint(session, endpoint)
        enqueue(session, webhooks.forget_endpoint.message(str(endpoint.id)))


@routes.post("/{endpoint_id}/rotate-secret", response_model=NewSecret)
def rotate_secret(session: Db, once: AdminOnce, endpoint_id: UUID, body: Rotation | None = None) -> Response:
    """Make a new secret, or key pair. Until `overlap_seconds` are over, deliveries are signed with the old ones too: with
    at most five in all."""
    wanted = body or Rotation()
    with session.begin():
        if (known := once.recall(session)) is not None:
            return known
        endpoint = find(session, endpoint_id, locked=True)
        try:
            verifier = webhooks.rotate_secret(
                session, endpoint, overlap=timedelta(seconds=wanted.overlap_seconds), signature=wanted.signature
            )
        except webhooks.TooManySecrets as refusal:
            raise Problem("conflict", f"{refusal}.") from None
        secret = _secret(verifier)
        made = NewSecret(endpoint_id=endpoint.id, secret=secret, public_key=None if secret else verifier)
        return once.keep(session, 200, made, secret=True)


@routes.post("/{endpoint_id}/test", status_code=202, response_model=TestSent)
def send_test(session: Db, _tasks: Tasks, once: AdminOnce, endpoint_id: UUID) -> Response:
    """Deliver a `webhook.test` event to this endpoint, whatever it subscribed to."""
    with session.begin():
        if (known := once.recall(session)) is not None:
            return known
        endpoint = _found(session, endpoint_id, {"read": True, "key_share": True})  # nobody deletes it meanwhile
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


def _check_unchanged(session: Session, endpoint: Endpoint, expected: list[str] | None) -> None:
    (before,) = _views(session, [endpoint])
    check_unchanged(expected, etag_of(before))


def _changes(body: Change) -> Changes:
    """What the body names. Null takes back what has a default, and leaves alone what has none."""
    can_be_null = {"rate_per_second", "schedule", "notify", "missed_since"}
    given = body.model_dump(exclude_unset=True)
    named = {name: value for name, value in given.items() if value is not None or name in can_be_null}
    if "schedule" in named:
        named["schedule"] = _spans(body.schedule)
    return cast(Changes, named)


def _spans(seconds: list[int] | None) -> list[timedelta] | None:
    return None if seconds is None else [timedelta(seconds=each) for each in seconds]


def _secret(verifier: str) -> str | None:
    """The symmetric secret, unless it is a public key that its owner verifies with."""
    return verifier if verifier.startswith("whsec_") else None


def _view(session: Session, endpoint: Endpoint) -> EndpointView:
    """What the database has made of it: its times are the database's."""
    session.flush()
    session.refresh(endpoint)
    (view,) = _views(session, [endpoint])
    return view


def _views(session: Session, endpoints: Sequence[Endpoint]) -> list[EndpointView]:
    keys = valid_secrets(session, [each.id for each in endpoints])
    return [_shown(each, keys.get(each.id, [])) for each in endpoints]


def _shown(endpoint: Endpoint, keys: Sequence[EndpointSecret]) -> EndpointView:
    steps = endpoint.schedule
    return EndpointView(
        endpoint_id=endpoint.id,
        url=endpoint.url,
        event_types=endpoint.event_types,
        description=endpoint.description,
        header_names=sorted(endpoint.headers),
        metadata=endpoint.notes,
        concurrency=endpoint.concurrency,
        rate_per_second=endpoint.rate_per_second,
        fifo=endpoint.fifo,
        schedule=None if steps is None else [int(step.total_seconds()) for step in steps],
        other_4xx=cast(Policy, endpoint.other_4xx),
        notify=endpoint.notify,
        signing_keys=[SigningKey.model_validate(each) for each in keys],
        enabled=endpoint.enabled,
        disabled_reason=endpoint.disabled_reason,
        disabled_at=endpoint.disabled_at,
        missed_since=endpoint.missed_since,
        created_at=endpoint.created_at,
        updated_at=endpoint.updated_at,
    )
