"""The OpenAPI document: what FastAPI writes, with the errors that are really answered."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from service.problems import MEDIA_TYPE

__all__ = ["describe", "operation_id"]

_METHODS = ("get", "post", "patch", "delete", "put")

_PROBLEM: dict[str, Any] = {
    "type": "object",
    "title": "Problem",
    "description": "RFC 9457. `type` can be fetched and says what to do.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "examples": ["/problems/invalid"]},
        "title": {"type": "string"},
        "status": {"type": "integer", "examples": [422]},
        "detail": {"type": "string"},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {
                    "pointer": {"type": "string", "examples": ["/items/0/quantity"]},
                    "detail": {"type": "string", "examples": ["must be at least 1"]},
                },
            },
        },
    },
}


def operation_id(route: APIRoute) -> str:
    return route.name


def describe(app: FastAPI) -> None:
    """Let every operation declare its errors as problems, in place of FastAPI's own."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            _mend(plain())
        return plain()

    app.openapi = described  # type: ignore[method-assign]


def _mend(document: dict[str, Any]) -> None:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    schemas["Problem"] = _PROBLEM
    answer = {
        "description": "Every error is a problem document.",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for path in document["paths"].values():
        for method in _METHODS:
            if method in path:
                path[method]["responses"].pop("422", None)
                path[method]["responses"]["default"] = answer
