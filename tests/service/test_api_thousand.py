"""A thousand requests with one Idempotency-Key, at once, to a process as it is deployed: one is carried out."""

from __future__ import annotations

import asyncio
import json
import resource
from collections import Counter, deque
from threading import Thread
from typing import Any, NamedTuple

import pytest
from api_process import Api
from service_eyes import GOOD, Database, settings_for
from sqlalchemy.orm import Session

from service import keys
from service.database import engine_for

EQUAL, OTHER = 1_000, 100
#: Fewer files than connections: the process has to ask for more.
CONNECTIONS, FILES = 200, 128

BODIES = {
    "/v1/events": ({"type": "a.b", "data": {"n": 1}}, {"type": "a.b", "data": {"n": 2}}, "app.event"),
    "/v1/orders": (
        {name: value for name, value in GOOD["/v1/orders"].items() if name != "client_id"},
        {**GOOD["/v1/orders"], "client_id": "another"},
        "app.order",
    ),
}


class Answer(NamedTuple):
    status: int
    replayed: bool
    content: bytes


@pytest.fixture(scope="module")
def api(service_url: str, surroundings: None) -> Any:
    api = Api(service_url, files=FILES)
    reader = Thread(target=deque, args=(api.log, 0))  # a pipe that nobody reads would stop it
    reader.start()
    yield api
    api.process.kill()
    reader.join()
    api.end()


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="another process's limit is told by Linux alone")
def test_the_process_asks_for_as_many_open_files_as_it_may_have(api: Api) -> None:
    soft, hard = resource.prlimit(api.process.pid, resource.RLIMIT_NOFILE)
    assert soft > CONNECTIONS or soft == hard


@pytest.mark.parametrize(
    "path", [pytest.param(path, marks=[] if path == "/v1/orders" else pytest.mark.long) for path in BODIES]
)
def test_a_thousand_equal_requests_at_once_make_one_row_and_one_answer(api: Api, database: Database, path: str) -> None:
    """Among them are some with another body: whichever body came first has the key, the other one is refused."""
    equal, other, table = BODIES[path]
    bodies = [other if n % 11 == 5 else equal for n in range(EQUAL + OTHER)]
    answers = asyncio.run(all_at_once(api.port, path, bodies, key=writer(database)))
    (first,) = (n for n, answer in enumerate(answers) if answer.status < 300 and not answer.replayed)
    same = [answer for body, answer in zip(bodies, answers, strict=True) if body is bodies[first]]
    rest = [answer for body, answer in zip(bodies, answers, strict=True) if body is not bodies[first]]
    assert sorted([len(same), len(rest)]) == [OTHER, EQUAL]
    assert Counter(answer.replayed for answer in same) == {True: len(same) - 1, False: 1}
    assert {answer.content for answer in same} == {answers[first].content}
    assert {answer.status for answer in same} == {answers[first].status}
    assert {(answer.status, json.loads(answer.content)["type"]) for answer in rest} == {(422, "/problems/key-reused")}
    rows = database.rows()
    assert (rows[table], rows["app.idempotency_key"]) == (1, 1)
    assert rows["outbox.task"] == len(json.loads(answers[first].content)["task_ids"])


def writer(database: Database) -> str:
    engine = engine_for(settings_for(database.url))
    with Session(engine) as session, session.begin():
        secret = keys.create(session, name="a writer", role="writer").secret
    engine.dispose()
    return secret


async def all_at_once(port: int, path: str, bodies: list[Any], *, key: str) -> list[Answer]:
    """As many at a time as there are connections; a new one begins when another has ended."""
    room = asyncio.Semaphore(CONNECTIONS)

    async def one(body: Any) -> Answer:
        async with room:
            return await post(port, path, json.dumps(body).encode(), key=key)

    return await asyncio.gather(*map(one, bodies))


async def post(port: int, path: str, body: bytes, *, key: str) -> Answer:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nIdempotency-Key: the-one\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
        + body
    )
    head, _, content = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return Answer(int(head.split()[1]), b"idempotency-replayed: true" in head.lower(), content)
