"""The health server: what each path answers, and that nobody can hold the process up through it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest
from awaiting import await_that
from prometheus_client import Counter

from outbox.errors import ConfigurationError
from outbox.health import Health


class Self:
    """A process of which a test says how it feels."""

    def __init__(self) -> None:
        self.live = self.ready = True
        self.health = Health("127.0.0.1", 0, lambda: self.live, lambda: self.ready)

    def get(self, path: str, method: str = "GET") -> tuple[int, bytes, str | None]:
        conn = HTTPConnection("127.0.0.1", self.health.port, timeout=5)
        try:
            conn.request(method, path)
            answer = conn.getresponse()
            return answer.status, answer.read(), answer.getheader("Content-Type")
        finally:
            conn.close()


@pytest.fixture
def me() -> Iterator[Self]:
    me = Self()
    me.health.start()
    yield me
    me.health.stop()


def test_a_process_that_is_well_answers_200(me: Self) -> None:
    assert me.get("/livez") == (200, b'{"live": true}', "application/json")
    assert me.get("/readyz?verbose=1") == (200, b'{"ready": true}', "application/json")


def test_a_process_that_is_not_ready_answers_503_and_lives_on(me: Self) -> None:
    me.ready = False
    assert me.get("/readyz")[:2] == (503, b'{"ready": false}')
    assert me.get("/livez")[0] == 200
    me.ready, me.live = True, False
    assert me.get("/livez")[:2] == (503, b'{"live": false}')


def test_a_check_that_raises_means_no() -> None:
    def broken() -> bool:
        raise RuntimeError("no database")

    me = Self()
    me.health = Health("127.0.0.1", 0, broken, broken)
    me.health.start()
    try:
        assert me.get("/livez")[:2] == (503, b'{"live": false}')
        assert me.get("/readyz")[:2] == (503, b'{"ready": false}')
    finally:
        me.health.stop()


def test_metrics_are_those_of_the_default_registry(me: Self) -> None:
    Counter("outbox_health_test", "a counter of this test").inc(3)
    status, body, kind = me.get("/metrics")
    assert status == 200
    assert kind is not None
    assert kind.startswith("text/plain")
    assert b"outbox_health_test_total 3.0" in body


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/", 404), ("POST", "/livez", 501)])
def test_what_is_not_served_is_refused_in_json(me: Self, method: str, path: str, status: int) -> None:
    got, body, kind = me.get(path, method)
    assert (got, kind) == (status, "application/json")
    assert "error" in json.loads(body)


def test_garbage_is_refused_and_the_next_request_is_answered(me: Self) -> None:
    with socket.create_connection(("127.0.0.1", me.health.port or 0), timeout=5) as raw:
        raw.sendall(b"\x00\xff\xfe nonsense\r\n\r\n")
        raw.recv(1000)
    assert me.get("/livez")[0] == 200


def test_a_crowd_of_silent_callers_takes_no_more_than_its_share_of_threads(me: Self) -> None:
    before = threading.active_count()
    crowd = [socket.create_connection(("127.0.0.1", me.health.port or 0), timeout=20) for _ in range(60)]
    try:
        for late in crowd[-10:]:
            assert late.recv(1) == b"", "beyond the share: disconnected at once"
        assert threading.active_count() <= before + 16
    finally:
        for each in crowd:
            each.close()
    await_that(lambda: _answers(me))  # once the crowd is gone


def test_a_slow_check_delays_neither_other_requests_nor_the_end() -> None:
    asked, release = threading.Event(), threading.Event()

    def slow() -> bool:
        asked.set()
        return release.wait(30)

    me = Self()
    me.health = Health("127.0.0.1", 0, lambda: True, slow)
    me.health.start()
    with socket.create_connection(("127.0.0.1", me.health.port or 0), timeout=5) as waiting:
        waiting.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
        assert asked.wait(5)
        assert me.get("/livez")[0] == 200
        began = time.monotonic()
        me.health.stop()
        assert time.monotonic() - began < 2
        release.set()


def test_without_a_port_nothing_listens() -> None:
    health = Health("127.0.0.1", None, lambda: True, lambda: True)
    health.start()
    assert health.port is None
    health.stop()


def test_a_port_that_is_taken_is_named(me: Self) -> None:
    second = Health("127.0.0.1", me.health.port, lambda: True, lambda: True)
    with pytest.raises(ConfigurationError, match=f"health_port: cannot listen on 127.0.0.1:{me.health.port}"):
        second.start()


def test_stop_frees_the_port_and_can_be_repeated(me: Self) -> None:
    port = me.health.port
    me.health.stop()
    me.health.stop()
    again = Health("127.0.0.1", port, lambda: True, lambda: True)
    again.start()
    again.stop()


def test_processes_with_one_setting_listen_side_by_side_each_on_a_port_of_its_own(me: Self) -> None:
    others = [Health("127.0.0.1", me.health.port, lambda: True, lambda: True) for _ in range(2)]
    try:
        for other in others:
            other.start_beside_others()
        ports = {me.health.port, *(other.port for other in others)}
        assert len(ports) == 3
        assert max(ports) - min(ports) < 64
    finally:
        for other in others:
            other.stop()


def _answers(me: Self) -> bool:
    try:
        return me.get("/livez")[0] == 200
    except OSError:
        return False
