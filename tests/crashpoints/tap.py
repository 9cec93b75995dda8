"""A wire that understands enough of both protocols to kill its client at one statement or one frame.

A *point* is what the client sends to run something: to PostgreSQL a query (with everything up to its Sync), a start-up or
a termination; to RabbitMQ each frame. Its name says what it is, as the ledger calls it; its number, that it is the
n-th of this name. So new code has new points without anyone remembering.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit, urlunsplit

from pika import spec

import outbox.ledger

__all__ = ["AFTER", "BEFORE", "AmqpFrames", "PgQueries", "Point", "Tap", "Target", "changes_a_task", "named"]

BEFORE, AFTER = "before", "after"

#: Seconds to wait for an answer before the kill: a statement has one, most frames have none.
PATIENCE = {"postgresql": 2.0, "amqp": 0.05}


class Point(NamedTuple):
    """The n-th time, from 1, that the process sends this."""

    name: str
    number: int


class Target(NamedTuple):
    """Where to kill: before the bytes are passed on, or after they took effect and before their answer comes."""

    point: Point
    side: str


class Units(Protocol):
    """Cuts what a client sends into whole units, each with its name; None for what runs nothing."""

    def feed(self, taken: bytes) -> Iterator[tuple[bytes, str | None]]: ...


# ---------------------------------------------------------------------- names


def _plain(sql: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"%\(\w+\)s|\$\d+", "?", sql).replace("%%", "%")).strip()


_LEDGER = {_plain(text): name for name, text in vars(outbox.ledger).items() if name.isupper() and isinstance(text, str)}


def named(sql: str) -> str:
    """The ledger's name of a statement, or how it begins."""
    plain = _plain(sql)
    return _LEDGER.get(plain, re.sub(r"'[^']*'|\b\d+\b|[0-9a-f-]{36}", "?", plain)[:60])


_CHANGING = {
    name for sql, name in _LEDGER.items() if re.search(r"(insert into|update|delete from) outbox\.task\b", sql)
}


def changes_a_task(name: str) -> bool:
    """Whether a point of this name is a statement, or the COMMIT of one, that writes to the table of tasks."""
    return not _CHANGING.isdisjoint(re.findall(r"[A-Z_]{4,}", name))


# ---------------------------------------------------------------------- PostgreSQL

#: Requests before the start-up, by their code. A tap answers the first two itself: not here.
WORDLESS, CANCEL = {80877103: "ssl", 80877104: "gss"}, 80877102


class PgQueries:
    """The client's side of PostgreSQL's protocol 3."""

    def __init__(self) -> None:
        self._rest = b""
        self._started = False
        self._who = ""
        self._prepared: dict[bytes, str] = {}
        self._unit: list[bytes] = []
        self._said: list[str] = []
        self._before = "nothing"

    def feed(self, taken: bytes) -> Iterator[tuple[bytes, str | None]]:
        self._rest += taken
        while (message := self._next()) is not None:
            yield from self._start(message) if not self._started else self._hear(message)

    def _next(self) -> bytes | None:
        first = 0 if not self._started else 1
        if len(self._rest) < first + 4:
            return None
        length = first + int(struct.unpack_from("!I", self._rest, first)[0])
        if len(self._rest) < length:
            return None
        message, self._rest = self._rest[:length], self._rest[length:]
        return message

    def _start(self, message: bytes) -> Iterator[tuple[bytes, str | None]]:
        code = struct.unpack_from("!I", message, 4)[0]
        if code in WORDLESS:
            yield message, WORDLESS[code]
            return
        if code != CANCEL:
            self._started = True
            words = message[8:].split(b"\0")
            said = dict(zip(words[::2], words[1::2], strict=False))
            self._who = said.get(b"application_name", b"").decode() or "unnamed"
        yield message, self._name("cancel" if code == CANCEL else "start-up")

    def _hear(self, message: bytes) -> Iterator[tuple[bytes, str | None]]:
        kind, body = message[:1], message[5:]
        self._unit.append(message)
        if kind == b"Q":
            self._said.append(named(body[:-1].decode()))
        elif kind == b"P":
            name, sql, _ = body.split(b"\0", 2)
            self._prepared[name] = named(sql.decode())
        elif kind == b"B":
            self._said.append(self._prepared.get(body.split(b"\0", 2)[1], "unknown"))
        if kind in (b"Q", b"S"):
            yield self._whole(" + ".join(self._said) or "sync")
        elif kind == b"X":
            yield self._whole("terminate")
        elif kind == b"p":
            yield self._whole(None)

    def _whole(self, name: str | None) -> tuple[bytes, str | None]:
        unit, self._unit, self._said = b"".join(self._unit), [], []
        if name and name.upper() == "COMMIT":
            name = f"COMMIT after {self._before}"
        self._before = name or self._before
        return unit, name and self._name(name)

    def _name(self, what: str) -> str:
        return f"{self._who}: {what}" if self._who else what


class PgAnswers:
    """The server's side: when a query has its whole answer."""

    def __init__(self) -> None:
        self._rest = b""

    def answers(self, taken: bytes) -> int:
        """How many answers ended with these bytes."""
        self._rest += taken
        ended = 0
        while len(self._rest) >= 5 and len(self._rest) >= (length := 1 + struct.unpack_from("!I", self._rest, 1)[0]):
            ended += self._rest[:1] == b"Z"
            self._rest = self._rest[length:]
        return ended


# ---------------------------------------------------------------------- AMQP

FRAMES = {2: "header", 3: "body", 8: "heartbeat"}


class AmqpFrames:
    """The client's side of AMQP 0-9-1: a header of eight bytes, then frames."""

    def __init__(self) -> None:
        self._rest = b""
        self._began = False
        self._method = ""

    def feed(self, taken: bytes) -> Iterator[tuple[bytes, str | None]]:
        self._rest += taken
        while (frame := self._next()) is not None:
            yield frame, self._named(frame)
            self._began = True

    def _next(self) -> bytes | None:
        if len(self._rest) < 8:
            return None
        length = 8 if not self._began else 8 + int(struct.unpack_from("!I", self._rest, 3)[0])
        if len(self._rest) < length:
            return None
        frame, self._rest = self._rest[:length], self._rest[length:]
        return frame

    def _named(self, frame: bytes) -> str | None:
        if not self._began:
            return "amqp: protocol header"
        if frame[0] == 1:
            self._method = spec.methods[struct.unpack_from("!I", frame, 7)[0]].NAME
            return f"amqp: {self._method}"
        kind = FRAMES[frame[0]]
        return None if kind == "heartbeat" else f"amqp: {self._method}/{kind}"


class AnyAnswer:
    def answers(self, taken: bytes) -> int:
        return 1


# ---------------------------------------------------------------------- the wire


@dataclass(eq=False)
class _Pair:
    client: socket.socket
    server: socket.socket
    units: Units
    answers: PgAnswers | AnyAnswer
    patience: float
    withheld: bool = False
    answered: threading.Event = field(default_factory=threading.Event)


class Tap:
    """Proxies on loopback in front of both servers, for one process. Kills it at its target, once; notes every point."""

    def __init__(self, database_url: str, rabbitmq_url: str, target: Target | None = None) -> None:
        self.target = target
        self.points: list[Point] = []
        self.struck = threading.Event()
        self.pid: int | None = None
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._listeners: list[socket.socket] = []
        self._pairs: list[_Pair] = []
        self.database_url = self._listen(database_url, "postgresql")
        self.rabbitmq_url = self._listen(rabbitmq_url, "amqp")

    def close(self) -> None:
        for listener in self._listeners:
            listener.close()
        for pair in self._pairs:
            _end(pair)

    def _listen(self, url: str, kind: str) -> str:
        parts = urlsplit(url)
        listener = socket.create_server(("127.0.0.1", 0))
        self._listeners.append(listener)
        there = (parts.hostname or "", parts.port or 0)
        threading.Thread(target=self._accept, args=(listener, there, kind), name="tap", daemon=True).start()
        login = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{listener.getsockname()[1]}"))

    def _accept(self, listener: socket.socket, there: tuple[str, int], kind: str) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                units: Units = PgQueries() if kind == "postgresql" else AmqpFrames()
                answers = PgAnswers() if kind == "postgresql" else AnyAnswer()
                pair = _Pair(client, socket.create_connection(there), units, answers, PATIENCE[kind])
                for side in (pair.client, pair.server):
                    side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._pairs.append(pair)
                for pump in (self._to_server, self._to_client):
                    threading.Thread(target=pump, args=(pair,), name="tap", daemon=True).start()

    def _to_server(self, pair: _Pair) -> None:
        with contextlib.suppress(OSError):
            while taken := pair.client.recv(65_536):
                for unit, name in pair.units.feed(taken):
                    self._pass_on(pair, unit, name)
        _end(pair)

    def _pass_on(self, pair: _Pair, unit: bytes, name: str | None) -> None:
        if name in WORDLESS.values():
            pair.client.sendall(b"N")
        elif name is None or self.struck.is_set() or not self._is_target(name):
            pair.server.sendall(unit)
        else:
            self._strike(pair, unit)

    def _is_target(self, name: str) -> bool:
        with self._lock:
            self._counts[name] += 1
            point = Point(name, self._counts[name])
            self.points.append(point)
        return self.target is not None and self.target.point == point

    def _strike(self, pair: _Pair, unit: bytes) -> None:
        assert self.target is not None
        assert self.pid is not None
        if self.target.side == AFTER:
            pair.withheld = True
            pair.server.sendall(unit)
            pair.answered.wait(pair.patience)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.struck.set()
        raise ConnectionAbortedError

    def _to_client(self, pair: _Pair) -> None:
        with contextlib.suppress(OSError):
            while taken := pair.server.recv(65_536):
                ended = pair.answers.answers(taken)
                if not pair.withheld:
                    pair.client.sendall(taken)
                elif ended:
                    pair.answered.set()
        pair.answered.set()  # a goodbye has no other answer
        _end(pair)


def _end(pair: _Pair) -> None:
    for side in (pair.client, pair.server):
        with contextlib.suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)
        side.close()
