"""What somebody who can write to RabbitMQ may put there."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pika

__all__ = ["ACTOR", "PROPERTIES", "Bomb", "bodies", "body", "fenced", "nasty"]

#: An actor that there is, and that nobody but the attacker calls.
ACTOR = "pay_out"

#: Headers and properties that RabbitMQ, or a reader who trusts them, might act upon.
PROPERTIES = [
    pika.BasicProperties(delivery_mode=2),
    pika.BasicProperties(delivery_mode=1, priority=255),
    pika.BasicProperties(content_encoding="gzip", content_type="application/x-python-serialize"),
    pika.BasicProperties(headers={"x-death": [{"queue": "x", "reason": "rejected", "count": 10**9}], "x-retries": -1}),
    pika.BasicProperties(headers={"x-delivery-count": 10**9, "x-acquired-count": 10**9, "x-delay": -1}),
    pika.BasicProperties(headers={"x-first-death-queue": "\x00", "CC": ["amq.direct"], "BCC": ["amq.fanout"]}),
    pika.BasicProperties(expiration="0", reply_to="amq.gen-x", correlation_id="x" * 255, timestamp=2**40),
]

_OPTIONS: list[dict[str, Any]] = [
    {"pipe_target": {"queue_name": "default", "actor_name": ACTOR, "args": [], "kwargs": {}, "options": {}}},
    {"on_success": ACTOR, "on_failure": ACTOR},
    {"group_callbacks": [{"actor_name": ACTOR}], "group_completion_uuid": "x"},
    {"on_retry_exhausted": ACTOR, "max_retries": {}},
    {"delay": 1, "eta": float("nan")},
    {"eta": -(10**18)},
    {"throws": ["builtins.BaseException"], "retry_when": "os.system"},
    {"outbox_fence": [], "outbox_queue": "x", "outbox_run": str(uuid4())},
    {"max_age": -1, "time_limit": -1, "min_backoff": "x", "redis_message_id": {}},
    {"__class__": "os.system", "\x00": "\ud800"},
]
_VALUES: list[Any] = [
    None, True, -1, 2**63, 10**40, 1e308, float("nan"), "", "\x00", "\ud800", "\x1b[2J", "x" * 5000, [], {}, [[]], {"": {}},
]  # fmt: skip
_FIELDS = ("queue_name", "actor_name", "args", "kwargs", "options", "message_id", "message_timestamp")


class Bomb:
    """Unpickled anywhere, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


def body(**fields: Any) -> bytes:
    """A message as another producer would send it, for the actor that is not to run; `...` leaves a field out."""
    whole: dict[str, Any] = {
        "queue_name": "default", "actor_name": ACTOR, "args": [], "kwargs": {}, "options": {},
        "message_id": str(uuid4()), "message_timestamp": 1,
    }  # fmt: skip
    return json.dumps({name: value for name, value in {**whole, **fields}.items() if value is not ...}).encode()


def fenced(**fields: Any) -> bytes:
    """The same with a fence, which can only be guessed."""
    options = {**fields.pop("options", {}), "outbox_fence": str(uuid4())}
    return body(**{"options": options, **fields})


def nasty(bomb: Path) -> Iterator[bytes]:
    """Each known trick once."""
    yield from (b"", b"\x00", b"\xff\xfe", b"null", b"[]", b"1", b'"x"', b"{", b"[" * 200_000, b'{"a":' * 50_000)
    yield pickle.dumps(Bomb(bomb))
    yield b'{"options":' + b"1" * 100_000 + b"}"
    yield body(args=["x" * 3_000_000])
    yield body(kwargs={"x": "y" * 1_500_000})
    yield from (body(**{name: value}) for name in _FIELDS for value in (..., *_VALUES))
    yield from (body(options=options) for options in _OPTIONS)
    yield from (fenced(options=options) for options in _OPTIONS)
    yield from (
        body(actor_name=name) for name in ("os.system", "actors.mail", "__class__", "dramatiq:Message", "pay_out ")
    )
    yield body(message_id=["x"], options={"outbox_fence": str(uuid4())})
    yield body(options={"outbox_fence": "{" + str(uuid4()) + "}" * 3})


def bodies(seed: int, number: int) -> Iterator[bytes]:
    """Drawn at random: noise, whole messages with some fields bent, and whole messages with some bytes bent."""
    dice = random.Random(seed)
    for _ in range(number):
        bent = {
            name: dice.choice([..., *_VALUES]) for name in dice.sample(_FIELDS[:4] + _FIELDS[5:], dice.randrange(4))
        }
        whole = dice.choice([body, fenced])(options=dice.choice([{}, *_OPTIONS]), **bent)
        if dice.random() < 0.3:
            at = dice.randrange(len(whole))
            whole = whole[:at] + dice.randbytes(dice.randrange(1, 4)) + whole[at + dice.randrange(3) :]
        yield dice.randbytes(dice.randrange(200)) if dice.random() < 0.1 else whole
