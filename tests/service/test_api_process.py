"""The API as a process: configured by its environment, ended by SIGTERM, unmoved by clients that leave."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import psycopg
import pytest
from api_process import Api, environment
from service_eyes import ADMIN, SECRET_KEY, Database, problem_of
from typer.testing import CliRunner

from actors import outside
from service.__main__ import cli, main

SIGNUP = {"email": "ada@example.org", "name": "Ada"}


@pytest.fixture
def api(service_url: str, database: Database) -> Iterator[Api]:
    api = Api(service_url)
    yield api
    api.end()


@pytest.fixture(scope="module")
def whole(service_url: str) -> Iterator[Api]:
    """One for all tests that it is to survive."""
    api = Api(service_url)
    yield api
    api.end()


def test_sigterm_finishes_what_runs_and_exits_0(api: Api, database: Database) -> None:
    assert api.client.get("/readyz").status_code == 200
    with psycopg.connect(database.url) as holder, ThreadPoolExecutor(1) as thread:
        holder.execute("insert into app.user (id, email, name) values (gen_random_uuid(), 'ada@example.org', 'x')")
        answer = thread.submit(api.client.post, "/v1/signups", json=SIGNUP)
        blocked = (
            "select count(*) as n from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        )
        while not database.one(blocked)["n"]:
            assert not answer.done()
        api.process.send_signal(signal.SIGTERM)
        next(line for line in api.log if "Shutting down" in line)
        holder.rollback()
        assert answer.result().status_code == 201
    assert api.process.wait(timeout=20) == 0
    assert database.rows()["app.user"] == 1


def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_nothing(api: Api, database: Database) -> None:
    with socket.create_connection(("127.0.0.1", api.port)) as client:
        client.sendall(
            f"POST /v1/signups HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN}\r\nContent-Type: application/json\r\n"
            'Content-Length: 100\r\n\r\n{"email": '.encode()
        )
    line = json.loads(next(line for line in api.log if "answered" in line))
    assert (line["route"], line["status"]) == ("/v1/signups", 400)
    assert not any(database.rows().values())
    assert api.client.post("/v1/signups", json=SIGNUP).status_code == 201


def test_what_a_client_that_left_asked_for_is_kept_whole(api: Api, database: Database) -> None:
    """It left before the answer: its request was complete, so it is carried out, and a repeat learns of it."""
    body = json.dumps(SIGNUP)
    with psycopg.connect(database.url) as holder:
        holder.execute("insert into app.user (id, email, name) values (gen_random_uuid(), 'ada@example.org', 'x')")
        with socket.create_connection(("127.0.0.1", api.port)) as client:
            client.sendall(
                f"POST /v1/signups HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN}\r\nIdempotency-Key: k\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            blocked = "select count(*) as n from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
            while not database.one(blocked)["n"]:
                pass
        holder.rollback()
    repeat = api.client.post(
        "/v1/signups", content=body, headers={"Idempotency-Key": "k", "Content-Type": "application/json"}
    )
    assert (repeat.status_code, repeat.headers["idempotency-replayed"]) == (201, "true")
    rows = database.rows()
    assert (rows["app.user"], rows["outbox.task"]) == (1, 1)


@pytest.mark.parametrize(
    "sent",
    [
        b"zq7marker\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nzq7marker\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ],
    ids=lambda sent: repr(sent[:32]),
)
def test_what_is_not_http_is_answered_with_a_problem_and_ended(whole: Api, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", whole.port), timeout=30) as client:
        client.sendall(sent)
        answer = http.client.HTTPResponse(client)
        answer.begin()
        content = json.loads(answer.read())
        assert client.recv(1) == b""
    problem_of(httpx2.Response(answer.status, headers=answer.getheaders(), json=content))
    assert (answer.status, content["type"]) == (400, "/problems/bad-request")
    assert answer.getheader("Connection") == "close"
    assert (answer.getheader("X-Content-Type-Options"), answer.getheader("Cache-Control")) == ("nosniff", "no-store")
    assert "zq7marker" not in str(content)
    assert whole.client.get("/livez").status_code == 200


def test_a_body_that_stops_being_http_is_answered_with_a_problem(whole: Api, database: Database) -> None:
    with socket.create_connection(("127.0.0.1", whole.port), timeout=30) as client:
        client.sendall(
            f"POST /v1/signups HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN}\r\n"
            "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n".encode()
        )
        answer = http.client.HTTPResponse(client)
        answer.begin()
        assert (answer.status, answer.getheader("Content-Type")) == (400, "application/problem+json")
    assert not any(database.rows().values())


@pytest.mark.parametrize("body", ["Content-Length: 1000000000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("key", ["", "Authorization: Bearer of-nobody\r\n"])
def test_who_has_no_key_is_answered_before_a_body_is_sent(whole: Api, key: str, body: str) -> None:
    with socket.create_connection(("127.0.0.1", whole.port), timeout=30) as client:
        head = (
            f"POST /v1/events HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Type: x/y\r\n{key}{body}\r\n\r\n"
        )
        client.sendall(head.encode())
        assert client.recv(12) == b"HTTP/1.1 401"


@pytest.mark.parametrize(
    "words", [["list"], ["create", "--name", "ci"], ["revoke", "00000000-0000-0000-0000-000000000000"]]
)
def test_keys_say_what_to_do_in_a_database_that_is_not_migrated(
    empty_database_url: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    monkeypatch.setattr(sys, "argv", ["service", "keys", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    assert ended.value.code == 3
    assert "`outbox db upgrade`" in told.err
    assert told.out == ""


def test_logs_are_structured_and_hold_no_secret(api: Api) -> None:
    api.client.post("/v1/signups", json=SIGNUP)
    api.client.get("/nowhere?key=zq7marker")
    api.process.send_signal(signal.SIGTERM)
    said = list(api.log)
    assert api.process.wait(timeout=20) == 0
    lines = [json.loads(line) for line in said]
    answered = [line for line in lines if line["event"] == "answered"]
    assert [(line["route"], line["status"]) for line in answered] == [("/v1/signups", 201), ("unmatched", 404)]
    assert all(line["request_id"] and line["timestamp"] for line in answered)
    for secret in (ADMIN, SECRET_KEY, "ada@example.org", "zq7marker"):
        assert secret not in "".join(said)


def test_plain_uvicorn_logs_as_structured_as_our_own_entry(
    service_url: str, database: Database, request: pytest.FixtureRequest
) -> None:
    api = Api(service_url, "uvicorn", "service.app:app")
    request.addfinalizer(api.end)
    api.client.post("/v1/signups", json=SIGNUP, headers={"X-Request-ID": "r1"})
    api.process.send_signal(signal.SIGTERM)
    lines = [json.loads(line) for line in api.log]
    answered = [line for line in lines if line.get("request_id") == "r1"]
    assert [(line["event"], line["route"], line["status"]) for line in answered] == [("answered", "/v1/signups", 201)]
    assert any(line["event"] == "Shutting down" for line in lines)


def test_the_help_tells_the_exit_codes() -> None:
    for words in (["--help"], ["keys", "--help"]):
        told = CliRunner().invoke(cli, words)
        assert "3 the database cannot be used" in " ".join(told.stdout.split())


def test_help_lists_the_variables() -> None:
    told = CliRunner().invoke(cli, ["api", "--help"])
    assert told.exit_code == 0
    for name in ("DATABASE_URL", "SECRET_KEY", "MAIL_FROM", "API_HOST", "API_PORT", "SERVICE_BOOTSTRAP_API_KEY"):
        assert name in told.stdout


@pytest.mark.parametrize(
    ("name", "value"),
    [("SECRET_KEY", "shrt"), ("MAIL_FROM", "nobody"), ("API_PORT", "99999"), ("SERVICE_BOOTSTRAP_API_KEY", "x-y-z")],
)
def test_a_setting_that_makes_no_sense_is_named_at_the_start(service_url: str, name: str, value: str) -> None:
    outside.forget()
    told = CliRunner().invoke(cli, ["api"], env=environment(service_url, **{name: value}))
    outside.forget()
    assert told.exit_code == 2
    assert name in told.stderr
    assert value not in told.output


def test_the_import_opens_no_connection() -> None:
    program = "import socket; socket.socket.connect = None; import service.app; service.app.app"
    told = subprocess.run(
        [sys.executable, "-c", program],
        env=environment("postgresql://nobody@127.0.0.1:1/nothing"),
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
