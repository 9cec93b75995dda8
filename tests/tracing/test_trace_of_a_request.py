"""One trace id from an HTTP request to the mail server and the endpoint, through real processes that configure themselves."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from awaiting import await_that
from fastapi.testclient import TestClient
from span_eyes import Spans, id_of, trace_of

from actors import outside
from deploy.local.place import ROOT
from service.app import create_app
from service.settings import Settings
from tests.actors.far_http import endpoint, headers_of, read_request, status
from tests.actors.far_smtp import mailroom

pytestmark = pytest.mark.system

Told = dict[str, Any]
#: Spans leave a process at its end, not before: what is found was flushed by SIGTERM.
TRACED = {"OTEL_TRACES_EXPORTER": "console", "OTEL_BSP_SCHEDULE_DELAY": "600000"}
ADMIN = "an-admin-key-of-the-tests"


class Processes:
    """`outbox` processes of one test, and the spans that they wrote when they ended."""

    def __init__(self, place: Path, environment: dict[str, str]) -> None:
        self._place = place
        self._environment = environment
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *words: str) -> None:
        out, log = (self._place / f"{words[0]}.{kind}" for kind in ("out", "log"))
        with out.open("wb") as stdout, log.open("wb") as stderr:
            self._started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "outbox.cli", *words],
                    cwd=ROOT, env={**os.environ, **self._environment}, stdout=stdout, stderr=stderr,
                )
            )  # fmt: skip

    def end(self) -> dict[str, list[Told]]:
        """SIGTERM to each; then the spans by their names, the earliest first."""
        for process in self._started:
            process.send_signal(signal.SIGTERM)
        assert [process.wait(30) for process in self._started] == [0 for _ in self._started]
        found: dict[str, list[Told]] = {}
        for out in self._place.glob("*.out"):
            for span in sorted(documents(out.read_text()), key=lambda span: str(span["start_time"])):
                found.setdefault(span["name"], []).append(span)
        return found

    def tell(self, *words: str) -> str:
        """What a command of the command line answers."""
        command, ours = [sys.executable, "-m", "outbox.cli", *words], {**os.environ, **self._environment}
        return subprocess.run(command, cwd=ROOT, env=ours, capture_output=True, text=True, check=True).stdout

    def kill(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()


@pytest.fixture
def processes(database_url: str, amqp_url: str, queue_prefix: str, tmp_path: Path) -> Iterator[Processes]:
    ours = {
        "DATABASE_URL": database_url, "RABBITMQ_URL": amqp_url, "OUTBOX_QUEUE_PREFIX": queue_prefix, "OUTBOX_APP": "actors",
        "OUTBOX_TRACE_URL": "https://traces.example.com/{trace_id}", **TRACED,
    }  # fmt: skip
    processes = Processes(tmp_path, ours)
    yield processes
    processes.kill()
    for log in tmp_path.glob("*.log"):
        print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}")


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """What the API and the actors read from the environment."""

    def set_them(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        outside.forget()

    set_them(SECRET_KEY="a secret key of at least 32 characters", WEBHOOK_ALLOWED_NETWORKS="127.0.0.0/8")
    yield set_them
    monkeypatch.undo()
    outside.forget()


def documents(text: str) -> list[Told]:
    decoder, found = json.JSONDecoder(), []
    while text := text.lstrip():
        span, end = decoder.raw_decode(text)
        found.append(span)
        text = text[end:]
    return found


def test_one_trace_from_the_request_to_the_mail_server_and_the_endpoint_with_a_span_for_each_attempt(
    spans: Spans, processes: Processes, surroundings: Callable[..., None], database_url: str
) -> None:
    answers, seen = [status(503), status(200)], list[bytes]()

    def answer(stream: socket.socket) -> None:
        seen.append(read_request(stream))
        stream.sendall(answers[len(seen) - 1])

    settings = Settings(database_url=database_url, bootstrap_key=ADMIN)
    with mailroom() as (room, port), endpoint(answer) as far, psycopg.connect(database_url, autocommit=True) as eyes:
        surroundings(SMTP_URL=f"smtp://127.0.0.1:{port}")
        processes.start("relay")
        processes.start("worker", "--threads", "2")
        with TestClient(create_app(settings), headers={"Authorization": f"Bearer {ADMIN}"}) as api:
            url = f"http://127.0.0.1:{far.port}/a-secret-path"
            api.post("/v1/endpoints", json={"url": url, "event_types": ["*"]}).raise_for_status()
            with spans.tracer.start_as_current_span("browser") as browser:
                context = browser.get_span_context()
                caller = {"traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-01"}
            signup = {"email": "ada@example.org", "name": "Ada"}
            (mail,) = api.post("/v1/signups", json=signup, headers=caller).json()["task_ids"]
            event = {"type": "a.b", "data": {}, "client_id": "c-1"}
            api.post("/v1/events", json=event, headers=caller).raise_for_status()
            await_that(lambda: seen, timedelta(seconds=60))

            def both_ended() -> bool:
                eyes.execute(
                    "update outbox.task set due_at = clock_timestamp() where failures > 0 and state = 'scheduled'"
                )
                return eyes.execute("select count(*) from outbox.history").fetchone() == (2,)

            await_that(both_ended, timedelta(seconds=60))
            shown = api.get(f"/v1/tasks/{mail}").json()
        told = processes.end()
    assert shown["trace_id"] == f"{context.trace_id:032x}"
    assert f"page\thttps://traces.example.com/{context.trace_id:032x}\n" in processes.tell("tasks", "show", mail)
    assert len(room.envelopes) == 1

    requests = {each.name: each for each in spans.exporter.get_finished_spans()}
    endpoints = {id_of(each): each for each in spans.named("fastapi.endpoint")}
    for route, actor in (("POST /v1/signups", "send_mail"), ("POST /v1/events", "deliver_webhook")):
        attempts = told[f"{actor} process"]
        ours = {int(each["parent_id"], 16) for each in attempts}
        assert len(ours) == 1, "attempts are siblings"
        above = endpoints[ours.pop()]
        while above.parent is not None and above.name != route:
            (above,) = [each for each in spans.exporter.get_finished_spans() if id_of(each) == above.parent.span_id]
        assert above is requests[route]
        assert above.parent is not None
        assert above.parent.span_id == context.span_id
        assert {each["context"]["trace_id"] for each in attempts} == {f"0x{trace_of(above)}"}

    (smtp,), (sent,) = told["smtp send"], told["send_mail process"]
    assert smtp["parent_id"] == sent["context"]["span_id"]
    assert smtp["kind"] == "SpanKind.CLIENT"
    assert smtp["attributes"] == {
        "network.protocol.name": "smtp", "server.address": "127.0.0.1", "server.port": port, "smtp.phase": "dot",
        "smtp.reply_code": 250,
    }  # fmt: skip

    first, second = told["deliver_webhook process"]
    assert [each["attributes"]["outbox.outcome"] for each in (first, second)] == ["failed", "succeeded"]
    assert [each["status"]["status_code"] for each in (first, second)] == ["ERROR", "UNSET"]
    posts = told["POST"]
    assert [each["parent_id"] for each in posts] == [each["context"]["span_id"] for each in (first, second)]
    assert [each["attributes"]["http.response.status_code"] for each in posts] == [503, 200]
    assert posts[0]["attributes"]["error.type"] == "503"
    assert "a-secret-path" not in json.dumps(told)
    assert [headers_of(each).get("traceparent") for each in seen] == [None, None]

    assert len(told["outbox publish"]) == 3
    whole = {f"0x{context.trace_id:032x}"}
    assert {each["context"]["trace_id"] for name in told for each in told[name]} == whole
    names = {each["resource"]["attributes"]["service.name"] for each in (smtp, *told["outbox publish"])}
    assert names == {"outbox-worker", "outbox-relay"}
