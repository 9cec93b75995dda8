"""No request body takes more memory than it may: 413 instead of reading it, or as soon as it grows beyond."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.problems import Problem

__all__ = ["BodyLimit"]


class BodyLimit:
    """ASGI middleware. Who does not read the body is not refused: without a key, 401 comes first.

    FastAPI's own `max_body_size` answers 413 in plain text, before any handler is asked.
    """

    def __init__(self, app: ASGIApp, octets: int) -> None:
        self._app = app
        self._octets = octets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        declared = Headers(scope=scope).get("content-length", "")
        declared_too_large = declared.isdecimal() and int(declared[:20]) > self._octets
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            if declared_too_large:
                raise self._too_large()
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._octets:
                raise self._too_large()
            return message

        return await self._app(scope, counted, send)

    def _too_large(self) -> Problem:
        return Problem("too-large", f"The limit is {self._octets} bytes.", headers={"Connection": "close"})
