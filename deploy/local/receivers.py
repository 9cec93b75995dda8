"""The far world of the demo: an SMTP server and an HTTP receiver that accept everything and write it down.

Mail: one `.eml` each in `.dev/mail/`, written before the reply, complete or absent. Requests: one JSON line each in
`.dev/webhooks.jsonl`, written before the answer. A receiver of a webhook may be told to refuse: `?status=503`.
"""

from __future__ import annotations

import base64
import json
import signal
import threading
import time
import uuid
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

LARGEST_MAIL = 32 * 2**20
LARGEST_REQUEST = 16 * 2**20


def serve(*, smtp_port: int, http_port: int, mail: Path, webhooks: Path) -> None:
    """Receives on loopback until SIGTERM or SIGINT."""
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    mail.mkdir(parents=True, exist_ok=True)
    smtp = Controller(
        MailCatcher(mail), hostname="127.0.0.1", port=smtp_port, data_size_limit=LARGEST_MAIL, enable_SMTPUTF8=True
    )
    smtp.start()
    http = WebhookServer(http_port, webhooks)
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.1}).start()
    stopped.wait()
    http.shutdown()
    smtp.stop()


class MailCatcher:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: ARG002
        content = envelope.original_content or b""
        # As a real mailbox does, it notes the envelope on top: a blind copy appears nowhere else.
        recipients = [f"Delivered-To: {recipient}" for recipient in envelope.rcpt_tos]
        head = "\r\n".join([f"Return-Path: <{envelope.mail_from}>", *recipients, ""])
        name = f"{time.time_ns()}-{uuid.uuid4().hex[:8]}.eml"
        draft = self._directory / f".{name}"
        draft.write_bytes(head.encode() + content)
        draft.replace(self._directory / name)
        return f"250 2.0.0 kept as {name}"


class WebhookServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, lines: Path) -> None:
        super().__init__(("127.0.0.1", port), WebhookRequest)
        self._lines = lines
        self._lock = threading.Lock()
        with lines.open("a+b") as written:
            if written.tell() and not _ends_with_newline(lines):
                written.write(b"\n")  # a line that SIGKILL cut short stays alone

    def note(self, request: dict[str, Any]) -> None:
        line = json.dumps(request, ensure_ascii=False).encode() + b"\n"
        with self._lock, self._lines.open("ab") as lines:
            lines.write(line)


class WebhookRequest(BaseHTTPRequestHandler):
    server: WebhookServer
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_POST(self) -> None:
        length = self.headers.get("content-length", "")
        if not length.isdecimal() or int(length) > LARGEST_REQUEST:
            self._answer(411 if not length else 413, close=True)
            return
        body = self.rfile.read(int(length))
        self.server.note({
            "received_at": datetime.now(UTC).isoformat(),
            "path": self.path,
            "headers": _joined(self.headers.items()),
            **_readable(body),
        })  # fmt: skip
        self._answer(self._wanted_status())

    do_PUT = do_PATCH = do_POST

    def do_GET(self) -> None:
        self._answer(200)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the file holds every request."""

    def _wanted_status(self) -> int:
        [status] = parse_qs(urlsplit(self.path).query).get("status", ["204"])[:1]
        return int(status) if status.isdecimal() and 200 <= int(status) <= 599 else 204

    def _answer(self, status: int, *, close: bool = False) -> None:
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", "0")
        if close:
            self.send_header("Connection", "close")
        self.end_headers()


def _readable(body: bytes) -> dict[str, str]:
    """The exact body as text; where it is not UTF-8, its bytes beside it."""
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body": body.decode(errors="replace"), "body_base64": base64.b64encode(body).decode()}


def _joined(headers: Any) -> dict[str, str]:
    """Names in lower case; a repeated one has its values joined by a comma."""
    joined: dict[str, str] = {}
    for name, value in headers:
        name = name.lower()
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as lines:
        lines.seek(-1, 2)
        return lines.read(1) == b"\n"
