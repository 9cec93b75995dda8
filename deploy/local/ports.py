"""Loopback ports that nothing else is handed: a restarted server must get its port back."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from functools import cache
from pathlib import Path

EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
# Linux hands out 32768-60999 and macOS 49152-65535 to outgoing connections, unless told otherwise.
CANDIDATES = (range(20000, 30000), range(10000, 20000), range(61000, 65500))
# Several runs choose at the same time, and a test run seeds `random` with the same number in each of its processes.
CHOICE = random.SystemRandom()
_chosen: set[int] = set()


def free_ports(count: int) -> list[int]:
    """`count` ports that this process was not handed before and no other process claims, outside the ephemeral range
    where one of the candidate ranges is."""
    candidates = [port for port in _outside_ephemeral() if port not in _chosen]
    CHOICE.shuffle(candidates)
    chosen: list[int] = []
    for port in candidates:
        if claim(port):
            chosen.append(port)
        if len(chosen) == count:
            _chosen.update(chosen)
            return chosen
    raise OSError(f"no {count} free ports on 127.0.0.1")


def claim(port: int) -> bool:
    """Whether a server could listen there now; True keeps the port from the `free_ports` of every other process of
    this account until this one ends, as some seconds go by before a server listens."""
    try:
        fcntl.lockf(_claims(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return _is_free(port)


def _is_free(port: int) -> bool:
    """Whether a server could listen there now (connections of an earlier one in TIME_WAIT do not matter)."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _outside_ephemeral() -> list[int]:
    first, last = _ephemeral()
    for candidates in CANDIDATES:
        outside = [port for port in candidates if not first <= port <= last]
        if len(outside) > 100:
            return outside
    return list(CANDIDATES[0])


def _ephemeral() -> tuple[int, int]:
    try:
        first, last = EPHEMERAL_RANGE.read_text().split()
    except (OSError, ValueError):
        return 32768, 65535
    return int(first), int(last)


@cache
def _claims() -> int:
    """A file of which a claim locks the byte at the port's number; it stays open, as closing it would lift all."""
    path = Path(tempfile.gettempdir()) / f"outbox-ports-{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
