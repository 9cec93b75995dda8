"""One HTTP POST to an endpoint that nobody trusts.

Whatever the endpoint does, an attempt ends at its deadline, reads a bounded number of bytes, follows no redirect,
asks no proxy and reaches no address that the policy denies.
"""

import ssl
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta

import httpcore2

from actors.text import storable, storable_bytes
from actors.tls import verified_tls
from actors.webhooks.address import WebhookURL
from actors.webhooks.guard import Address, AddressRefused, Policy
from actors.webhooks.resolve import Resolver, Unresolved, system_resolver
from actors.webhooks.wire import Attempt, Interrupted, Phase, PinnedBackend

EXCERPT_OCTETS = 16 * 1024
USER_AGENT = "dramatiq-outbox-webhooks/1"


@dataclass(frozen=True, slots=True)
class Answered:
    """The endpoint sent a status line and headers. What came of the body, up to 16 KiB, is in `excerpt`."""

    status: int
    excerpt: str
    retry_after: str | None
    phase: Phase
    duration: timedelta


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No answer: `phase` tells how far the attempt came, `reason` what ended it."""

    phase: Phase
    reason: str
    duration: timedelta


class Courier:
    """Posts bodies to endpoints. Safe to share between threads; keeps no connection open."""

    def __init__(
        self,
        *,
        policy: Policy,
        deadline: timedelta,
        tls: ssl.SSLContext | None = None,
        resolver: Resolver = system_resolver,
    ) -> None:
        self.policy = policy
        self._deadline = deadline
        self._tls = tls or verified_tls()
        self._resolver = resolver

    def post(self, url: WebhookURL, *, headers: Mapping[str, str], body: bytes) -> Answered | Unreachable:
        """One attempt, at most the deadline long. `headers` come on top of those that HTTP and the body need."""
        attempt = Attempt.begin(self._deadline)
        try:
            addresses = self._vetted(url, attempt)
            return self._conversation(_request(url, headers, body), addresses, attempt)
        except Interrupted as end:
            return Unreachable(end.phase, storable(end.reason, octets=500), attempt.duration)

    def _vetted(self, url: WebhookURL, attempt: Attempt) -> tuple[Address, ...]:
        try:
            answers = [url.host] if url.literal else self._resolver(url.host, within=attempt.remaining())
            attempt.phase = Phase.VET
            return self.policy.vet(answers, plain=url.plain)
        except (Unresolved, AddressRefused) as error:
            raise attempt.interrupted(str(error)) from None

    def _conversation(self, request: httpcore2.Request, addresses: tuple[Address, ...], attempt: Attempt) -> Answered:
        backend = PinnedBackend(addresses, attempt)
        with closing(httpcore2.HTTPConnection(request.url.origin, self._tls, network_backend=backend)) as connection:
            try:
                response = connection.handle_request(request)
            except (httpcore2.NetworkError, httpcore2.RemoteProtocolError) as error:
                raise attempt.interrupted(str(error) or "the connection was lost") from error
            attempt.phase = Phase.BODY
            excerpt = _excerpt(response, attempt)
        return Answered(
            status=response.status,
            excerpt=storable_bytes(excerpt, octets=EXCERPT_OCTETS),
            retry_after=_header(response, b"retry-after"),
            phase=attempt.phase,
            duration=attempt.duration,
        )


def _request(url: WebhookURL, headers: Mapping[str, str], body: bytes) -> httpcore2.Request:
    framing = {
        "Host": url.host_header,
        "User-Agent": USER_AGENT,
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    return httpcore2.Request(
        "POST",
        httpcore2.URL(scheme=url.scheme, host=url.host, port=url.port, target=url.target),
        headers=[*framing.items(), *headers.items()],
        content=body,
    )


def _excerpt(response: httpcore2.Response, attempt: Attempt) -> bytes:
    """The beginning of the body. The status is the answer: a body that stalls or breaks off changes nothing."""
    excerpt = bytearray()
    try:
        for chunk in response.iter_stream():
            excerpt += chunk
            attempt.remaining()
            if len(excerpt) >= EXCERPT_OCTETS:
                break
    except (Interrupted, httpcore2.NetworkError, httpcore2.RemoteProtocolError):
        pass
    return bytes(excerpt[:EXCERPT_OCTETS])


def _header(response: httpcore2.Response, name: bytes) -> str | None:
    values = [value for key, value in response.headers if key.lower() == name]
    return storable_bytes(values[0], octets=200) if values else None
