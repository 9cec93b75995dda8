"""The wire outlives the server that it leads to."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.wire import Wire


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def _url(server: socket.socket) -> str:
    return f"tcp://127.0.0.1:{server.getsockname()[1]}"


def _connect(wire: Wire) -> socket.socket:
    at = urlsplit(wire.url)
    return socket.create_connection((at.hostname, at.port), timeout=10)


def test_a_client_of_a_dead_server_is_hung_up_on_and_the_next_one_reaches_its_successor(server: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as dead:
        wire = Wire(_url(dead))
    try:
        with _connect(wire) as refused:
            assert refused.recv(1) == b""
        wire.lead_to(_url(server))
        with _connect(wire) as client:
            reached, _ = server.accept()
            with reached:
                client.sendall(b"x")
                assert reached.recv(1) == b"x"
    finally:
        wire.close()
