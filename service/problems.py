"""Every error is `application/problem+json` (RFC 9457), and none repeats what the caller sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import psycopg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from sqlalchemy.exc import DBAPIError, TimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from actors import mail, webhooks
from outbox.database import driver_error, passes
from outbox.errors import TaskNotFound, WrongState
from outbox.logs import get_logger
from service.violations import Violation, violations_of

__all__ = ["EVERY_ANSWER", "KINDS", "MEDIA_TYPE", "METHODS", "Problem", "install", "response_for"]

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 2
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
#: Headers of every answer; those that no middleware sees, such as to what is not HTTP, have them from here.
EVERY_ANSWER = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}

log = get_logger("service.problems")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem: the last part of its `type`, and what a caller can do about it."""

    status: int
    title: str
    meaning: str


KINDS = {
    "bad-request": Kind(400, "The request is malformed", "Mend the request; sending it again changes nothing."),
    "unauthorized": Kind(401, "No valid API key", "Send `Authorization: Bearer <API key>` with a key in force."),
    "forbidden": Kind(403, "The API key may not do this", "Use a key with the role that the detail names."),
    "not-found": Kind(404, "Nothing is here", "Check the path and the id; what was kept is gone after its retention."),
    "method-not-allowed": Kind(405, "The method is not known here", "The header `Allow` names those that are."),
    "conflict": Kind(409, "It conflicts with what exists", "The detail says with what. Nothing was changed."),
    "in-flight": Kind(409, "The same request is under way", "Wait, then send it again with the same Idempotency-Key."),
    "precondition-failed": Kind(
        412, "It has changed meanwhile", "Read it again, and send the change with the `ETag` that you then get."
    ),
    "too-large": Kind(413, "The body is too large", "The detail names the limit."),
    "not-json": Kind(415, "The body is not JSON", "Send `Content-Type: application/json`, UTF-8, not compressed."),
    "invalid": Kind(422, "The content is not valid", "`errors` points to each member that is wrong, and says why."),
    "key-reused": Kind(422, "The Idempotency-Key was used before", "Use a new key for every new request."),
    "too-many": Kind(429, "Too many requests", "Wait for `Retry-After` seconds, then send the same request again."),
    "internal": Kind(500, "Something broke here", "Nothing was promised. Repeat with the same Idempotency-Key."),
    "unavailable": Kind(
        503, "The database cannot be reached", "Repeat after `Retry-After`, with the same Idempotency-Key."
    ),
}
#: What the actors refuse to take, should no field have refused it before.
_REFUSALS: tuple[type[Exception], ...] = (
    *(mail.AddressRefused, mail.HeaderRefused, mail.MessageRefused),
    *(webhooks.AddressRefused, webhooks.EventTypeRefused, webhooks.HeaderRefused),
)
_OF_STATUS = {kind.status: slug for slug, kind in reversed(KINDS.items())}


class Problem(HTTPException):
    """An answer other than success. `detail` is for people and never repeats input."""

    def __init__(
        self, slug: str, detail: str, *, errors: Sequence[Violation] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(KINDS[slug].status, detail, headers)
        self.slug = slug
        self.errors = errors


def response_for(problem: Problem, *, request_id: str | None) -> JSONResponse:
    content: dict[str, Any] = {
        "type": f"/problems/{problem.slug}",
        "title": KINDS[problem.slug].title,
        "status": problem.status_code,
        "detail": problem.detail,
    }
    if problem.errors:
        content["errors"] = [{"pointer": each.pointer, "detail": each.detail} for each in problem.errors]
    headers = {**EVERY_ANSWER, **(problem.headers or {})}
    if request_id is not None:
        content["request_id"] = headers["X-Request-ID"] = request_id
    return JSONResponse(content, problem.status_code, headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every exception that can reach the door with a problem, and serve what `type` refers to."""
    app.add_exception_handler(Problem, _answer)
    app.add_exception_handler(HTTPException, _answer_of_framework)
    app.add_exception_handler(RequestValidationError, _answer_of_validation)
    app.add_exception_handler(TaskNotFound, _answer_of_unknown_task)
    app.add_exception_handler(WrongState, _answer_of_wrong_state)
    for refusal in _REFUSALS:
        app.add_exception_handler(refusal, _answer_of_refusal)
    app.add_exception_handler(DBAPIError, _answer_of_database)
    app.add_exception_handler(psycopg.Error, _answer_of_database)
    app.add_exception_handler(TimeoutError, _answer_of_database)
    app.add_exception_handler(ClientDisconnect, _answer_to_nobody)
    app.add_exception_handler(Exception, _answer_of_surprise)
    app.add_api_route("/problems/{slug}", _explain, include_in_schema=False)


def _respond(request: Request, problem: Problem) -> JSONResponse:
    return response_for(problem, request_id=getattr(request.state, "request_id", None))


async def _answer(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)
    return _respond(request, error)


async def _answer_of_framework(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    slug = _OF_STATUS.get(error.status_code, "internal" if error.status_code >= 500 else "bad-request")
    detail = f"{HTTPStatus(error.status_code).phrase}."
    if isinstance(error.__cause__, ClientDisconnect):
        detail = "The client left before its request was complete."
    headers = {"Allow": _methods_of(request)} if error.status_code == 405 else error.headers
    return _respond(request, Problem(slug, detail, headers=headers))


def _methods_of(request: Request) -> str:
    """All methods of the path. The framework names those of the first route that has it."""

    def known(method: str) -> bool:
        asked = {**request.scope, "method": method}
        return any(route.matches(asked)[0] is Match.FULL for route in request.app.routes)

    return ", ".join(filter(known, METHODS))


async def _answer_of_validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = violations_of(error.errors())
    return _respond(request, Problem("invalid", "Nothing was changed: see errors.", errors=found))


async def _answer_of_unknown_task(request: Request, _error: Exception) -> JSONResponse:
    return _respond(request, Problem("not-found", "No task has this id: it never was, or its retention is over."))


async def _answer_of_wrong_state(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, WrongState)
    return _respond(request, Problem("conflict", f"The task {error.why}"))


async def _answer_of_refusal(request: Request, error: Exception) -> JSONResponse:
    return _respond(request, Problem("invalid", f"{error}."))


async def _answer_of_database(request: Request, error: Exception) -> JSONResponse:
    """503 for trouble that passes; what the database refuses for good is a fault of ours, and surfaces as one."""
    if not passes(error):
        raise error
    log.warning("the database is in trouble", error=type(driver_error(error)).__name__)
    wait = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return _respond(request, Problem("unavailable", "The database cannot be reached just now.", headers=wait))


async def _answer_to_nobody(request: Request, _error: Exception) -> JSONResponse:
    return _respond(request, Problem("bad-request", "The client left before its request was complete."))


async def _answer_of_surprise(request: Request, _error: Exception) -> JSONResponse:
    return _respond(request, Problem("internal", "It was logged under this request's id."))


async def _explain(slug: str) -> PlainTextResponse:
    kind = KINDS.get(slug)
    if kind is None:
        raise Problem("not-found", "No kind of problem has this name.")
    return PlainTextResponse(f"{kind.status} {kind.title}\n\n{kind.meaning}\n")
