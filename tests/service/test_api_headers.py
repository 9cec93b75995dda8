"""Every header that the service, or what carries it, reads: no value of it breaks a route, or finds its way into the log."""

from __future__ import annotations

import json
import os
import random
import re
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from uuid import uuid4

import pytest
from api_process import Api
from service_eyes import ADMIN, Database

SEED = int(os.environ.get("SEED", "0")) or secrets.randbelow(2**31)
#: What no line of the log may hold.
MARK = b"zq7marker"
#: What uvicorn says of them, each with a beginning of its own.
UVICORN_SAYS = ("Invalid HTTP request", "Unsupported upgrade request", "No supported WebSocket library")
MAIL = b'{"to":"a@example.org","subject":"s","text":"t"}'
ENDPOINT = b"/v1/endpoints/" + str(uuid4()).encode()
STREAM = b"/v1/tasks/" + str(uuid4()).encode() + b"/stream"

#: Header to the requests that read it: method, path, body.
READ: dict[bytes, list[tuple[bytes, bytes, bytes]]] = {
    b"Authorization": [(b"GET", b"/v1/tasks", b""), (b"POST", b"/v1/mails", MAIL), (b"GET", b"/metrics", b"")],
    b"Idempotency-Key": [(b"POST", b"/v1/mails", MAIL), (b"POST", ENDPOINT + b"/test", b"")],
    b"If-Match": [(b"PATCH", ENDPOINT, b"{}"), (b"DELETE", ENDPOINT, b"")],
    b"If-None-Match": [(b"GET", ENDPOINT, b"")],
    b"Last-Event-ID": [(b"GET", STREAM, b"")],
    b"Content-Type": [
        (b"POST", b"/v1/mails", MAIL), (b"POST", b"/v1/mail-events", b"x"), (b"POST", b"/v1/unsubscribe/x", b"x"),
    ],
    b"Content-Encoding": [(b"POST", b"/v1/mails", MAIL)],
    b"Content-Length": [(b"POST", b"/v1/mails", b""), (b"GET", b"/v1/tasks", b"")],
    b"Transfer-Encoding": [(b"POST", b"/v1/mails", b"0\r\n\r\n")],
    b"Accept": [(b"GET", STREAM, b""), (b"GET", b"/metrics", b"")],
    b"Host": [(b"GET", b"/v1/tasks", b""), (b"GET", b"/docs", b"")],
    b"X-Forwarded-For": [(b"GET", b"/v1/tasks", b"")],
    b"X-Forwarded-Proto": [(b"GET", b"/v1/tasks", b"")],
    b"X-Forwarded-Host": [(b"GET", b"/docs", b"")],
    b"X-Request-ID": [(b"GET", b"/v1/tasks", b""), (b"GET", b"/nowhere", b"")],
    b"Traceparent": [(b"POST", b"/v1/mails", MAIL)],
    b"Expect": [(b"POST", b"/v1/mails", MAIL)],
    b"Upgrade": [(b"GET", b"/v1/tasks", b"")],
    b"Connection": [(b"GET", b"/v1/tasks", b"")],
    b"Range": [(b"GET", b"/openapi.json", b"")],
    b"Cookie": [(b"GET", b"/v1/tasks", b"")],
}  # fmt: skip
VALUES = [
    b"", b" \t ", b"%s", MARK + b" x", MARK * 1000, MARK * 9000, MARK + b"\x00", MARK + b"\x1b[2J", MARK + b"\x7f\x9b31m",
    MARK + b"\xff\xfe", "zq7märker".encode(), MARK + b"\rX-Bad: 1", MARK + b"\nX-Bad: 1", MARK + b"\r\n folded",
    b'W/"', b'"' + MARK + b'", *', b'"a"' + b',"a"' * 5000, b"-1", b"+1", b"0x1", b"1_0", b"9" * 20, b"9" * 5000, "\u0661".encode(),
    b"Bearer ", b"Bearer " + MARK, b"Bearer  " + ADMIN.encode() + b" " + MARK, b"Basic Og==", b"Basic " + MARK,
    b"application/json;charset=" + MARK, b"application/json" + b";a=b" * 2000, b"multipart/form-data; boundary=",
    b"multipart/form-data; boundary=" + b"x" * 150, b"message/rfc822;" + MARK, b"gzip, gzip", b"chunked", b"identity", b"close, " + MARK,
    b"100-continue", b"websocket", b"h2c", b"[::1", b"[::1]:99999", b"a:b@c/..", b"bytes=0-" + b"9" * 40, b"text/event-stream;q=" + MARK,
    b"00-" + b"f" * 32 + b"-" + b"f" * 16 + b"-ff",
]  # fmt: skip


@pytest.fixture
def api(service_url: str, database: Database) -> Iterator[Api]:
    api = Api(service_url)
    yield api
    api.end()


class Heard:
    """The log of a process, read as it is written."""

    def __init__(self, api: Api) -> None:
        self.lines: list[str] = []
        self._thread = threading.Thread(target=lambda: self.lines.extend(api.log), daemon=True)
        self._thread.start()

    def whole(self) -> list[str]:
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.lines


def request(method: bytes, path: bytes, body: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """As it goes over the wire; a header that is given takes the usual one's place, twice if it is given twice."""
    usual = {
        b"Host": b"x", b"Authorization": b"Bearer " + ADMIN.encode(), b"Content-Type": b"application/json",
        b"Content-Length": str(len(body)).encode(), b"Connection": b"close",
    }  # fmt: skip
    given = {name for name, _ in more}
    if b"Transfer-Encoding" in given:
        del usual[b"Content-Length"]
    headers = [*((name, value) for name, value in usual.items() if name not in given), *more]
    return b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method, path, b"".join(b"%b: %b\r\n" % each for each in headers), body)


def status_of(api: Api, sent: bytes) -> int:
    """0: the connection ended, or waits for what was announced."""
    with socket.create_connection(("127.0.0.1", api.port), timeout=5) as client:
        try:
            client.sendall(sent)
            line = client.recv(64)
        except (TimeoutError, ConnectionError):
            return 0
    return int(line.split()[1]) if line else 0


def attacks(dice: random.Random, number: int) -> Iterator[bytes]:
    """Of each header so many values, and some twice."""
    for name, reads in READ.items():
        for value in dice.sample(VALUES, number):
            yield request(*dice.choice(reads), (name, value))
        for _ in range(2):
            one, two = dice.sample(VALUES, 2)
            yield request(*dice.choice(reads), (name, one), (name, two))
            yield request(*dice.choice(reads), (name, dice.randbytes(dice.randrange(60))))
    yield request(b"GET", b"/v1/tasks", b"", *((b"X-%d" % n, b"y") for n in range(5000)))
    yield request(b"GET", b"/v1/tasks", b"", (MARK * 9000, b"y"))
    yield from (
        request(b"GET", b"/v1/tasks", b"", (name, b"y")) for name in (b"", b" X", b"X ", b"X\x00", b"X\xff", b"(X)")
    )


@pytest.mark.parametrize("number", [20, pytest.param(len(VALUES), marks=pytest.mark.long)])
def test_no_header_breaks_a_route_or_is_in_the_log(api: Api, number: int) -> None:
    print(f"SEED={SEED}")
    heard = Heard(api)
    seen = {sent: status_of(api, sent) for sent in attacks(random.Random(SEED), number)}
    broken = {sent[:300]: status for sent, status in seen.items() if status >= 500}
    assert broken == {}
    assert {200, 202, 400, 401, 404, 415} <= set(seen.values())
    assert sum(status == 0 for status in seen.values()) < 5
    assert status_of(api, request(b"GET", b"/v1/tasks", b"")) == 200
    api.process.send_signal(signal.SIGTERM)
    assert api.process.wait(timeout=20) == 0
    lines = [json.loads(line) for line in heard.whole()]
    ids = [line.pop("request_id", "-") for line in lines]  # the caller may choose it, if it is plain
    assert [id for id in ids if not re.fullmatch(r"[\w.-]{1,128}", id, re.ASCII)] == []
    assert [line for line in lines if MARK.decode() in str(line)] == []
    loud = {line["event"] for line in lines if line["level"] not in ("debug", "info")}
    assert {event for event in loud if not event.startswith(UVICORN_SAYS)} == set()
