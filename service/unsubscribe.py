"""Unsubscribing with one click (RFC 8058): no key, no cookie, no redirect; the link alone says who, and of what.

Mail providers send the POST. A GET changes nothing, for scanners follow every link: it shows a page with a button.
"""

from __future__ import annotations

from email import message_from_bytes
from html import escape
from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import HTMLResponse

from actors import outside
from actors.mail import unsubscribe
from actors.mail.suppression import Reason, suppress
from service.bodies import RawBody
from service.database import Db
from service.problems import Problem

__all__ = ["routes"]

routes = APIRouter(prefix="/v1/unsubscribe", tags=["unsubscribe"])

_MOST = 4096
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Robots-Tag": "noindex",
}
_PAGE = """\
<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Unsubscribe</title></head>
<body>{content}</body>
</html>
"""
_BUTTON = """\
<p>Do you want no more mail of the kind “{stream}”?</p>
<form method="post"><input type="hidden" name="List-Unsubscribe" value="One-Click"><button>Unsubscribe</button></form>
"""
_DONE = "<p>You are unsubscribed.</p>"

#: Two kinds of body that RFC 8058 names; neither is JSON.
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-www-form-urlencoded": {
                "schema": {
                    "type": "object",
                    "required": ["List-Unsubscribe"],
                    "properties": {"List-Unsubscribe": {"type": "string", "enum": ["One-Click"]}},
                }
            }
        },
    }
}

Token = Annotated[str, Path(description="From the link in a mail.")]


def _meant(token: Token) -> tuple[str, str]:
    """Recipient and stream that the link is about."""
    meant = unsubscribe.opened(token, outside.vault())
    if meant is None:
        raise Problem("not-found", "This link was not made here.")
    return meant


Meant = Annotated[tuple[str, str], Depends(_meant)]


def _clicked(_meant: Meant, request: Request, raw: RawBody) -> None:
    """Whether the body says so: a request that somebody was lured into does not. No link, and none is read."""
    if len(raw) > _MOST or ("List-Unsubscribe", "One-Click") not in _fields(request, raw):
        raise Problem("bad-request", "The body must be the form List-Unsubscribe=One-Click.")


@routes.get("/{token}", response_class=HTMLResponse)
def ask_to_unsubscribe(meant: Meant) -> HTMLResponse:
    """A page with a button."""
    _, stream = meant
    return _page(_BUTTON.format(stream=escape(stream)))


@routes.post("/{token}", response_class=HTMLResponse, dependencies=[Depends(_clicked)], openapi_extra=_BODY)
def unsubscribe_at_once(session: Db, meant: Meant) -> HTMLResponse:
    """From now on this recipient gets no mail of this stream, not even what is queued. The same again: the same."""
    recipient, stream = meant
    with session.begin():
        suppress(session, recipient, stream=stream, reason=Reason.UNSUBSCRIBE, source="one-click")
    return _page(_DONE)


def _page(content: str) -> HTMLResponse:
    return HTMLResponse(_PAGE.format(content=content), headers=_HEADERS)


def _fields(request: Request, raw: bytes) -> list[tuple[str, str]]:
    declared = request.headers.get("content-type", "")
    if len(declared) > 200:  # the standard library takes quadratic time over its parameters
        return []
    if declared.strip().lower().startswith("multipart/form-data"):
        message = message_from_bytes(b"Content-Type: %b\r\n\r\n%b" % (declared.encode("latin-1"), raw))
        parts = message.get_payload() if message.is_multipart() else []
        return [
            (str(part.get_param("name", header="content-disposition")), str(part.get_payload()).strip())
            for part in parts
            if not isinstance(part, str)
        ]
    try:
        return parse_qsl(raw.decode("ascii"), max_num_fields=20)
    except ValueError:
        return []
