"""The OpenAPI document: what FastAPI writes, with the problems that each operation really answers, and examples."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from service import examples
from service.examples import Example
from service.problems import KINDS, MEDIA_TYPE

__all__ = ["LICENSE", "TAGS", "describe", "operation_id", "operations"]

LICENSE = {"name": "Apache License 2.0", "identifier": "Apache-2.0"}
TAGS = [
    {"name": "signups", "description": "A user and the welcome mail, or neither."},
    {"name": "orders", "description": "An order with its receipt, its webhooks and its place in the statistics."},
    {"name": "events", "description": "What happened: one delivery to each endpoint that subscribed to its type."},
    {"name": "mails", "description": "Mails whose bytes are fixed when they are accepted."},
    {
        "name": "unsubscribe",
        "description": "Out of a stream with one click, as RFC 8058 has it. The link alone counts.",
    },
    {"name": "suppressions", "description": "Addresses that get no mail, and why."},
    {"name": "endpoints", "description": "Where webhooks go, with what secret, and what they missed."},
    {
        "name": "deliveries",
        "description": "What went to an endpoint, what each attempt met, and one of them once more.",
    },
    {"name": "tasks", "description": "What became of what was promised, and what an operator can do about it."},
    {"name": "queues", "description": "How much waits where, and the switch that stops a queue."},
    {
        "name": "schedules",
        "description": "Cron schedules: their fires, the last and the next; run one now, pause, resume.",
    },
    {"name": "insight", "description": "Who lives, what was done, what people did, and what needs attention."},
    {"name": "health", "description": "Is it alive, is it ready, how is it doing. Needs no key."},
    {"name": "webhooks", "description": "What the service sends to the endpoints."},
]

#: Operations that can conflict with what exists.
_CONFLICTS = frozenset(
    {"sign_up", "place_order", "publish_event", "send_test", "replay_missed", "resend_delivery"}
    | {"retry_task", "cancel_task", "reschedule_task", "edit_task"}
    | {"resume_queue", "run_schedule", "resume_schedule"}
    | {"rotate_secret", "abort_replay", "lift_suppressions", "abort_bulk_action"}
)
#: Operations whose answer has a version.
_TAGGED = frozenset({"create_endpoint", "read_endpoint", "change_endpoint"})
#: Operations whose answer says where to look at what was begun.
_LOCATED = frozenset({"begin_bulk_action"})
#: Operations that never ask the database.
_ALONE = frozenset({"live", "metrics"})
_DONE = {
    200: "Done.",
    201: "Committed: it is created, and its tasks will be carried out.",
    202: "Committed: it will be carried out.",
    204: "Gone.",
}
_SENT_BACK = frozenset({"too-many", "in-flight", "unavailable"})

_PROBLEM: dict[str, Any] = {
    "type": "object",
    "title": "Problem",
    "description": "RFC 9457. `type` can be fetched and says what to do.",
    "required": ["type", "title", "status", "detail", "request_id"],
    "additionalProperties": False,
    "properties": {
        "type": {"type": "string", "enum": [f"/problems/{slug}" for slug in KINDS]},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "description": "For people. It never repeats what was sent."},
        "request_id": {"type": "string", "description": "Under which the log tells of it."},
        "errors": {
            "type": "array",
            "description": "The first twenty members that are wrong.",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "additionalProperties": False,
                "properties": {
                    "pointer": {
                        "type": "string",
                        "description": "A JSON pointer into the body, or `query/name`, `path/name`, `header/name`.",
                        "examples": ["/items/0/quantity"],
                    },
                    "detail": {"type": "string", "examples": ["must be at least 1"]},
                },
            },
        },
    },
}
_HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-ID": {
        "description": "The caller's own if it was plain, else a new one; the log has it too.",
        "required": True,
        "schema": {"type": "string", "examples": ["0198c4a0-7b3e-7d94-8f21-6c5d4e3f2a88"]},
    },
    "RateLimit-Policy": {
        "description": "What a key may send: `q` requests at once, filled up again within `w` seconds.",
        "schema": {"type": "string", "examples": ['"default";q=2000;w=10']},
    },
    "RateLimit": {
        "description": "What is left of it: `r` requests now, all of them again in `t` seconds.",
        "schema": {"type": "string", "examples": ['"default";r=1999;t=1']},
    },
    "Retry-After": {
        "description": "After how many seconds the same request may succeed.",
        "schema": {"type": "integer", "minimum": 1, "examples": [2]},
    },
    "WWW-Authenticate": {"description": "How to say who calls.", "schema": {"type": "string", "examples": ["Bearer"]}},
    "Idempotency-Replayed": {
        "description": "`true` if the work had been done before: this is the answer of that time.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "Location": {
        "description": "Where to look how it goes.",
        "schema": {
            "type": "string",
            "format": "uri-reference",
            "examples": ["/v1/bulk-actions/0198c4a0-9c2d-7b18-a4e6-3d5f7a9b1caa"],
        },
    },
    "ETag": {
        "description": "The version of what is shown. Send it as `If-Match` to change exactly this version.",
        "schema": {"type": "string", "examples": ['"0198c4a0"']},
    },
}


def operation_id(route: APIRoute) -> str:
    return route.name


def describe(app: FastAPI) -> None:
    """Complete the document when it is first asked for."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(plain())
        return plain()

    app.openapi = described  # type: ignore[method-assign]


def operations(document: dict[str, Any], *, where: str = "paths") -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, method and operation, in the order of the routes."""
    for path, methods in document.get(where, {}).items():
        for method, operation in methods.items():
            yield path, method, operation


def _complete(document: dict[str, Any]) -> None:
    components = document.setdefault("components", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)
    components["schemas"]["Problem"] = _PROBLEM
    components["headers"] = _HEADERS
    components["responses"] = {}
    used = {
        tag
        for each in ("paths", "webhooks")
        for _, _, operation in operations(document, where=each)
        for tag in operation["tags"]
    }
    document["tags"] = [tag for tag in document["tags"] if tag["name"] in used]
    for path, _, operation in operations(document):
        _name(operation)
        _forget_null(operation)
        _show_requests(operation)
        _describe_answers(operation)
        for status, slugs in _problems(path, operation).items():
            limited = "security" in operation
            name = "Or".join(slug.title().replace("-", "") for slug in slugs) + ("" if limited else "WithoutKey")
            components["responses"][name] = _answer_of(slugs, limited=limited)
            operation["responses"][str(status)] = {"$ref": f"#/components/responses/{name}"}
    for _, _, operation in operations(document, where="webhooks"):
        _name(operation)
        for unsaid in ("200", "422"):
            operation["responses"].pop(unsaid, None)


def _name(operation: dict[str, Any]) -> None:
    operation["summary"] = operation["operationId"].replace("_", " ").capitalize()
    operation["description"] = " ".join(operation["description"].split())


def _forget_null(operation: dict[str, Any]) -> None:
    """No header and no query can be null: what may be left out is not required, or comes without a value."""
    for parameter in operation.get("parameters", ()):
        parameter["schema"] = _without_null(parameter["schema"])
        if parameter["schema"].pop("allowEmptyValue", False):
            parameter["allowEmptyValue"] = True
    body = operation.get("requestBody")
    if body and not body.get("required"):
        for content in body["content"].values():
            content["schema"] = _without_null(content["schema"])


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    choices = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    if len(choices) != 1:
        return schema
    return {**{key: value for key, value in schema.items() if key != "anyOf"}, **choices[0]}


def _show_requests(operation: dict[str, Any]) -> None:
    name = operation["operationId"]
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        is_json = media_type == "application/json"
        shown = examples.REQUESTS.get(name) if is_json else examples.OTHER_REQUESTS.get((name, media_type))
        content["examples"] = _named(shown or [])


def _named(shown: list[Example]) -> dict[str, Any]:
    return {each.summary.lower().replace(" ", "-").replace(",", ""): each._asdict() for each in shown}


def _describe_answers(operation: dict[str, Any]) -> None:
    operation["responses"].pop("422", None)
    for status, answer in operation["responses"].items():
        if answer["description"] == "Successful Response":
            answer["description"] = _DONE[int(status)]
        answer["headers"] = {name: _header(name) for name in _headers_of(operation, int(status))}
        for media_type, content in answer.get("content", {}).items():
            if media_type == "text/event-stream":
                content.pop("itemSchema", None)
                content.update(schema={"type": "string"}, example=examples.FRAMES)
            else:
                content["example"] = examples.ANSWERS.get((operation["operationId"], int(status)), {})


def _headers_of(operation: dict[str, Any], status: int) -> list[str]:
    names = ["X-Request-ID"]
    if "security" in operation:
        names += ["RateLimit-Policy", "RateLimit"]
    if _takes(operation, "Idempotency-Key"):
        names.append("Idempotency-Replayed")
    if status != HTTPStatus.NO_CONTENT and operation["operationId"] in _TAGGED:
        names.append("ETag")
    if status == HTTPStatus.ACCEPTED and operation["operationId"] in _LOCATED:
        names.append("Location")
    return names


def _header(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/headers/{name}"}


def _takes(operation: dict[str, Any], name: str) -> bool:
    return any(each["name"] == name for each in operation.get("parameters", ()))


def _problems(path: str, operation: dict[str, Any]) -> dict[int, list[str]]:
    """The kinds of problem that the operation can answer with, by status."""
    name, once = operation["operationId"], _takes(operation, "Idempotency-Key")
    body, known = "requestBody" in operation, "security" in operation
    possible = {
        "bad-request": known or body,
        "unauthorized": known,
        "forbidden": known,
        "not-found": "{" in path or name == "lift_suppressions",
        "conflict": name in _CONFLICTS,
        "in-flight": once,
        "precondition-failed": _takes(operation, "If-Match"),
        "too-large": body,
        "not-json": "application/json" in operation.get("requestBody", {}).get("content", {}),
        "invalid": body or bool(operation.get("parameters")),
        "key-reused": once,
        "too-many": known,
        "internal": True,
        "unavailable": name not in _ALONE,
    }
    found: dict[int, list[str]] = {}
    for slug, can_occur in possible.items():
        if can_occur:
            found.setdefault(KINDS[slug].status, []).append(slug)
    return found


def _answer_of(slugs: list[str], *, limited: bool) -> dict[str, Any]:
    names = ["X-Request-ID"]
    if "unauthorized" in slugs:
        names.append("WWW-Authenticate")
    elif limited:
        names += ["RateLimit-Policy", "RateLimit"]
    if "precondition-failed" in slugs:
        names.append("ETag")
    if _SENT_BACK.intersection(slugs):
        names.append("Retry-After")
    return {
        "description": " ".join(f"{KINDS[slug].title}. {KINDS[slug].meaning}" for slug in slugs),
        "headers": {name: _header(name) for name in names},
        "content": {
            MEDIA_TYPE: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "examples": {slug: {"summary": KINDS[slug].title, "value": _example_of(slug)} for slug in slugs},
            }
        },
    }


def _example_of(slug: str) -> dict[str, Any]:
    kind = KINDS[slug]
    wrong = {"errors": [{"pointer": "/items/0/quantity", "detail": "must be at least 1"}]} if slug == "invalid" else {}
    return {
        "type": f"/problems/{slug}",
        "title": kind.title,
        "status": kind.status,
        "detail": "Nothing was changed: see errors." if wrong else kind.meaning,
        **wrong,
        "request_id": "0198c4a0-7b3e-7d94-8f21-6c5d4e3f2a88",
    }
