"""What is read from a request: where the dashboard is mounted, which page of it was asked for, what a form says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import parse_qs, quote

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request

__all__ = ["back_of", "base_of", "below", "form_of", "is_secure", "within"]

#: Bytes of a form. Longer ones are nobody's.
LONGEST = 1_000_000


def base_of(request: HTTPConnection) -> str:
    """The path under which the dashboard is mounted, without a slash at its end."""
    return str(request.scope.get("root_path", "")).rstrip("/")


def below(request: HTTPConnection) -> str:
    """The path and query below it, as an address has them."""
    path = quote(request.scope["path"].removeprefix(base_of(request)) or "/", safe="/:@!$&'()*+,;=~")
    return f"{path}?{request.url.query}" if request.url.query else path


async def form_of(request: Request) -> dict[str, list[str]]:
    """The fields of a form. Raises HTTPException: 413, 400."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > LONGEST:
            raise HTTPException(413, f"A form has at most {LONGEST} bytes. Nothing was done.")
    try:
        return parse_qs(body.decode(), keep_blank_values=True, max_num_fields=2000)
    except ValueError:
        raise HTTPException(400, "This is not a form. Nothing was done.") from None


def back_of(form: Mapping[str, Sequence[str]]) -> str:
    """Where the visitor was, below the dashboard."""
    return within((form.get("back") or ["/"])[0])


def within(path: str) -> str:
    """The path, if it is one below the dashboard; what leads elsewhere is not believed."""
    inside = path.startswith("/") and not path.startswith("//") and path.isprintable() and "\\" not in path
    return path if inside else "/"


def is_secure(request: HTTPConnection) -> bool:
    """Whether it came over HTTPS, so that a cookie may say so."""
    return request.url.scheme == "https"
