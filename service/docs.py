"""`/docs`: the OpenAPI document as one page for people. It needs no script, and nothing from elsewhere."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape

from service.openapi import operations
from service.problems import KINDS

__all__ = ["routes"]

_PAGES = Path(__file__).parent / "pages"
_POLICY = "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'"
_FORMATS = {"idn-email": "e-mail address", "uuid": "UUID", "date-time": "date and time", "uri": "URL"}
#: Longer patterns say less to people than the text beside them.
_READABLE = 48
_CODE = re.compile(r"`([^`]+)`")

routes = APIRouter(prefix="/docs", include_in_schema=False)


@routes.get("")
def read_docs(request: Request) -> Response:
    """The page, rendered once a process."""
    state = request.app.state
    if not hasattr(state, "docs"):
        state.docs = _rendered(request.app.openapi())
    headers = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"}
    return Response(state.docs, media_type="text/html", headers=headers)


@routes.get("/style.css")
def read_style() -> Response:
    return Response((_PAGES / "docs.css").read_bytes(), media_type="text/css", headers={"Cache-Control": "no-cache"})


def _rendered(document: dict[str, Any]) -> str:
    pages = Environment(
        loader=FileSystemLoader(_PAGES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters.update(prose=_prose, kind=_kind, limits=_limits, shown=_shown)
    pages.globals.update(
        curl=_curl,
        members=partial(_members, document),
        resolved=partial(_resolved, document),
        role=_role,
        slugs=_slugs,
    )
    sections = [
        (tag, [each for each in [*operations(document), *_webhooks(document)] if tag["name"] in each[2]["tags"]])
        for tag in document["tags"]
    ]
    return pages.get_template("docs.html").render(document=document, sections=sections, kinds=KINDS)


def _webhooks(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    return operations(document, where="webhooks")


def _prose(text: str) -> Markup:
    """Text with `code` in it."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped before


def _kind(schema: dict[str, Any]) -> Markup:
    """What a value is, in a few words, with links to what they name."""
    if "$ref" in schema:
        return Markup('<a href="#schema-{0}">{0}</a>').format(schema["$ref"].rpartition("/")[2])
    for choice in ("anyOf", "oneOf"):
        if choice in schema and "properties" not in schema:
            return Markup(" or ").join(_kind(each) for each in schema[choice])
    if "const" in schema:
        return Markup("<code>{}</code>").format(schema["const"])
    if schema.get("type") == "array":
        return Markup("array of {}").format(_kind(schema["items"]))
    if isinstance(schema.get("additionalProperties"), dict):
        return Markup("object of {}").format(_kind(schema["additionalProperties"]))
    return escape(_FORMATS.get(schema.get("format", "")) or schema.get("type") or "any JSON value")


def _limits(schema: dict[str, Any]) -> list[Markup]:
    """What a value must keep to."""
    for each in schema.get("anyOf", ()) if "properties" not in schema else ():
        if each != {"type": "null"}:
            return _limits(each)
    told = []
    for least, most, what in (
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " elements"),
        ("minimum", "maximum", ""),
    ):
        low, high = schema.get(least), schema.get(most)
        if low is not None or high is not None:
            told.append(escape(_between(low, high) + what))
    if "enum" in schema:
        told.append(Markup(", ").join(Markup("<code>{}</code>").format(each) for each in schema["enum"]))
    elif 0 < len(schema.get("pattern", "")) <= _READABLE:
        told.append(Markup("<code>{}</code>").format(schema["pattern"]))
    if "default" in schema:
        told.append(Markup("default <code>{}</code>").format(json.dumps(schema["default"])))
    return told


def _between(low: float | None, high: float | None) -> str:
    if low is None:
        return f"up to {high:,.0f}"
    return f"at least {low:,.0f}" if high is None else f"{low:,.0f} to {high:,.0f}"


def _members(document: dict[str, Any], schema: dict[str, Any]) -> list[tuple[str, dict[str, Any], bool]]:
    """Name, schema and whether it is required, of each member of an object; of all its forms, if it has several."""
    schema = _resolved(document, schema)
    forms = [schema] if "properties" in schema else schema.get("oneOf", [])
    return [
        (name, each, name in form.get("required", ()))
        for form in forms
        for name, each in form["properties"].items()
        if each != {"type": "null"}
    ]


def _resolved(document: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    found: Any = document
    for part in reference["$ref"].removeprefix("#/").split("/") if "$ref" in reference else ():
        found = found[part]
    return found if "$ref" in reference else reference


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)


def _curl(method: str, path: str, operation: dict[str, Any], value: Any = None, kind: str = "") -> str:
    """The request as a line for a shell."""
    address = re.sub(r"\{(\w+)\}", lambda name: f"${name[1].upper()}", path)
    words = [f'curl "$API_URL{address}"' if method == "get" else f'curl -X {method.upper()} "$API_URL{address}"']
    if "security" in operation:
        words.append('-H "Authorization: Bearer $API_KEY"')
    if kind == "application/json":
        words.append(f"--json {shlex.quote(json.dumps(value, ensure_ascii=False))}")
    elif kind:
        words += [f'-H "Content-Type: {kind}"', f"--data-binary {shlex.quote(value)}"]
    return " \\\n  ".join(words)


def _role(operation: dict[str, Any]) -> str | None:
    """The least role that a key needs."""
    for needed in operation.get("security", ()):
        for roles in needed.values():
            return str(roles[0]) if roles else None
    return None


def _slugs(answer: dict[str, Any]) -> list[str]:
    """The kinds of problem that an answer documents."""
    return [
        slug for content in answer.get("content", {}).values() for slug in content.get("examples", ()) if slug in KINDS
    ]
