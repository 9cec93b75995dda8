"""Health of a process over HTTP: /livez, /readyz and /metrics, from a thread that the process never waits for."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6, socket
from socketserver import TCPServer
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from outbox.errors import ConfigurationError
from outbox.logs import get_logger

__all__ = ["Health"]

#: Requests answered at once; who comes beyond is disconnected, so that no crowd can take the process's memory.
_AT_ONCE = 16
_SILENCE_SECONDS = 5
#: Worker processes of plain Dramatiq on one machine, each with a port of its own.
_SIDE_BY_SIDE = 64

log = get_logger("outbox.health")


class Health:
    """Serves a process's health in a daemon thread.

    `live` and `ready` are asked at each request, in the request's own thread; one that raises counts as False.
    200 means yes, 503 no. Without a port there is no server; port 0 is any free one, see `port` after `start`.
    """

    def __init__(self, host: str, port: int | None, live: Callable[[], bool], ready: Callable[[], bool]) -> None:
        self._address = (host, port)
        self._checks = {"/livez": ("live", live), "/readyz": ("ready", ready)}
        self._server: _Server | None = None

    @property
    def port(self) -> int | None:
        """The port that is listened on, None while nothing is."""
        return int(self._server.server_address[1]) if self._server else None

    def start(self) -> None:
        """Begin to listen. Raises ConfigurationError when the address cannot be had."""
        self._listen(1)

    def start_beside_others(self) -> None:
        """The same, on the first port from the given one on that is free: for processes that share one setting."""
        self._listen(_SIDE_BY_SIDE)

    def _listen(self, ports: int) -> None:
        host, first = self._address
        if first is None or self._server is not None:
            return
        refused: OSError | None = None
        for port in range(first, min(first + ports, 65_536)):
            try:
                self._server = _Server(host, port, self._answer)
                break
            except OSError as error:
                refused = error
        else:
            which = f"{host}:{first}" + (f" or the {ports - 1} ports after it" if ports > 1 else "")
            raise ConfigurationError(f"health_port: cannot listen on {which}: {refused}") from None
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="outbox-health", daemon=True).start()
        log.info("health is served", host=host, port=self.port)

    def stop(self) -> None:
        """Listen no more. Requests under way are not waited for."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def _answer(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        if path == "/metrics":
            return HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest()
        if path not in self._checks:
            return HTTPStatus.NOT_FOUND, "application/json", _json(error="not found")
        word, check = self._checks[path]
        well = _yes(check)
        return (
            HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE,
            "application/json",
            _json(**{word: well}),
        )


def _yes(check: Callable[[], bool]) -> bool:
    try:
        return bool(check())
    except Exception as error:
        log.warning("a health check failed", error=repr(error))
        return False


def _json(**content: Any) -> bytes:
    return json.dumps(content).encode()


Answer = Callable[[str], tuple[HTTPStatus, str, bytes]]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, answer: Answer) -> None:
        self.address_family = AF_INET6 if ":" in host else AF_INET
        self.answer = answer
        self._room = threading.BoundedSemaphore(_AT_ONCE)
        super().__init__((host, port), _Request)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's own asks the DNS for a name, which may hang

    def process_request(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._room.release()
            raise

    def process_request_thread(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        log.debug("a health request broke off", exc_info=True)


class _Request(BaseHTTPRequestHandler):
    server: _Server
    timeout = _SILENCE_SECONDS
    server_version, sys_version = "outbox", ""

    def do_GET(self) -> None:
        self._send(*self.server.answer(urlsplit(self.path).path))

    do_HEAD = do_GET

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        status = HTTPStatus(code)
        self._send(status, "application/json", _json(error=(message or status.phrase)))

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("health asked", line=format % args)
