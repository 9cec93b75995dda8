"""Headers that an endpoint's owner may add to its deliveries."""

import re
from collections.abc import Mapping

MAX_HEADERS = 20
MAX_VALUE = 4096
MAX_TOTAL = 8192

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")

# Ours, the connection's, the message's framing, what proxies assert about a client, and what opens metadata services.
_RESERVED = frozenset(
    {"accept", "accept-encoding", "alt-used", "connection", "date", "expect", "forwarded", "host", "http2-settings"}
    | {"keep-alive", "max-forwards", "metadata", "metadata-flavor", "te", "trailer", "transfer-encoding", "upgrade"}
    | {"user-agent", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "cf-connecting-ip"}
    | {"x-google-metadata-request", "x-identity-header", "set-cookie", "x-http-method-override", "x-original-url"}
    | {"x-rewrite-url", "x-http-method", "x-method-override", "range"}
)
_RESERVED_PREFIXES = ("webhook-", "svix-", "content-", "proxy-", "sec-", "x-forwarded-", "x-aws-", "x-envoy-", "if-")


class HeaderRefused(ValueError):
    """A header that an endpoint may not have. The text never repeats the value."""


def check(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers as they will be sent, or HeaderRefused. Names are compared without regard to case."""
    if len(headers) > MAX_HEADERS:
        raise HeaderRefused(f"at most {MAX_HEADERS} headers")
    seen: set[str] = set()
    for name, value in headers.items():
        check_name(name)
        check_value(value)
        if name.lower() in seen:
            raise HeaderRefused("a header is given twice")
        seen.add(name.lower())
    if sum(len(name) + len(value) for name, value in headers.items()) > MAX_TOTAL:
        raise HeaderRefused(f"the headers exceed {MAX_TOTAL} characters")
    return dict(headers)


def check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise HeaderRefused("not a header name of 1 to 100 characters")
    lowered = name.lower().replace("_", "-")  # CGI and its heirs take both for the same
    if lowered in _RESERVED or lowered.startswith(_RESERVED_PREFIXES):
        raise HeaderRefused("the header is reserved")


def check_value(value: str) -> None:
    if len(value) > MAX_VALUE or not _VALUE.fullmatch(value):
        raise HeaderRefused(f"a header value is 1 to {MAX_VALUE} printable ASCII characters")
